package xenstore

import (
	"io"
	"sync"

	"github.com/hvkit/hvkit/internal/nowait"
)

// sender writes messages without ever making their senders wait for the server. Where the connection can, the goroutine that makes a
// call writes its message itself, which saves a wake-up; what has no room, and all of it on other connections, is left to a goroutine.
// What is queued is bounded by the number of requests that may be under way.
type sender struct {
	w    io.Writer
	try  nowait.Writer // nil where the connection has none
	kick chan struct{} // of capacity 1: there is something for the goroutine

	mu sync.Mutex
	// +checklocks:mu
	busy bool // somebody writes; all others queue
	// +checklocks:mu
	queue []byte
}

func (s *sender) init(w io.Writer) {
	s.w, s.try, s.kick = w, nowait.For(w), make(chan struct{}, 1)
}

// send writes the message or queues it. The message is the caller's again when it returns.
func (s *sender) send(msg []byte) error {
	s.mu.Lock()
	if s.busy || s.try == nil {
		s.queue = append(s.queue, msg...)
		start := !s.busy
		s.busy = true
		s.mu.Unlock()
		if start {
			wake(s.kick)
		}
		return nil
	}
	s.busy = true
	s.mu.Unlock()
	n, err := s.try.TryWrite(msg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if n < len(msg) { // the rest goes before what others have queued since
		s.queue = append(append([]byte(nil), msg[n:]...), s.queue...)
	}
	rest := len(s.queue) > 0
	s.busy = rest
	s.mu.Unlock()
	if rest {
		wake(s.kick)
	}
	return nil
}

// take takes what is queued, and gives the buffer of the last time back.
func (s *sender) take(last []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queue
	s.queue = last[:0]
	s.busy = len(q) > 0
	return q
}

// loop writes what is queued until dead is closed.
func (s *sender) loop(dead <-chan struct{}) error {
	var buf []byte
	for {
		select {
		case <-dead:
			return nil
		case <-s.kick:
		}
		for buf = s.take(buf); len(buf) > 0; buf = s.take(buf) {
			if _, err := s.w.Write(buf); err != nil {
				return err
			}
		}
	}
}
