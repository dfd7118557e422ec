package grant

import (
	"errors"
	"fmt"
	"net"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// lease is what an operation took: references, and the incarnation that they are of.
type lease struct {
	v1          *V1
	incarnation uint64
	refs        []Ref
}

// step is what is to be done for a lease that could not be had at once.
type step uint8

const (
	stepDone step = iota
	stepReap
	stepGrow
)

// take gets count references for a share with peer: free ones, else ones that come free in quarantine, else new ones of a larger table.
func (n *Native) take(peer hypercall.DomID, count int) (lease, error) {
	refs := make([]Ref, count)
	for reaped := false; ; {
		l, next, err := n.tryTake(peer, refs, reaped)
		if err != nil {
			return lease{}, err
		}
		switch next {
		case stepDone:
			return l, nil
		case stepReap:
			n.reap(-1)
			reaped = true
		case stepGrow:
			if err := n.grow(); err != nil && n.wasResumed(l.incarnation) {
				return lease{}, stale("make the table larger")
			} else if err != nil {
				return lease{}, n.noSpace(count, err)
			}
		}
	}
}

func (n *Native) tryTake(peer hypercall.DomID, refs []Ref, reaped bool) (lease, step, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		switch {
		case n.closed:
			return lease{}, 0, fmt.Errorf("grant: share: %w", net.ErrClosed)
		case n.v1.HeldBy(peer) >= n.maxQuarantine() && !reaped:
			return lease{}, stepReap, nil
		case n.v1.HeldBy(peer) >= n.maxQuarantine():
			return lease{}, 0, &QuarantineError{Peer: peer, Held: n.v1.HeldBy(peer), Limit: n.maxQuarantine()}
		case n.v1.Take(refs):
			return lease{n.v1, n.incarnation, refs}, stepDone, nil
		case n.growing || n.reaping > 0:
			n.changed.Wait()
		case len(refs) > n.v1.Capacity():
			return lease{}, 0, n.noSpaceLocked(len(refs), nil)
		case !reaped && n.v1.Batches() > 0:
			return lease{}, stepReap, nil
		case n.v1.Frames() < n.v1.Limit():
			n.growing = true
			return lease{incarnation: n.incarnation}, stepGrow, nil
		default:
			return lease{}, 0, n.noSpaceLocked(len(refs), nil)
		}
	}
}

// maxQuarantine is Config.MaxQuarantine, or its default for a table as large as this one can be.
//
// +checklocks:n.mu
func (n *Native) maxQuarantine() int {
	if n.cfg.MaxQuarantine > 0 {
		return n.cfg.MaxQuarantine
	}
	return max(1, n.v1.Limit()*hypercall.GrantsPerFrame/DefaultQuarantineShare)
}

func (n *Native) noSpace(want int, cause error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.noSpaceLocked(want, cause)
}

// +checklocks:n.mu
func (n *Native) noSpaceLocked(want int, cause error) error {
	return &NoSpaceError{
		Want: want, Free: n.v1.Free(), Size: n.v1.Size(), Limit: n.v1.Limit() * hypercall.GrantsPerFrame,
		Quarantined: n.v1.Held(), Err: cause,
	}
}

// put gives a lease's references back. Those of an earlier incarnation are gone with it.
func (n *Native) put(l lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.incarnation == n.incarnation {
		n.v1.Put(l.refs)
	}
}

// Reap tries to end again what is in quarantine, and frees the pages that no peer has mapped any more. It returns how many pages are
// left there. Share does the same before it grows the table, and End for a few.
func (n *Native) Reap() (held int) {
	n.reap(-1)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.v1.Held()
}

// Room returns how many pages peer keeps in quarantine, and how many references are left for shares with anybody, with those that the
// table can grow by.
func (n *Native) Room(peer hypercall.DomID) (held, left int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.v1.HeldBy(peer), n.v1.Free() + (n.v1.Limit()-n.v1.Frames())*hypercall.GrantsPerFrame
}

// reap tries the batches that are in quarantine now again, oldest first, until it has tried budget references; negative for all.
func (n *Native) reap(budget int) {
	l, left := n.beginReap()
	defer n.endReap()
	for ; left > 0 && budget != 0; left-- {
		b := n.release(l)
		if b == nil {
			return
		}
		tried := b.Refs
		if budget > 0 && len(tried) > budget {
			tried = tried[:budget]
		}
		later := b.Refs[len(tried):]
		if budget > 0 {
			budget -= len(tried)
		}
		freed, busy := l.v1.EndAll(tried)
		// The ones not tried come first next time.
		b.Refs = append(append(make([]Ref, 0, len(later)+len(busy)), later...), busy...)
		n.settle(l, *b, freed)
	}
}

// beginReap returns the incarnation to reap in, as a lease of nothing, and how many batches are in quarantine.
func (n *Native) beginReap() (lease, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reaping++
	return lease{v1: n.v1, incarnation: n.incarnation}, n.v1.Batches()
}

func (n *Native) endReap() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reaping--
	n.changed.Broadcast()
}

// release takes a batch out of the quarantine of the lease's incarnation.
func (n *Native) release(l lease) *Batch {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.incarnation != n.incarnation {
		return nil
	}
	return n.v1.Release()
}

// settle does what follows from an attempt to end the references of b: the ones that came free are free, the batch is quarantined
// while any is busy, and its pages are freed when none is.
func (n *Native) settle(l lease, b Batch, freed []Ref) (Ending, error) {
	n.mu.Lock()
	current := l.incarnation == n.incarnation
	if current {
		n.v1.Put(freed)
		if len(b.Refs) > 0 {
			kept := b // b itself need not be on the heap
			n.v1.Quarantine(&kept)
			n.mu.Unlock()
			return Busy, nil
		}
	}
	n.mu.Unlock()
	err := n.free(b.First, b.Pages)
	if !current {
		return Reclaimed, errors.Join(stale("end"), err)
	}
	return Reclaimed, err
}

// acrossResumes has the platform take memory or frame numbers back. They outlive incarnations, so where the request was crossed by a
// resume it is made again.
func acrossResumes(giveBack func() error) (err error) {
	for range maxCrossings {
		if err = giveBack(); !errors.Is(err, hypercall.ErrStale) {
			return err
		}
	}
	return err
}

// free gives pages back to the platform.
func (n *Native) free(first hypercall.GFN, pages int) error {
	if pages == 0 {
		return nil
	}
	if err := acrossResumes(func() error { return n.mem.Free(first, pages) }); err != nil {
		n.leak(pages, "frames could not be freed", err)
		return fmt.Errorf("grant: free %d frames from %#x: %w", pages, uint64(first), err)
	}
	return nil
}

// leak counts pages or frame numbers that are lost until the domain ends.
func (n *Native) leak(pages int, what string, err error) {
	n.mu.Lock()
	n.leaked += pages
	n.mu.Unlock()
	n.cfg.Logger.Warn("grant: "+what, "pages", pages, "error", err)
}
