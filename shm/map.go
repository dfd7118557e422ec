package shm

// Extent names pages of a descriptor that can be mapped: a memfd, or a device.
type Extent struct {
	FD    int
	First int // the first page, counted from the start of the descriptor
	Pages int
}
