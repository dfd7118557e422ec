package attach

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Event is an event descriptor (eventfd): ringing it makes an event arrive wherever it is watched. It is never read, so its counter
// only says that it was rung. It is safe for concurrent use; after Close, ringing does nothing.
//
// Whoever has the descriptor can keep others from ringing: it fills the counter, and as whether a write then blocks is a property of
// the open file (O_NONBLOCK), which all who have it share, it has them wait. So one process alone rings an event, and the one that is
// to hear it gets an [Ear].
//
// It is no os.File because ringing must not wake the Go runtime's poller.
type Event struct {
	mu sync.RWMutex
	// +checklocks:mu
	fd int // -1 after Close
}

func newEvent(fd int) *Event { return &Event{fd: fd} }

// NewEvent makes an event descriptor. Its counter has room for 2^64 rings.
func NewEvent() (*Event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return newEvent(fd), nil
}

var one = [8]byte{1}

func ring(fd int) { unix.Write(fd, one[:]) }

// Ring rings the event. It neither blocks nor allocates.
func (e *Event) Ring() {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.fd >= 0 {
		ring(e.fd)
	}
}

// FD returns the descriptor. It is good for as long as the caller keeps Close from being called.
func (e *Event) FD() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.fd
}

// Close closes the descriptor. A second Close does nothing.
func (e *Event) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fd >= 0 {
		unix.Close(e.fd)
	}
	e.fd = -1
}

// Ear is a descriptor with which a process hears events and cannot ring them, nor get in the way of who rings: an epoll descriptor that
// watches them. It counts as readable after each ring, where it is watched edge-triggered, as a [Poller] does.
type Ear struct {
	fd int // -1 after Close
}

// NewEar makes a descriptor that hears the events.
func NewEar(events ...*Event) (*Ear, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	for _, e := range events {
		if err := watch(fd, e.FD(), unix.EPOLLIN, 0); err != nil {
			unix.Close(fd)
			return nil, err
		}
	}
	return &Ear{fd}, nil
}

// FD returns the descriptor, or -1 after Close.
func (e *Ear) FD() int { return e.fd }

// Close closes the descriptor. A second Close does nothing.
func (e *Ear) Close() {
	if e.fd >= 0 {
		unix.Close(e.fd)
	}
	e.fd = -1
}
