package attach

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Event is an event descriptor (eventfd): ringing it makes an event arrive wherever it is watched. It is never read, so its counter
// only says that it was rung. It is safe for concurrent use; after Close, ringing does nothing.
//
// It is no os.File because ringing must not wake the Go runtime's poller, nor block, whatever a peer does to it. Whether a write to a full
// counter blocks is a property of the open file, which all processes share that have it: a peer can make it block (F_SETFL). So ringing
// looks first whether there is room. A peer that fills the counter between that look and the write has the ringer wait, at most until the
// event is closed: nobody rings with a lock that others need.
type Event struct {
	fd    int
	users atomic.Int64 // how many hold it, twice; and eventClosed
}

const (
	eventClosed = 1
	eventUser   = 2
)

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

// ready reports whether the descriptor can be read or written (unix.POLLIN, unix.POLLOUT) without waiting.
func ready(fd int, events int16) bool {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
	n, _ := unix.Poll(fds[:], 0)
	return n == 1 && fds[0].Revents&events != 0
}

// Hold keeps the descriptor open until Release, also past Close. It reports whether it is open.
func (e *Event) Hold() bool {
	for {
		n := e.users.Load()
		if n&eventClosed != 0 {
			return false
		}
		if e.users.CompareAndSwap(n, n+eventUser) {
			return true
		}
	}
}

// Release ends a Hold.
func (e *Event) Release() {
	if e.users.Add(-eventUser) == eventClosed {
		unix.Close(e.fd)
	}
}

// Ring rings the event. It does not allocate. What it cannot tell of is a counter that is full, which only a peer that wrote to it on
// purpose can bring about: that peer's own channel then is deaf.
func (e *Event) Ring() {
	if !e.Hold() {
		return
	}
	e.RingHeld()
	e.Release()
}

// RingHeld is Ring for who holds the event: it rings one that was closed meanwhile, too.
func (e *Event) RingHeld() {
	if ready(e.fd, unix.POLLOUT) {
		ring(e.fd)
	}
}

// FD returns the descriptor, or -1 after Close. It is good for as long as the caller keeps Close from being called.
func (e *Event) FD() int {
	if e.users.Load()&eventClosed != 0 {
		return -1
	}
	return e.fd
}

// Close closes the descriptor. It does not wait for who is ringing. A second Close does nothing.
func (e *Event) Close() {
	switch was := e.users.Or(eventClosed); {
	case was&eventClosed != 0:
	case was == 0:
		unix.Close(e.fd)
	default:
		e.drain()
	}
}

// drain lets those out who wait for room in the counter. The last of them closes the descriptor.
func (e *Event) drain() {
	var count [8]byte
	for e.users.Load() != eventClosed && ready(e.fd, unix.POLLIN) {
		unix.Read(e.fd, count[:])
	}
}
