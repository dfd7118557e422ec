package attach

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Event is an event descriptor (eventfd): ringing it makes an event arrive wherever it is watched. It is never read, so its counter
// only says that it was rung. It is safe for concurrent use; after Close, ringing does nothing.
//
// It is no os.File because ringing must never block, whatever a peer wrote to the counter, and must not wake the Go runtime's poller.
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

// Ring rings the event. It neither blocks nor allocates. What it cannot tell of is a counter that is full, which only a peer that
// wrote to it on purpose can bring about: that peer's own channel then is deaf.
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
