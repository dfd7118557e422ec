// Package door holds the key to the addresses of shared memory.
//
// Package shm never hands its users an address. Platform code that must give one to the kernel (an ioctl's argument, a hypercall's
// buffer) asks for it with a Key, which only this module can name, since the package is internal.
package door

// Key is what shm.Region.Address asks for.
type Key struct{ _ struct{} }
