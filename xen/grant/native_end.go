package grant

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

func stale(op string) error { return fmt.Errorf("grant: %s: %w", op, hypercall.ErrStale) }

// Resume is for the platform: the domain was suspended and runs again, with a new and empty grant table. Shares and mappings made
// before are closed, and answer [hypercall.ErrStale] from now on; the memory of the shares is freed. No vCPU may be in an operation
// that began before the suspend, except waiting for a lock or in a hypercall; such an operation fails with ErrStale. A table that was
// closed stays closed.
func (n *Native) Resume() error {
	shares, mappings, views, old := n.leaveIncarnation()
	var errs []error
	for _, v := range views {
		errs = append(errs, v.Close())
	}
	for _, m := range mappings {
		errs = append(errs, m.abandon())
	}
	for _, s := range shares {
		errs = append(errs, s.abandon())
	}
	for b := old.Release(); b != nil; b = old.Release() {
		errs = append(errs, n.free(b.First, b.Pages))
	}
	if closed, torn := n.isClosed(); closed {
		if !torn {
			errs = append(errs, n.tearDown(nil))
		}
		n.endGrowing()
		return errors.Join(errs...)
	}
	limit, err := n.probe()
	if err != nil {
		n.endGrowing()
		return errors.Join(append(errs, err)...)
	}
	n.setup(min(limit, n.reserved))
	return errors.Join(append(errs, n.grow())...)
}

// leaveIncarnation makes all that there is stale, and leaves an empty table that is being set up.
func (n *Native) leaveIncarnation() ([]*share, []*mapping, []*shm.Region, *V1) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.growing {
		n.changed.Wait()
	}
	n.growing = true
	n.incarnation++
	shares, mappings, views, old := n.shares.all(), n.mappings.all(), n.views, n.v1
	for _, s := range shares {
		s.state, s.stale, s.ending, s.err = ended, true, Reclaimed, stale("end")
		n.shares.remove(s)
	}
	for _, m := range mappings {
		m.state, m.stale = ended, true
		n.mappings.remove(m)
	}
	n.shared, n.mapped, n.views = 0, 0, nil
	n.v1 = NewV1(0)
	n.changed.Broadcast()
	return shares, mappings, views, old
}

// isClosed also makes the caller the one who takes down the frames of a table that was closed, where they are up still.
func (n *Native) isClosed() (closed, torn bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	closed, torn = n.closed, n.torn
	n.torn = n.torn || n.closed
	return closed, torn
}

func (n *Native) endGrowing() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.growing = false
	n.changed.Broadcast()
}

// Close implements [Table]. While peers have pages mapped that were shared, it returns an error that wraps [ErrBusy] and leaves the
// table's frames where they are; each further Close looks again whether they have let go, and returns nil when they have.
func (n *Native) Close() error {
	shares, mappings := n.beginClose()
	var errs []error
	for _, m := range mappings {
		errs = append(errs, m.Close())
	}
	for _, s := range shares {
		_, err := s.End()
		errs = append(errs, err)
	}
	n.reap(-1)
	views, held, last := n.beginTearDown()
	if held > 0 {
		errs = append(errs, fmt.Errorf("close: %w: %d", ErrBusy, held))
	}
	if last {
		errs = append(errs, n.tearDown(views))
	}
	return errors.Join(errs...)
}

func (n *Native) beginClose() ([]*share, []*mapping) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.changed.Broadcast()
	return n.shares.all(), n.mappings.all()
}

// beginTearDown waits until nobody uses the table's frames, and tells whether they are the caller's to take down.
func (n *Native) beginTearDown() (views []*shm.Region, held int, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.growing || n.reaping > 0 {
		n.changed.Wait()
	}
	held = n.v1.Held()
	if held > 0 || n.torn {
		return nil, held, false
	}
	n.torn = true
	views, n.views = n.views, nil
	return views, 0, true
}

func (n *Native) tearDown(views []*shm.Region) error {
	var errs []error
	for i, v := range views {
		v.Close()
		n.hypercalls.Add(1)
		err := hypercall.RemoveFromPhysmap(n.c, hypercall.DomSelf, n.first+hypercall.GFN(i))
		if err != nil && !errors.Is(err, hypercall.ErrStale) && !errors.Is(err, hypercall.ENOENT) { // else a resume has taken it down
			errs = append(errs, fmt.Errorf("grant: take down frame %d of the table: %w", i, err))
		}
	}
	if len(errs) > 0 {
		n.leak(n.reserved, "the table's frame numbers stay reserved", errs[0])
		return errors.Join(errs...)
	}
	if err := acrossResumes(func() error { return n.mem.Unreserve(n.first, n.reserved) }); err != nil {
		return fmt.Errorf("grant: give back the table's frame numbers: %w", err)
	}
	return nil
}

// wasResumed reports whether the domain was resumed since an operation that failed began in the incarnation. That may be before
// Resume says so, for Xen lets the domain run first: then nothing is behind the table's first frame number, where there is something
// at all other times until Close takes it down.
func (n *Native) wasResumed(incarnation uint64) bool {
	// First the look, then the count: once Resume has put the table there again it has counted.
	if !n.isTorn() {
		view, err := n.mem.View(n.first, 1, false)
		switch {
		case err == nil:
			view.Close()
		case errors.Is(err, hypercall.EINVAL) || errors.Is(err, hypercall.ErrStale):
			return true
		} // any other error says that the platform is short of something, and nothing of what is there
	}
	return !n.isCurrent(incarnation)
}

func (n *Native) isTorn() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.torn
}
