package attach

import (
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Poller runs a function each time that one of many event descriptors was rung. It has one goroutine, which blocks in epoll_wait and
// so has a thread of its own: an event then wakes the thread that deals with it, and not first the one of the Go runtime's poller.
//
// Descriptors are watched edge-triggered and never read: each ring is an edge, whatever the counter is.
type Poller struct {
	epfd   int
	stop   *Event
	done   chan struct{}
	closed atomic.Bool

	mu sync.Mutex
	// +checklocks:mu
	watched map[int32]func()
	// +checklocks:mu
	last int32
	// +checklocks:mu
	shut bool // epfd is no more
}

// NewPoller starts a poller. Close it after use.
func NewPoller() (*Poller, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	stop, err := NewEvent()
	if err != nil {
		unix.Close(epfd)
		return nil, err
	}
	p := &Poller{epfd: epfd, stop: stop, done: make(chan struct{}), watched: make(map[int32]func())}
	if _, err := p.Watch(stop, func() {}); err != nil {
		unix.Close(epfd)
		stop.Close()
		return nil, err
	}
	go p.run()
	return p, nil
}

func (p *Poller) run() {
	defer close(p.done)
	var events [64]unix.EpollEvent
	for !p.closed.Load() {
		n, err := unix.EpollWait(p.epfd, events[:], -1)
		if err != nil && err != unix.EINTR {
			return // only a descriptor that is none can bring that about, and Close waits before it closes it
		}
		for _, e := range events[:max(n, 0)] {
			if f := p.function(e.Fd); f != nil {
				f()
			}
		}
		// Whoever was woken runs now, on this thread and processor, and not after another thread was woken for it while this one goes
		// to sleep in the kernel: that makes a round trip between processes three times as fast.
		runtime.Gosched()
	}
}

func (p *Poller) function(id int32) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.watched[id]
}

// Watch runs f on the poller's goroutine after each ring of the event, from now on; if it was rung before, f runs once for that. f
// must not block. It returns an id for Forget.
func (p *Poller) Watch(e Watchable, f func()) (int32, error) { return p.add(e.FD(), unix.EPOLLIN, f) }

// Watchable is what a poller can watch: an [Event] or an [Ear].
type Watchable interface{ FD() int }

// watch has an epoll descriptor tell of a descriptor's edges, with an id.
func watch(epfd, fd int, events uint32, id int32) error {
	events |= unix.EPOLLET & 0xffffffff
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: id}))
}

// WatchHangup runs f on the poller's goroutine, once or several times, after the peer of a socket has gone, even if there is something
// to read still. f must not block. Closing the socket ends the watch; Forget, with no event, frees what is left of it.
func (p *Poller) WatchHangup(sock *net.UnixConn, f func()) (id int32, err error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { id, err = p.add(int(fd), unix.EPOLLRDHUP, f) })
	if cerr != nil {
		return 0, cerr
	}
	return id, err
}

func (p *Poller) add(fd int, events uint32, f func()) (int32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return 0, net.ErrClosed
	}
	p.last = next(p.last)
	for p.watched[p.last] != nil { // numbers come round after 2^31 watches
		p.last = next(p.last)
	}
	id := p.last
	p.watched[id] = f
	if err := watch(p.epfd, fd, events, id); err != nil {
		delete(p.watched, id)
		return 0, fmt.Errorf("attach: watch a descriptor: %w", err)
	}
	return id, nil
}

func next(id int32) int32 {
	if id == math.MaxInt32 {
		return 1
	}
	return id + 1
}

// Forget ends the watch id of e, which is open still, or of a socket, where e is nil. The function may still be running once.
// A function may forget its own watch or another.
func (p *Poller) Forget(id int32, e Watchable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watched, id)
	if e != nil && !p.shut {
		// Others may hold the same descriptor open, so closing it does not end the watch. An error would say that there is none.
		unix.EpollCtl(p.epfd, unix.EPOLL_CTL_DEL, e.FD(), nil)
	}
}

// Close ends the poller, and waits for a function that is running. A second Close does nothing.
func (p *Poller) Close() error {
	if p.closed.Swap(true) {
		<-p.done
		return nil
	}
	p.stop.Ring()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	clear(p.watched)
	p.stop.Close()
	return os.NewSyscallError("close", unix.Close(p.epfd))
}
