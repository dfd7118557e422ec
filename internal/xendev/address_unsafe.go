package xendev

import (
	"github.com/hvkit/hvkit/internal/door"
	"github.com/hvkit/hvkit/shm"
)

// Address is where the byte at off of a region is in the process. It is good until the region is closed, and while somebody holds it.
func Address(r *shm.Region, off int) uint64 {
	return uint64(uintptr(r.Address(door.Key{}, off/shm.PageSize))) + uint64(off%shm.PageSize)
}
