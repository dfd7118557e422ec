package shm

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// CopyInFrom reads from src into n bytes of the region at off, with one read: at least one byte unless n is 0, and fewer than n where src
// has no more for now. It returns how many, and io.EOF where src has ended. src is a file, a pipe, a socket or the like, such as
// *os.File and *net.UnixConn; deadlines set on it hold. (Their SyscallConn allocates a few bytes each time; where that matters, pass a
// type that keeps what it returned.)
//
// On Linux the kernel writes the bytes into the region by itself (readv). On other systems they pass through a buffer, and src must be
// an io.Reader.
//
// It returns a *BoundsError where the bytes are not in the region, a *ReadOnlyError where it must not be written, and [os.ErrClosed]
// once it is closed.
func (r *Region) CopyInFrom(off int, src syscall.Conn, n int) (int, error) {
	if err := r.admitDescriptor("read", CopyIn, off, n); err != nil || n == 0 {
		return 0, err
	}
	done, err := r.readFrom(off, src, n)
	if err == io.EOF {
		return done, err
	}
	return done, transferError("read", off, n, err)
}

// CopyOutTo writes n bytes of the region from off to dst, with as many writes as it takes. It returns how many it wrote; that is fewer
// than n only with an error. dst is a file, a pipe, a stream socket or the like, such as *os.File and *net.UnixConn; deadlines set on it
// hold.
//
// On Linux the kernel reads the bytes from the region by itself (writev). On other systems they pass through a buffer, and dst must be
// an io.Writer.
//
// A peer can change the bytes until they are written: what must be checked before it is passed on is copied out first.
//
// It returns a *BoundsError where the bytes are not in the region, and [os.ErrClosed] once it is closed.
func (r *Region) CopyOutTo(dst syscall.Conn, off, n int) (int, error) {
	if err := r.admitDescriptor("write", CopyOut, off, n); err != nil {
		return 0, err
	}
	done := 0
	for done < n {
		k, err := r.writeTo(dst, off+done, n-done)
		done += k
		if err != nil {
			return done, transferError("write", off, n, err)
		}
	}
	return done, nil
}

func (r *Region) admitDescriptor(op string, kind Kind, off, n int) error {
	if err := r.span(op, off, n, kind == CopyIn); err != nil {
		return err
	}
	if !r.admit(kind, off, n) {
		return transferError(op, off, n, os.ErrClosed)
	}
	return nil
}

func transferError(op string, off, n int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("shm: %s %d bytes at offset %d: %w", op, n, off, err)
}

// bounceSize is how much of a transfer passes through a buffer at once.
const bounceSize = 64 << 10

// bounceFrom is readFrom through a buffer.
func (r *Region) bounceFrom(off int, src io.Reader, n int) (int, error) {
	buf := make([]byte, min(n, bounceSize))
	n, err := src.Read(buf)
	r.CopyIn(off, buf[:n])
	if n > 0 && err == io.EOF {
		err = nil // the next read says so again
	}
	return n, err
}

// bounceTo is writeTo through a buffer.
func (r *Region) bounceTo(dst io.Writer, off, n int) (int, error) {
	buf := make([]byte, min(n, bounceSize))
	r.CopyOut(buf, off)
	return dst.Write(buf)
}
