package xenstored

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// LocalClient returns a client in this process that acts as domain 0. Close it when it is done with; closing the server ends it too.
func (s *Server) LocalClient() *xenstore.Client { return s.LocalClientOf(dom0) }

// LocalClientOf is LocalClient for any domain, for tests and for hosts that simulate domains. It does not introduce the domain.
func (s *Server) LocalClientOf(dom hypercall.DomID) *xenstore.Client {
	near, far := newPipe()
	ss, err := s.begin(far, dom)
	if err != nil { // it has closed far, so the client finds its connection ended
		return xenstore.NewClient(near, nil)
	}
	go func() { _ = ss.serve(context.Background()) }() // the client knows why it ended
	return xenstore.NewClient(near, nil)
}

// pipeBytes is how many bytes one direction of a pipe holds.
const pipeBytes = 32 << 10

// pipeEnd is one end of a pipe in memory that, unlike net.Pipe, holds bytes, so that writers need not wait for readers.
type pipeEnd struct {
	in, out *pipeHalf
}

type pipeHalf struct {
	mu sync.Mutex
	// +checklocks:mu
	changed sync.Cond
	// +checklocks:mu
	buf []byte
	// +checklocks:mu
	readerGone bool
	// +checklocks:mu
	writerGone bool
}

func newPipe() (*pipeEnd, *pipeEnd) {
	a, b := &pipeHalf{}, &pipeHalf{}
	a.changed.L, b.changed.L = &a.mu, &b.mu
	return &pipeEnd{a, b}, &pipeEnd{b, a}
}

// Read implements io.Reader.
func (e *pipeEnd) Read(p []byte) (int, error) {
	h := e.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.readerGone && !h.writerGone {
		h.changed.Wait()
	}
	if h.readerGone {
		return 0, net.ErrClosed
	}
	if len(h.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.buf)
	h.buf = h.buf[:copy(h.buf, h.buf[n:])]
	h.changed.Broadcast()
	return n, nil
}

// Write implements io.Writer.
func (e *pipeEnd) Write(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		n, err := h.push(p[done:])
		done += n
		if err != nil || done == len(p) {
			return done, err
		}
		h.changed.Wait()
	}
}

// TryWrite writes as much as has room.
func (e *pipeEnd) TryWrite(p []byte) (int, error) {
	h := e.out
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.push(p)
}

// +checklocks:h.mu
func (h *pipeHalf) push(p []byte) (int, error) {
	switch {
	case h.writerGone:
		return 0, net.ErrClosed
	case h.readerGone:
		return 0, io.ErrClosedPipe
	}
	n := min(len(p), pipeBytes-len(h.buf))
	if n > 0 {
		h.buf = append(h.buf, p[:n]...)
		h.changed.Broadcast()
	}
	return n, nil
}

// Close ends both directions.
func (e *pipeEnd) Close() error {
	e.in.mu.Lock()
	e.in.readerGone = true
	e.in.changed.Broadcast()
	e.in.mu.Unlock()
	e.out.mu.Lock()
	e.out.writerGone = true
	e.out.changed.Broadcast()
	e.out.mu.Unlock()
	return nil
}
