package shm

import (
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"
)

// state is what a region shares with the parts that Slice and ReadOnly made of it.
type state struct {
	// tap is nil while the region is open and nobody observes it: the one test that an access costs. It changes under mu.
	tap    atomic.Pointer[tap]
	closed atomic.Bool // changes under mu, once
	late   atomic.Uint64
	unmap  func() error // puts zero pages in place of mapped ones; nil for heap pages

	// parts are the regions whose pages Join put together here. They are held because a mapping lives as long as its state.
	parts []*state

	mu sync.Mutex
	// joins are the regions that Join made with pages of this one. They close with it, and it does not keep them alive. A join leaves
	// when it is closed; those that were dropped without that are cleared out when there are sweepAt.
	// +checklocks:mu
	joins map[weak.Pointer[state]]bool
	// +checklocks:mu
	sweepAt int
}

// Close ends the use of the region. Mapped pages go back to the kernel and zero pages take their place, so an access under way cannot
// fault; later ones find zeros, change nothing and are counted. Regions that Join made of it are closed too.
//
// Close returns an error only where the kernel refused the zero pages: the old pages may then still be mapped, so a peer's grant may
// still be held, while late accesses through the region are stopped all the same. A second Close does nothing and returns nil, perhaps
// before the first is done.
func (r *Region) Close() error { return r.state.close() }

// Closed reports whether the region was closed.
func (r *Region) Closed() bool { return r.state.closed.Load() }

// LateAccesses returns how many accesses came after Close.
func (r *Region) LateAccesses() uint64 { return r.state.late.Load() }

func (s *state) close() error {
	joins, first := s.shut()
	if !first {
		return nil
	}
	for j := range joins {
		if j := j.Value(); j != nil {
			j.close()
		}
	}
	for _, part := range s.parts {
		part.leave(weak.Make(s))
	}
	var err error
	if s.unmap != nil {
		err = s.unmap()
	}
	// The cleanup that gives the address space back must not run beside unmap: what it gave back could be somebody else's by then.
	runtime.KeepAlive(s)
	return err
}

// shut stops accesses. It returns the joined regions to close, and whether the state was open.
func (s *state) shut() (joins map[weak.Pointer[state]]bool, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, false
	}
	s.closed.Store(true)
	t := new(tap)
	if old := s.tap.Load(); old != nil {
		t.observer = old.observer
	}
	s.tap.Store(t)
	joins, s.joins = s.joins, nil
	return joins, true
}

// join has j close when s does: at once where s is closed already.
func (s *state) join(j *state) {
	if !s.enlist(weak.Make(j)) {
		j.close()
	}
}

func (s *state) enlist(j weak.Pointer[state]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	if len(s.joins) >= s.sweepAt {
		maps.DeleteFunc(s.joins, func(p weak.Pointer[state], _ bool) bool { return p.Value() == nil })
		s.sweepAt = 2*len(s.joins) + 8
	}
	if s.joins == nil {
		s.joins = make(map[weak.Pointer[state]]bool)
	}
	s.joins[j] = true
	return true
}

func (s *state) leave(j weak.Pointer[state]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.joins, j)
}
