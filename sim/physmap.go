package sim

import (
	"fmt"
	"os"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// extent is one allocation of memory: pages that are granted, and die, together.
type extent struct {
	pages  int
	region *shm.Region // the host's own way to the pages; nil for a file that the host has not had to look into yet
	file   *os.File    // the memfd, where other processes may map it; nil for heap memory
	shown  int         // frames of its owner that are memory of it
	refs   int         // frames that show a page of it, pins of its pages, and whoever has just made it or is sending its descriptor
}

// newExtent allocates n zeroed pages: heap memory, which the race detector sees, or a memfd, which other processes can map. The caller
// drops it when others hold it, or when it is done with it.
func newExtent(n int, shared bool) (*extent, error) {
	if !shared {
		return &extent{pages: n, region: shm.New(n), refs: 1}, nil
	}
	f, err := shm.NewFile("hvkit-extent", n)
	if err != nil {
		return nil, err
	}
	return &extent{pages: n, file: f, refs: 1}, nil
}

// window is the host's way to the pages of the extent.
func (e *extent) window() (*shm.Region, error) {
	if e.region != nil {
		return e.region, nil
	}
	r, err := shm.Map(true, shm.Extent{FD: int(e.file.Fd()), Pages: e.pages})
	if err != nil {
		return nil, err
	}
	e.region = r
	return r, nil
}

func (e *extent) hold() *extent {
	e.refs++
	return e
}

// drop takes one reference away, and closes the extent with the last. Processes that have its pages mapped keep them.
func (e *extent) drop() {
	e.refs--
	if e.refs > 0 || e.file == nil {
		return
	}
	if e.region != nil {
		e.region.Close()
	}
	e.file.Close()
}

// frameKind says what is behind a guest frame number.
type frameKind uint8

const (
	ramFrame frameKind = iota
	xenstoreFrame
	grantTableFrame
	sharedInfoFrame
	foreignFrame // another domain's page, mapped by grant
)

// isXens reports whether the frame is Xen's own: it is in one place at a time.
func (k frameKind) isXens() bool { return k == grantTableFrame || k == sharedInfoFrame }

// isGuests reports whether the frame is memory of the domain, which it may grant and copy.
func (k frameKind) isGuests() bool { return k == ramFrame || k == xenstoreFrame }

// frame is what is behind one guest frame number.
type frame struct {
	ext      *extent // nil for shared_info of a domain in another process
	page     int
	kind     frameKind
	readOnly bool
}

// physmap is a domain's guest-physical address space. Each frame in it holds its extent.
type physmap map[hypercall.GFN]frame

// put puts all pages of the extent behind frame numbers from first on, where there is nothing.
func (p physmap) put(first hypercall.GFN, ext *extent, kind frameKind) {
	for i := range ext.pages {
		p.set(first+hypercall.GFN(i), frame{ext: ext, page: i, kind: kind})
	}
}

func (p physmap) set(n hypercall.GFN, f frame) {
	p.remove(n)
	if f.ext != nil {
		f.ext.hold()
	}
	p[n] = f
}

func (p physmap) remove(n hypercall.GFN) {
	if f, ok := p[n]; ok {
		delete(p, n)
		if f.ext != nil {
			f.ext.drop()
		}
	}
}

// isFree reports whether nothing is behind n frame numbers.
func (p physmap) isFree(first hypercall.GFN, n int) bool {
	for i := range n {
		if _, taken := p[first+hypercall.GFN(i)]; taken {
			return false
		}
	}
	return true
}

// view makes a region of n frames.
func (p physmap) view(first hypercall.GFN, n int, writable bool) (*shm.Region, error) {
	if n <= 0 {
		return nil, fmt.Errorf("view of %d frames: %w", n, hypercall.EINVAL)
	}
	var runs []run
	for i := range n {
		f, ok := p[first+hypercall.GFN(i)]
		if !ok || f.ext == nil {
			return nil, fmt.Errorf("nothing is behind frame %#x: %w", uint64(first)+uint64(i), hypercall.EINVAL)
		}
		if writable && f.readOnly {
			return nil, fmt.Errorf("frame %#x is mapped read-only: %w", uint64(first)+uint64(i), hypercall.EACCES)
		}
		if k := len(runs) - 1; k >= 0 && runs[k].ext == f.ext && runs[k].first+runs[k].pages == f.page {
			runs[k].pages++
			continue
		}
		runs = append(runs, run{f.ext, f.page, 1})
	}
	return join(runs, writable)
}

// run is pages of an extent that follow each other.
type run struct {
	ext          *extent
	first, pages int
}

// join makes one region of runs of pages: a new mapping where the extents are files, the same heap pages where they are not.
func join(runs []run, writable bool) (*shm.Region, error) {
	if runs[0].ext.file != nil {
		exts := make([]shm.Extent, len(runs))
		for i, r := range runs {
			exts[i] = shm.Extent{FD: int(r.ext.file.Fd()), First: r.first, Pages: r.pages}
		}
		return shm.Map(writable, exts...)
	}
	parts := make([]*shm.Region, len(runs))
	for i, r := range runs {
		parts[i] = r.ext.region.Slice(r.first, r.pages)
	}
	joined := shm.Join(parts...)
	if !writable {
		joined = joined.ReadOnly()
	}
	return joined, nil
}
