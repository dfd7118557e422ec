//go:build unix

package xenstore

import (
	"io"
	"net"
	"syscall"
)

// socketWriter writes to a socket what has room. Only one goroutine at a time uses it.
type socketWriter struct {
	raw syscall.RawConn
	f   func(fd uintptr) bool // s.write, made once
	p   []byte
	n   int
	err error
}

// newSocketWriter returns a tryWriter for a Unix or TCP socket, and nil for anything else.
func newSocketWriter(w io.Writer) tryWriter {
	var raw syscall.RawConn
	var err error
	switch conn := w.(type) {
	case *net.UnixConn:
		raw, err = conn.SyscallConn()
	case *net.TCPConn:
		raw, err = conn.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	s := &socketWriter{raw: raw}
	s.f = s.write
	return s
}

// TryWrite writes as much of p as has room.
func (s *socketWriter) TryWrite(p []byte) (int, error) {
	s.p, s.n, s.err = p, 0, nil
	if err := s.raw.Write(s.f); err != nil {
		return 0, err
	}
	s.p = nil
	return s.n, s.err
}

// write never asks to be called again: no room is an answer.
func (s *socketWriter) write(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), s.p)
		switch err {
		case nil:
			s.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
		default:
			s.err = err
		}
		return true
	}
}
