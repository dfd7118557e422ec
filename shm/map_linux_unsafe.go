//go:build linux

package shm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Map maps the pages of the extents, in that order, one after the other in the address space, shared with whoever else maps them.
// The descriptors may be closed afterwards. A file must be as long as its extents say, and must not shrink later: an access to a
// missing page would kill the process. A descriptor that came from somebody else is checked with [VerifySealed] first.
//
// Map works where the machine's page is Xen's page; elsewhere, and on other systems than Linux, it returns [errors.ErrUnsupported].
func Map(writable bool, extents ...Extent) (*Region, error) {
	if os.Getpagesize() != PageSize {
		return nil, fmt.Errorf("shm: map: the machine's page has %d bytes, not %d: %w", os.Getpagesize(), PageSize, errors.ErrUnsupported)
	}
	n, err := countPages(extents)
	if err != nil {
		return nil, err
	}
	size := uintptr(n) * PageSize
	base, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("shm: reserve %d pages of address space: %w", n, err)
	}
	if err := mapOver(base, writable, extents); err != nil {
		unix.MunmapPtr(base, size)
		return nil, err
	}
	r := flatRegion(base, n, writable)
	r.state.unmap = func() error { return zeroPages(base, size) }
	runtime.AddCleanup(r.state, func(m mapping) { unix.MunmapPtr(m.base, m.size) }, mapping{base, size})
	return r, nil
}

// mapping is address space that is given back when nothing can reach it any more.
type mapping struct {
	base unsafe.Pointer
	size uintptr
}

// maxFirst is the last page of a descriptor that an offset can say and leave room for a region behind.
const maxFirst = math.MaxInt64>>pageShift - maxPages

// countPages checks the extents and returns how many pages they have.
func countPages(extents []Extent) (int, error) {
	n := 0
	for _, e := range extents {
		if e.First < 0 || int64(e.First) > maxFirst || e.Pages <= 0 || e.Pages > maxPages-n {
			return 0, fmt.Errorf("shm: map: extent of %d pages from page %d: a region has 1 to %d pages, up to page %d", e.Pages, e.First, maxPages,
				int64(maxFirst))
		}
		if err := longEnough(e); err != nil {
			return 0, err
		}
		n += e.Pages
	}
	if n == 0 {
		return 0, errors.New("shm: map of no page")
	}
	return n, nil
}

// longEnough checks that a regular file has the pages of the extent. Devices have no length; their drivers refuse what is not there.
func longEnough(e Extent) error {
	var st unix.Stat_t
	if err := unix.Fstat(e.FD, &st); err != nil {
		return fmt.Errorf("shm: map descriptor %d: %w", e.FD, err)
	}
	if end := (int64(e.First) + int64(e.Pages)) * PageSize; st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size < end {
		return fmt.Errorf("shm: map %d pages from page %d of descriptor %d: the file has %d bytes, not %d",
			e.Pages, e.First, e.FD, st.Size, end)
	}
	return nil
}

// mapOver maps the extents over the address space reserved at base.
func mapOver(base unsafe.Pointer, writable bool, extents []Extent) error {
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	for _, e := range extents {
		size := uintptr(e.Pages) * PageSize
		if _, err := unix.MmapPtr(e.FD, int64(e.First)*PageSize, base, size, prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
			return fmt.Errorf("shm: map %d pages from page %d of descriptor %d: %w", e.Pages, e.First, e.FD, err)
		}
		base = unsafe.Add(base, size)
	}
	return nil
}

// zeroPages puts private zero pages in place of what is mapped. The kernel replaces the whole range at once. It is writable even
// where the mapping was not, so a late write cannot fault either.
func zeroPages(base unsafe.Pointer, size uintptr) error {
	_, err := unix.MmapPtr(-1, 0, base, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("shm: close: zero pages over %d mapped bytes: %w", size, err)
	}
	return nil
}
