//go:build !linux

package shm

import (
	"errors"
	"io"
	"syscall"
)

func (r *Region) readFrom(off int, src syscall.Conn, n int) (int, error) {
	if src, ok := src.(io.Reader); ok {
		return r.bounceFrom(off, src, n)
	}
	return 0, errors.ErrUnsupported
}

func (r *Region) writeTo(dst syscall.Conn, off, n int) (int, error) {
	if dst, ok := dst.(io.Writer); ok {
		return r.bounceTo(dst, off, min(n, bounceSize))
	}
	return 0, errors.ErrUnsupported
}
