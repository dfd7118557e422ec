package sim

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// allocate gives the domain n pages of memory.
func (d *guest) allocate(n int) (hypercall.GFN, error) {
	if err := d.room(n); err != nil {
		return 0, err
	}
	first, err := d.alloc.RAM(n)
	if err != nil {
		return 0, err
	}
	if !d.space.isFree(first, n) {
		err := fmt.Errorf("frames from %#x on: the domain itself put something there: %w", uint64(first), hypercall.EEXIST)
		return 0, errors.Join(err, d.alloc.FreeRAM(first, n))
	}
	ext, err := newExtent(n, d.xen.cfg.Shared)
	if err != nil {
		return 0, errors.Join(err, d.alloc.FreeRAM(first, n))
	}
	d.takeIn(first, ext)
	return first, nil
}

// takeIn makes an extent the domain's memory.
func (d *guest) takeIn(first hypercall.GFN, ext *extent) {
	d.space.put(first, ext, ramFrame)
	ext.drop() // the frames hold it
	ext.shown = ext.pages
	d.pages += ext.pages
	d.extents++
}

// takeOut takes away what is behind a frame number. Those who have the page mapped keep it.
func (d *guest) takeOut(n hypercall.GFN) {
	f, ok := d.space[n]
	if !ok {
		return
	}
	switch {
	case f.kind == ramFrame:
		d.pages--
		if f.ext.shown--; f.ext.shown == 0 {
			d.extents--
		}
	case f.kind.isXens():
		delete(d.xens, xensFrame{f.kind, f.page})
	}
	d.space.remove(n)
}

// room checks that the domain may have an allocation of n pages more.
func (d *guest) room(n int) error {
	if n <= 0 || n > d.limits.Pages-d.pages {
		return fmt.Errorf("%d pages beside the %d of %d that the domain has: %w", n, d.pages, d.limits.Pages, hypercall.ENOMEM)
	}
	if d.extents >= d.limits.Extents {
		return fmt.Errorf("%d pages: the domain has %d allocations, as many as it may: %w", n, d.extents, hypercall.ENOMEM)
	}
	return nil
}

// free takes an allocation from the domain, which must be whole.
func (d *guest) free(first hypercall.GFN, n int) error {
	if err := d.whole(first, n); err != nil {
		return err
	}
	if err := d.alloc.FreeRAM(first, n); err != nil {
		return err
	}
	d.evacuate(first, n)
	return nil
}

// whole checks that n frames are one allocation, all of it.
func (d *guest) whole(first hypercall.GFN, n int) error {
	f := d.space[first]
	for i := range n {
		g, ok := d.space[first+hypercall.GFN(i)]
		if !ok || g.kind != ramFrame || g.ext != f.ext || g.page != i {
			return fmt.Errorf("frame %#x is no longer memory of the allocation: %w", uint64(first)+uint64(i), hypercall.EINVAL)
		}
	}
	if n <= 0 || n != f.ext.pages {
		return fmt.Errorf("%d frames from %#x are not all of an allocation: %w", n, uint64(first), hypercall.EINVAL)
	}
	return nil
}

// evacuate takes a whole allocation away.
func (d *guest) evacuate(first hypercall.GFN, n int) {
	for i := range n {
		delete(d.notify, first+hypercall.GFN(i))
		d.space.remove(first + hypercall.GFN(i))
	}
	d.pages -= n
	d.extents--
}

// adopt takes in an allocation that the process of the domain made.
func (d *guest) adopt(first hypercall.GFN, pages int, file func() *os.File) error {
	if err := d.room(pages); err != nil {
		return err
	}
	if !gfn.IsRAM(first) || !gfn.IsRAM(first+hypercall.GFN(pages)-1) {
		return fmt.Errorf("%d frames from %#x are not where memory is: %w", pages, uint64(first), hypercall.EINVAL)
	}
	if !d.space.isFree(first, pages) {
		return fmt.Errorf("%d frames from %#x: something is there already: %w", pages, uint64(first), hypercall.EEXIST)
	}
	f := file()
	if err := shm.VerifySealed(f, pages); err != nil {
		f.Close()
		return err
	}
	d.takeIn(first, &extent{pages: pages, file: f, refs: 1})
	return nil
}

// disown lets go of an allocation that adopt took in.
func (d *guest) disown(first hypercall.GFN, pages int) error {
	if pages > d.pages {
		return fmt.Errorf("%d pages of the %d that the domain has: %w", pages, d.pages, hypercall.EINVAL)
	}
	if err := d.whole(first, pages); err != nil {
		return err
	}
	d.evacuate(first, pages)
	return nil
}

// populate puts a zeroed page behind a frame number.
func (d *guest) populate(n hypercall.GFN) bool {
	if d.remote || d.room(1) != nil || !d.space.isFree(n, 1) {
		return false
	}
	ext, err := newExtent(1, d.xen.cfg.Shared)
	if err != nil {
		return false
	}
	d.takeIn(n, ext)
	return true
}

// decrease takes the page behind a frame number away.
func (d *guest) decrease(n hypercall.GFN) bool {
	f, ok := d.space[n]
	if !ok || f.kind != ramFrame {
		return false
	}
	delete(d.notify, n)
	d.takeOut(n)
	return true
}

// addToPhysmap puts a frame of Xen's behind a frame number of the domain. What was there is released first
// (xenmem_add_to_physmap_one).
func (d *guest) addToPhysmap(space hypercall.PhysmapSpace, idx uint64, at hypercall.GFN) error {
	f := frame{kind: sharedInfoFrame}
	switch space {
	case hypercall.SpaceSharedInfo:
		if idx != 0 {
			return hypercall.EINVAL
		}
		if !d.remote {
			f.ext = &extent{pages: 1, region: d.bits.Page()}
		}
	case hypercall.SpaceGrantTable:
		if idx >= uint64(d.limits.GrantFrames) {
			return hypercall.EINVAL
		}
		f = frame{ext: d.grants.table, page: int(idx), kind: grantTableFrame}
	default:
		return hypercall.ENOSYS
	}
	if old, taken := d.space[at]; taken && old.kind == foreignFrame {
		return hypercall.EINVAL // a granted page goes by unmapping it
	}
	if f.kind == grantTableFrame {
		d.grants.grow(int(idx) + 1)
	}
	x := xensFrame{f.kind, f.page}
	if before, ok := d.xens[x]; ok { // it is in one place at a time
		d.takeOut(before)
	}
	d.takeOut(at)
	d.space.set(at, f)
	d.xens[x] = at
	return nil
}

// xensFrame is one of Xen's own frames of the domain.
type xensFrame struct {
	kind frameKind
	page int
}

// removeFromPhysmap takes what is behind a frame number away (XENMEM_remove_from_physmap).
func (d *guest) removeFromPhysmap(n hypercall.GFN) error {
	f, ok := d.space[n]
	if !ok || f.kind == foreignFrame { // whose page is not the domain's
		return hypercall.ENOENT
	}
	d.takeOut(n)
	return nil
}
