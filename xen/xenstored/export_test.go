package xenstored

import "github.com/hvkit/hvkit/xen/hypercall"

// Recount compares the books of a server that runs with what there is, as core.recount does.
func (s *Server) Recount() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.recount()
}

// Known returns how many domains the server keeps a record of.
func (s *Server) Known() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.core.domains)
}

// Held returns the bytes and requests that are counted against a domain.
func (s *Server) Held(dom hypercall.DomID) (memory, outstanding int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.core.domains[dom]; d != nil {
		return d.memory, d.outstanding
	}
	return 0, 0
}

// Accepted returns how many connections there have been.
func (s *Server) Accepted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.connSeq
}
