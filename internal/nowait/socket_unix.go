//go:build unix

package nowait

import (
	"io"
	"net"
	"syscall"
)

// socket writes to a socket what has room.
type socket struct {
	raw syscall.RawConn
	f   func(fd uintptr) bool // write, bound once
	p   []byte
	n   int
	err error
}

// forSocket returns a writer to a Unix or TCP socket, and nil for anything else.
func forSocket(w io.Writer) Writer {
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
	s := &socket{raw: raw}
	s.f = s.write
	return s
}

// TryWrite implements Writer.
func (s *socket) TryWrite(p []byte) (int, error) {
	s.p, s.n, s.err = p, 0, nil
	err := s.raw.Write(s.f)
	s.p = nil
	if err != nil {
		return 0, err
	}
	return s.n, s.err
}

// write never asks to be called again: no room is an answer.
func (s *socket) write(fd uintptr) bool {
	n, err := syscall.Write(int(fd), s.p)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), s.p)
	}
	switch err {
	case nil:
		s.n = n
	case syscall.EAGAIN:
	default:
		s.err = err
	}
	return true
}
