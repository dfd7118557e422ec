//go:build linux && (amd64 || arm64)

package xendev

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/shm"
)

// node is a device of the kernel. The descriptor is known beside its file, so that an ioctl neither takes the file out of the poller nor
// allocates.
type node struct {
	file *os.File

	mu sync.RWMutex
	// +checklocks:mu
	fd int // -1 after Close
}

// Open opens a device of the kernel.
func Open(name string) (Node, error) {
	path := Dir + name
	for {
		// O_NONBLOCK has the runtime's poller wait, where the driver knows how to be polled.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return &node{file: os.NewFile(uintptr(fd), path), fd: fd}, nil
	}
}

// Ioctl implements [Node].
func (n *node) Ioctl(req Request, arg []byte, ps ...Pointer) (uint64, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return 0, os.ErrClosed
	}
	if len(ps) > 0 {
		var pinner runtime.Pinner
		defer pinner.Unpin()
		for _, p := range ps {
			if len(p.Data) == 0 {
				le.PutUint64(arg[p.Off:], 0) // nothing is there to read
				continue
			}
			data := unsafe.SliceData(p.Data)
			pinner.Pin(data)
			le.PutUint64(arg[p.Off:], uint64(uintptr(unsafe.Pointer(data))))
		}
	}
	// EINTR is the caller's to judge: the kernel restarts what a signal interrupts, so it is the driver's answer, or Xen's.
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n.fd), uintptr(req), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	if errno != 0 {
		return 0, errno
	}
	return uint64(r), nil
}

// Read implements [Node].
func (n *node) Read(p []byte) (int, error) { return n.file.Read(p) }

// TryRead implements [Node].
func (n *node) TryRead(p []byte) (int, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return 0, os.ErrClosed
	}
	for {
		switch k, err := unix.Read(n.fd, p); err {
		case nil:
			return k, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

// Write implements [Node].
func (n *node) Write(p []byte) (int, error) { return n.file.Write(p) }

// Map implements [Node].
func (n *node) Map(offset uint64, pages int, writable bool) (*shm.Region, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return nil, os.ErrClosed
	}
	return shm.Map(writable, shm.Extent{FD: n.fd, First: int(offset / shm.PageSize), Pages: pages})
}

// Close implements [Node]. It waits for requests under way, which are Xen's to answer.
func (n *node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	n.fd = -1
	return n.file.Close()
}
