package grant

import (
	"errors"
	"fmt"
	"net"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// share is a [Share] of a [Native].
type share struct {
	nativeHold
	lease lease
	peer  hypercall.DomID

	// Guarded by the table's mu, as the lower half of hold is.
	ending Ending
	err    error
}

// Share implements [Table].
func (n *Native) Share(peer hypercall.DomID, pages int, access Access) (Share, error) {
	if err := checkShare(peer, pages); err != nil {
		return nil, err
	}
	l, err := n.take(peer, pages)
	if err != nil {
		return nil, fmt.Errorf("grant: share %d pages with domain %d: %w", pages, peer, err)
	}
	s, err := n.fill(l, peer, access)
	if err != nil {
		n.put(l)
		return nil, fmt.Errorf("grant: share %d pages with domain %d: %w", pages, peer, err)
	}
	if err := n.addShare(s); err != nil {
		return nil, errors.Join(fmt.Errorf("grant: share %d pages with domain %d: %w", pages, peer, err), s.retract())
	}
	return s, nil
}

// checkShare returns why nothing can be shared like this, whatever the platform.
func checkShare(peer hypercall.DomID, pages int) error {
	if peer >= hypercall.DomFirstReserved {
		return fmt.Errorf("grant: share with domain %#x, which is not the number of an ordinary domain: %w",
			uint16(peer), hypercall.StatusBadDomain)
	}
	if pages <= 0 || pages > maxV1Frames*hypercall.GrantsPerFrame {
		return fmt.Errorf("grant: share %d pages with domain %d: out of range", pages, peer)
	}
	return nil
}

// fill allocates the pages for a lease's references, and grants them.
func (n *Native) fill(l lease, peer hypercall.DomID, access Access) (*share, error) {
	pages := len(l.refs)
	first, region, err := n.mem.Alloc(pages)
	if err != nil {
		return nil, err
	}
	if uint64(first)+uint64(pages)-1 > maxEntryFrame {
		region.Close()
		return nil, errors.Join(fmt.Errorf("frame number %#x does not fit an entry", uint64(first)), n.free(first, pages))
	}
	for i, r := range l.refs {
		l.v1.Permit(r, peer, first+hypercall.GFN(i), access)
	}
	s := &share{nativeHold: n.hold(first, "share"), lease: l, peer: peer}
	s.region = region
	return s, nil
}

// addShare makes s one of the table's, unless the table was closed or resumed since its references were taken.
func (n *Native) addShare(s *share) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return net.ErrClosed
	case n.incarnation != s.lease.incarnation:
		return hypercall.ErrStale
	}
	n.shares.add(s)
	n.shared += len(s.lease.refs)
	return nil
}

// retract undoes fill for a share that nobody has seen. The peer may have guessed a reference all the same, so it is an end as any.
func (s *share) retract() error {
	s.region.Close()
	_, err := s.release()
	if errors.Is(err, hypercall.ErrStale) {
		return nil // the caller says so already
	}
	return err
}

// release ends the references and frees the pages, or puts both in quarantine.
func (s *share) release() (Ending, error) {
	freed, busy := s.lease.v1.EndAll(s.lease.refs)
	return s.n.settle(s.lease, Batch{Peer: s.peer, Refs: busy, First: s.first, Pages: s.region.Pages()}, freed)
}

// Refs implements [Share].
func (s *share) Refs() []Ref { return append([]Ref(nil), s.lease.refs...) }

// End implements [Share].
func (s *share) End() (Ending, error) {
	if !s.begin(s.leave) {
		return s.outcome()
	}
	s.clearByte()
	freed, busy := s.lease.v1.EndAll(s.lease.refs)
	fired := s.fire(s.n.isCurrent(s.lease.incarnation))
	e, err := s.n.settle(s.lease, Batch{Peer: s.peer, Refs: busy, First: s.first, Pages: s.region.Pages()}, freed)
	if fired != nil && err == nil && s.n.wasResumed(s.lease.incarnation) {
		fired = stale("end") // the port went with the incarnation
	}
	err = errors.Join(fired, err)
	s.finish(e, err)
	s.n.reap(reapBudget)
	return e, err
}

// leave takes the share out of the table's sum; the caller holds the table's mu.
//
// +checklocks:s.n.mu
func (s *share) leave() {
	s.n.shares.remove(s)
	s.n.shared -= len(s.lease.refs)
}

func (s *share) outcome() (Ending, error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	return s.ending, s.err
}

func (s *share) finish(e Ending, err error) {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	s.state, s.ending, s.err = ended, e, err
	s.stale = errors.Is(err, hypercall.ErrStale)
	s.n.changed.Broadcast()
}

// abandon lets go of a share of an earlier incarnation, of which nothing is left but the pages.
func (s *share) abandon() error {
	s.region.Close()
	s.awaitUses()
	return errors.Join(s.fire(false), s.n.free(s.first, s.region.Pages()))
}

// frame returns the frame number of one of the share's pages.
func (s *share) frame(page int) hypercall.GFN { return s.first + hypercall.GFN(page) }

var _ Share = (*share)(nil)
