// Package xendev is Linux's Xen devices, the nodes in /dev/xen, at the level of the calls that their drivers take: open, ioctl, mmap, read
// and write. Packages grant, evtchn and hypercall are built on it.
//
// [Node] is an open device. [Open] opens the kernel's; a test has a model of its own in its place, so that what stands on it is tested
// on any machine. The structures of the requests are here too, and are tested against the kernel's headers (include/uapi/xen).
//
// Memory that a device maps is an [shm.Region]. Where a request takes the address of memory, that is either private bytes ([Pointer]),
// or memory of a region ([Address]).
package xendev
