package grant

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// linuxMapping is a [Mapping] of a [Linux].
type linuxMapping struct {
	linuxHold
	peer  hypercall.DomID
	pages int
}

var _ Mapping = (*linuxMapping)(nil)

// Map implements [Table]. The kernel does not say which page could not be mapped, nor why: Xen is asked that by copies of a byte each.
func (l *Linux) Map(peer hypercall.DomID, refs []Ref, access Access) (Mapping, error) {
	if err := checkMap(peer, len(refs)); err != nil {
		return nil, err
	}
	s, err := l.session()
	if err == nil {
		err = errors.Join(s.devErr, l.refusal(peer))
	}
	if err != nil {
		return nil, fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, err)
	}
	m, err := s.mapRefs(peer, refs, access)
	if err != nil {
		return nil, s.diagnose(peer, refs, access, err)
	}
	l.maps.Add(uint64(len(refs)))
	if err := l.addMapping(m); err != nil {
		return nil, errors.Join(fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, err), m.letGo())
	}
	return m, nil
}

// Forbid is for the platform: Map refuses the pages of that domain from now on, and says why. It takes the place of an earlier one.
func (l *Linux) Forbid(peer hypercall.DomID, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forbidden, l.why = peer, why
}

func (l *Linux) refusal(peer hypercall.DomID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forbidden != peer {
		return nil
	}
	return l.why
}

// mapRefs maps pages, with further attempts where it may work later.
func (s *session) mapRefs(peer hypercall.DomID, refs []Ref, access Access) (m *linuxMapping, err error) {
	numbers := make([]uint32, len(refs))
	for i, r := range refs {
		numbers[i] = uint32(r)
	}
	err = s.l.again(func() error {
		m, err = s.tryMap(peer, numbers, access)
		return err
	})
	return m, err
}

func (s *session) tryMap(peer hypercall.DomID, refs []uint32, access Access) (*linuxMapping, error) {
	arg := xendev.NewMap(uint16(peer), refs)
	if err := s.l.request(s.dev, xendev.GntdevMap, arg); err != nil {
		return nil, err
	}
	m := &linuxMapping{linuxHold: s.hold(s.dev, arg.Index(), "mapping"), peer: peer, pages: len(refs)}
	var err error
	if m.region, err = s.dev.Map(m.index, len(refs), access == ReadWrite); err != nil {
		return nil, errors.Join(s.l.deviceError(err), m.unmap())
	}
	return m, nil
}

func (l *Linux) addMapping(m *linuxMapping) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(m.s); err != nil {
		return err
	}
	l.mappings.add(m)
	l.mapped += m.pages
	return nil
}

// diagnose returns the error of a mapping that could not be made because of cause.
func (s *session) diagnose(peer hypercall.DomID, refs []Ref, access Access, cause error) error {
	if !errors.Is(cause, syscall.EINVAL) && !errors.Is(cause, syscall.EAGAIN) {
		return fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, cause)
	}
	e := &MapError{Peer: peer, Refs: append([]Ref(nil), refs...), Statuses: s.probe(peer, refs)}
	if e.Unwrap() == nil {
		// All can be read, so what is refused is to write them, or passes. It must be seen for each.
		for i := range refs {
			m, err := s.mapRefs(peer, refs[i:i+1], access)
			switch {
			case err == nil:
				err = errors.Join(m.region.Close(), m.unmap())
				if err != nil {
					s.l.leak(1, "a page could not be unmapped", err)
				}
			case errors.Is(err, syscall.EAGAIN):
				e.Statuses[i] = hypercall.StatusEagain
			default:
				e.Statuses[i] = hypercall.StatusGeneralError // which is what Xen says where access is not granted
			}
		}
	}
	if e.Unwrap() == nil {
		return fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, cause)
	}
	return e
}

// probe copies a byte from each page, and returns what Xen says of that.
func (s *session) probe(peer hypercall.DomID, refs []Ref) []hypercall.GrantStatus {
	statuses := make([]hypercall.GrantStatus, len(refs))
	scratch := shm.New(1)
	defer scratch.Close()
	ops := make([]linuxCopy, len(refs))
	for i, r := range refs {
		ops[i] = linuxCopy{
			src: xendev.End{Ref: uint32(r), DomID: uint16(peer)}, dst: xendev.End{Virt: xendev.Address(scratch, 0)},
			n: 1, flags: xendev.CopySourceGref,
		}
	}
	if err := s.copyBatches(ops); err != nil {
		return statuses
	}
	for i := range ops {
		statuses[i] = ops[i].status
	}
	return statuses
}

// unmap has the kernel forget the mapping. The address space is given up before: it keeps the pages otherwise.
func (m *linuxMapping) unmap() error {
	err := m.s.l.request(m.node, xendev.GntdevUnmap, xendev.NewRange(m.index, m.pages))
	if wentWithDevice(err) {
		return nil
	}
	return err
}

// Close implements [Mapping].
func (m *linuxMapping) Close() error {
	if !m.begin(m.leave) {
		return m.closedAgain()
	}
	return m.finish(m.letGo())
}

// letGo unmaps the pages.
func (m *linuxMapping) letGo() error {
	if err := errors.Join(m.region.Close(), m.unmap()); err != nil {
		err = fmt.Errorf("grant: unmap %d pages of domain %d: %w", m.pages, m.peer, err)
		m.s.l.leak(m.pages, "pages could not be unmapped", err)
		return err
	}
	m.s.l.unmaps.Add(uint64(m.pages))
	return nil
}

// +checklocks:m.s.l.mu
func (m *linuxMapping) leave() {
	m.s.l.mappings.remove(m)
	m.s.l.mapped -= m.pages
}

func (m *linuxMapping) finish(err error) error {
	l := m.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	m.state = ended
	l.changed.Broadcast()
	if err == nil && l.now != m.s && !l.closed {
		err = stale("close a mapping")
	}
	return err
}

func (m *linuxMapping) closedAgain() error {
	l := m.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.stale && !m.told {
		m.told = true
		return stale("close a mapping")
	}
	return nil
}
