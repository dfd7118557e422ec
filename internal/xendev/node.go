package xendev

import "github.com/hvkit/hvkit/shm"

// The names of the devices, under /dev/xen.
const (
	DevEvtchn    = "evtchn"
	DevGntalloc  = "gntalloc"
	DevGntdev    = "gntdev"
	DevPrivcmd   = "privcmd"
	DevHypercall = "hypercall" // memory for hypercalls to point at

	DevXenbusBackend = "xenbus_backend" // of a control domain: the ring page of its kernel's Xenstore client
)

// Node is an open device. It is safe for concurrent use. What the kernel refuses is a [syscall.Errno], perhaps wrapped.
type Node interface {
	// Ioctl makes a request with a structure, which the driver may write to, and returns what the driver returns. The words of arg that
	// are pointers are set from ps.
	Ioctl(req Request, arg []byte, ps ...Pointer) (uint64, error)
	// Read waits until there is something to read, and reads it. After Close it returns [os.ErrClosed].
	Read(p []byte) (int, error)
	// TryRead reads what there is; 0 where there is nothing.
	TryRead(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Map maps pages at an offset in bytes. Closing the region unmaps them.
	Map(offset uint64, pages int, writable bool) (*shm.Region, error)
	// Close closes the device, and what the driver holds for it. A Read under way returns; a request under way is waited for. A second
	// Close returns nil.
	Close() error
}

// Pointer says that the word at Off in a structure is the address of Data, or 0 where that is empty.
type Pointer struct {
	Off  int
	Data []byte
}

// Opener opens a device by its name.
type Opener func(name string) (Node, error)

// Dir is where the devices are.
const Dir = "/dev/xen/"
