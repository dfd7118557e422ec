package grant

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// linuxShare is a [Share] of a [Linux].
type linuxShare struct {
	linuxHold
	refs []Ref
	err  error // of End; guarded by the table's mu
}

var _ Share = (*linuxShare)(nil)

// Share implements [Table].
func (l *Linux) Share(peer hypercall.DomID, pages int, access Access) (Share, error) {
	if err := checkShare(peer, pages); err != nil {
		return nil, err
	}
	sh, err := l.share(peer, pages, access)
	if err != nil {
		return nil, fmt.Errorf("grant: share %d pages with domain %d: %w", pages, peer, err)
	}
	return sh, nil
}

func (l *Linux) share(peer hypercall.DomID, pages int, access Access) (*linuxShare, error) {
	s, err := l.session()
	if err != nil {
		return nil, err
	}
	if s.allocErr != nil {
		return nil, s.allocErr
	}
	flags := uint16(0)
	if access == ReadWrite {
		flags = xendev.GntallocWritable
	}
	arg := xendev.NewAlloc(uint16(peer), flags, pages)
	if err := l.request(s.alloc, xendev.GntallocAlloc, arg); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return nil, l.noSpace(pages, err)
		}
		return nil, err
	}
	sh := &linuxShare{linuxHold: s.hold(s.alloc, arg.Index(), "share"), refs: make([]Ref, pages)}
	for i := range sh.refs {
		sh.refs[i] = Ref(arg.Ref(i))
	}
	if sh.region, err = s.alloc.Map(sh.index, pages, true); err != nil {
		return nil, errors.Join(l.deviceError(err), sh.dealloc())
	}
	if err := l.addShare(sh); err != nil {
		return nil, errors.Join(err, sh.region.Close(), sh.dealloc())
	}
	return sh, nil
}

func (l *Linux) noSpace(want int, cause error) error {
	limit := l.limit()
	l.mu.Lock()
	defer l.mu.Unlock()
	// What others in the domain share is not known.
	return &NoSpaceError{Want: want, Free: max(0, min(want-1, limit-l.shared)), Size: l.shared, Limit: limit, Err: cause}
}

func (l *Linux) addShare(sh *linuxShare) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(sh.s); err != nil {
		return err
	}
	l.shares.add(sh)
	l.shared += len(sh.refs)
	return nil
}

// dealloc gives the pages back, which the kernel frees when nobody has them mapped any more.
func (sh *linuxShare) dealloc() error {
	err := sh.s.l.request(sh.node, xendev.GntallocDealloc, xendev.NewRange(sh.index, len(sh.refs)))
	if wentWithDevice(err) {
		return nil
	}
	return err
}

// Refs implements [Share].
func (sh *linuxShare) Refs() []Ref { return append([]Ref(nil), sh.refs...) }

// End implements [Share].
func (sh *linuxShare) End() (Ending, error) {
	if !sh.begin(sh.leave) {
		return sh.outcome()
	}
	// The kernel notifies when the last of these has let go.
	err := errors.Join(sh.region.Close(), sh.dealloc())
	if err != nil {
		err = fmt.Errorf("grant: end a share: %w", err)
		sh.s.l.leak(len(sh.refs), "shared pages could not be given back", err)
	}
	return sh.finish(err)
}

// +checklocks:sh.s.l.mu
func (sh *linuxShare) leave() {
	sh.s.l.shares.remove(sh)
	sh.s.l.shared -= len(sh.refs)
}

func (sh *linuxShare) outcome() (Ending, error) {
	sh.s.l.mu.Lock()
	defer sh.s.l.mu.Unlock()
	return Surrendered, sh.err
}

func (sh *linuxShare) finish(err error) (Ending, error) {
	l := sh.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.now != sh.s && !l.closed {
		err = stale("end")
	}
	sh.state, sh.err, sh.stale = ended, err, errors.Is(err, hypercall.ErrStale)
	l.changed.Broadcast()
	return Surrendered, err
}

func (l *Linux) leak(pages int, what string, err error) {
	l.mu.Lock()
	l.leaked += pages
	l.mu.Unlock()
	l.cfg.Logger.Warn("grant: "+what, "pages", pages, "error", err)
}
