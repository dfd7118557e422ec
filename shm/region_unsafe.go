package shm

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/hvkit/hvkit/internal/door"
)

// PageSize is the size of a page in bytes. It is Xen's page on every architecture, never the machine's own.
const PageSize = 4096

const (
	pageShift = 12
	pageMask  = PageSize - 1
)

// maxPages bounds a region at 64 GiB, and where an int is smaller at what an int can count.
const maxPages = min(1<<24, math.MaxInt>>pageShift)

// Region is a vector of pages that a peer may be able to write. Its methods may be called by many goroutines at once.
type Region struct {
	pages    []unsafe.Pointer // one for each page
	flat     unsafe.Pointer   // the first page, where all pages follow each other in one allocation or mapping; else nil
	size     int              // len(pages) * PageSize
	writable bool
	state    *state
}

// New returns a writable region of n zeroed pages of Go heap memory, one after the other.
func New(n int) *Region {
	if n <= 0 || n > maxPages {
		panic(fmt.Sprintf("shm: New(%d): a region has 1 to %d pages", n, maxPages))
	}
	words := make([]uint64, n*PageSize/8) // of uint64, so that every word is aligned
	return flatRegion(unsafe.Pointer(unsafe.SliceData(words)), n, true)
}

func flatRegion(base unsafe.Pointer, n int, writable bool) *Region {
	r := &Region{pages: make([]unsafe.Pointer, n), flat: base, size: n * PageSize, writable: writable, state: new(state)}
	for i := range r.pages {
		r.pages[i] = unsafe.Add(base, i*PageSize)
	}
	return r
}

// Join returns a region of all the pages of regions, in that order; a page may be in it twice. It is writable where all of them are.
// It is observed and closed on its own: closing it leaves the others open. Closing one of the others closes it.
func Join(regions ...*Region) *Region {
	if len(regions) == 0 {
		panic("shm: Join of no region")
	}
	r := &Region{writable: true, state: new(state)}
	for _, part := range regions {
		r.pages = append(r.pages, part.pages...)
		r.writable = r.writable && part.writable
		r.state.parts = append(r.state.parts, part.state)
	}
	r.size = len(r.pages) * PageSize
	// Pages of two allocations are never taken for one run of bytes, even where they happen to be neighbours: a slice over both would
	// be no valid slice.
	if len(regions) == 1 {
		r.flat = regions[0].flat
	}
	for _, part := range regions {
		part.state.join(r.state)
	}
	return r
}

// Slice returns the part of the region that is n pages from page first on. It shares the region's fate: it is closed when the region
// is, and closing it closes the region.
func (r *Region) Slice(first, n int) *Region {
	if first < 0 || n <= 0 || first > len(r.pages)-n {
		panic(&BoundsError{Op: "slice", Off: int64(first) * PageSize, Len: n * PageSize, Size: r.size})
	}
	part := &Region{pages: r.pages[first : first+n : first+n], size: n * PageSize, writable: r.writable, state: r.state}
	if r.flat != nil || n == 1 {
		part.flat = part.pages[0]
	}
	return part
}

// ReadOnly returns the same pages as a region that panics on writes. It shares the region's fate, as a Slice does.
func (r *Region) ReadOnly() *Region {
	ro := *r
	ro.writable = false
	return &ro
}

// Size returns the region's size in bytes.
func (r *Region) Size() int { return r.size }

// Pages returns the number of pages.
func (r *Region) Pages() int { return len(r.pages) }

// Writable reports whether the region may be written.
func (r *Region) Writable() bool { return r.writable }

// Address returns where the page is in the address space, for platform code that must tell the kernel or Xen. The address is good
// until the region is closed; the caller keeps the region alive.
func (r *Region) Address(_ door.Key, page int) unsafe.Pointer { return r.pages[page] }

// misuse says what is wrong with an access.
func (r *Region) misuse(op string, off, size int, write bool) error {
	if write && !r.writable {
		return &ReadOnlyError{Op: op, Off: int64(off)}
	}
	return &BoundsError{Op: op, Off: int64(off), Len: size, Size: r.size}
}
