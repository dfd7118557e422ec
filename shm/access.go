package shm

import "fmt"

// Kind says what an access does.
type Kind uint8

// The kinds of access.
const (
	Load    Kind = iota // an atomic load
	Store               // an atomic store
	Modify              // an atomic read-modify-write
	CopyOut             // bytes are copied out
	CopyIn              // bytes are copied in, or zeroed
)

func (k Kind) String() string {
	switch k {
	case Load:
		return "load"
	case Store:
		return "store"
	case Modify:
		return "modify"
	case CopyOut:
		return "copy out"
	case CopyIn:
		return "copy in"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Access is one access to a region.
type Access struct {
	Region *Region
	Kind   Kind
	Off    int // in bytes
	Len    int // in bytes
}

// Observer is told of every access to a region before it happens. It runs on the goroutine that makes the access and may block it,
// switch to another task, or change the memory through another region over the same pages.
type Observer interface {
	BeforeAccess(a Access)
}

// Observe has o told of every access to the region and its slices from now on; nil ends it. It is for explorers and tests: call it
// before others use the region.
func (r *Region) Observe(o Observer) {
	s := r.state
	s.mu.Lock()
	defer s.mu.Unlock()
	closed := s.closed.Load()
	if o == nil && !closed {
		s.tap.Store(nil)
		return
	}
	s.tap.Store(&tap{observer: o})
}

// tap makes every access take the slow path. It is there while the region is observed, and from Close on.
type tap struct {
	observer Observer // nil where nobody observes
}

// tapped is the slow path of an access: it tells the observer, and reports whether the access may go on. An access that may not is
// counted as late. The observer may close the region, so the question comes after it.
func (r *Region) tapped(t *tap, kind Kind, off, n int) bool {
	if t.observer != nil {
		t.observer.BeforeAccess(Access{Region: r, Kind: kind, Off: off, Len: n})
	}
	if !r.state.closed.Load() {
		return true
	}
	r.state.late.Add(1)
	return false
}

// admit tells the observer of an access, if there is one, and reports whether the access may go on: not after Close.
func (r *Region) admit(kind Kind, off, n int) bool {
	t := r.state.tap.Load()
	return t == nil || r.tapped(t, kind, off, n)
}
