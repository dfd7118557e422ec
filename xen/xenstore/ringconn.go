package xenstore

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/shm"
)

// RingChannel is the event channel beside a ring page. An evtchn.Channel is one.
type RingChannel interface {
	// Notify sends an event to the other end.
	Notify() error
	// Handle has f called for each arrival, once now if one is outstanding; nil ends it. f does not block.
	Handle(f func())
	// Close frees the channel.
	Close() error
}

// RingConfig configures a [RingConn]. The zero value is what a guest wants.
type RingConfig struct {
	// Spin is how long a read looks at the ring before it sleeps until an event. The default is 0: not at all. It buys latency with
	// a busy processor: use it where a processor is to spare.
	Spin time.Duration
	// Reset, of a client, asks for a reset of the connection first, where the server can do that.
	Reset bool
	// Features, of a server, is what it advertises. The default is FeatureReconnection|FeatureError. A server that advertises
	// FeatureReconnection answers ErrRingReset with ResetDone.
	Features uint32
	// Logger takes what goes wrong. The default is silence.
	Logger *slog.Logger
}

// RingStats counts what went over a [RingConn].
type RingStats struct {
	BytesRead, BytesWritten uint64
	Notified                uint64 // events sent
	Arrivals                uint64 // events that came
	Sleeps                  uint64 // times that a read or write waited for an event
}

// RingConn is one end of a ring page as a stream of bytes that blocks. It is safe for concurrent use: one Read and one Write at a time
// go on, others wait their turn.
type RingConn struct {
	ch   RingChannel
	spin time.Duration
	log  *slog.Logger

	rmu sync.Mutex // held while the reading half of ring is used
	wmu sync.Mutex // held while the writing half of ring is used
	// ring's halves belong to rmu and wmu; where both are needed rmu is taken first.
	ring *Ring

	readable  chan struct{} // of capacity 1: an event came
	writable  chan struct{} // the same, for writers
	ended     chan struct{} // closed by end
	closeOnce sync.Once

	mu sync.Mutex
	// +checklocks:mu
	err error // why it has ended

	bytesRead, bytesWritten, notified, arrivals, sleeps atomic.Uint64
}

var _ io.ReadWriteCloser = (*RingConn)(nil)

// NewRingConn returns the end of the page that plays the role. It owns the channel, and Close closes it; the region stays the caller's,
// who may close it after Close has returned.
func NewRingConn(page *shm.Region, ch RingChannel, role RingRole, cfg *RingConfig) (*RingConn, error) {
	var conf RingConfig
	if cfg != nil {
		conf = *cfg
	}
	if conf.Features == 0 {
		conf.Features = FeatureReconnection | FeatureError
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	ring, err := NewRing(page, role, conf.Features)
	if err != nil {
		return nil, err
	}
	c := &RingConn{
		ch: ch, spin: conf.Spin, log: conf.Logger, ring: ring,
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	reset := role == RoleClient && conf.Reset && ring.RequestReset()
	ch.Handle(c.arrived)
	if reset {
		c.notify()
	}
	return c, nil
}

// arrived runs for each event. It wakes both halves: an event does not say which of them it is for.
func (c *RingConn) arrived() {
	c.arrivals.Add(1)
	wake(c.readable)
	wake(c.writable)
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// notify tells the peer. A channel that cannot has ended, and the connection with it: it was closed, or the domain was resumed.
func (c *RingConn) notify() {
	c.notified.Add(1)
	if err := c.ch.Notify(); err != nil && c.endedWith() == nil {
		c.log.Warn("xenstore ring: cannot notify the peer", "err", err)
		c.end(fmt.Errorf("xenstore: ring: notify the peer: %w", err))
	}
}

// end makes reads and writes return err, once.
func (c *RingConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.ended)
	}
}

// endedWith returns why the connection has ended, or nil.
func (c *RingConn) endedWith() error {
	select {
	case <-c.ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	default:
		return nil
	}
}

// Read implements [io.Reader]. It waits for at least one byte. Its errors are [net.ErrClosed] after Close, a *[RingError] where the
// peer broke the ring or says that we did, what the event channel answered where it cannot notify, and, of a server, [ErrRingReset].
func (c *RingConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	spun := c.spin <= 0
	for {
		n, err := c.tryRead(p)
		if n > 0 || err != nil {
			return n, err
		}
		if !spun {
			spun = true
			c.spinUntilReadable()
			continue
		}
		if err := c.sleep(c.readable); err != nil {
			return 0, err
		}
		spun = c.spin <= 0
	}
}

// tryRead reads what is there without waiting.
func (c *RingConn) tryRead(p []byte) (int, error) {
	if err := c.endedWith(); err != nil {
		return 0, err
	}
	c.rmu.Lock()
	n, notify, err := c.ring.Read(p)
	if n == 0 && err == nil {
		err = c.ring.PeerError()
	}
	c.rmu.Unlock()
	if notify || err != nil && err != ErrRingReset {
		c.notify()
	}
	c.bytesRead.Add(uint64(n))
	return n, err
}

// spinUntilReadable looks at the ring for a while. It lets others run between looks: where the peer is a goroutine of this process, it
// may need this processor to answer.
func (c *RingConn) spinUntilReadable() {
	for start := time.Now(); time.Since(start) < c.spin && c.endedWith() == nil; runtime.Gosched() {
		for range looksPerTurn {
			c.rmu.Lock()
			ok := c.ring.Readable()
			c.rmu.Unlock()
			if ok {
				return
			}
		}
	}
}

const looksPerTurn = 16

// sleep waits for an event.
func (c *RingConn) sleep(event <-chan struct{}) error {
	c.sleeps.Add(1)
	select {
	case <-event:
		return nil
	case <-c.ended:
		return c.endedWith()
	}
}

// Write implements [io.Writer]. It waits until all of p is in the ring. Its errors are those of Read.
func (c *RingConn) Write(p []byte) (int, error) {
	done := 0
	for {
		n, err := c.TryWrite(p[done:])
		done += n
		if done == len(p) || err != nil {
			return done, err
		}
		if n > 0 {
			continue
		}
		if err := c.sleep(c.writable); err != nil {
			return done, err
		}
	}
}

// TryWrite writes as much of p as has room now, without waiting.
func (c *RingConn) TryWrite(p []byte) (int, error) {
	if err := c.endedWith(); err != nil {
		return 0, err
	}
	c.wmu.Lock()
	n, notify, err := c.ring.Write(p)
	if n == 0 && err == nil && len(p) > 0 {
		err = c.ring.PeerError()
	}
	c.wmu.Unlock()
	if notify || err != nil && err != ErrRingReset {
		c.notify()
	}
	c.bytesWritten.Add(uint64(n))
	return n, err
}

// Fail, of a server, gives the connection up, tells the client why, and closes the end.
func (c *RingConn) Fail(code RingErrorCode) error {
	c.ring.Fail(code)
	c.notify()
	return c.Close()
}

// ResetDone, of a server, ends a reset that Read or Write has reported as [ErrRingReset]: the caller has dropped everything that
// belonged to the connection (partial messages, watches, transactions). Both rings are empty then.
func (c *RingConn) ResetDone() {
	c.rmu.Lock()
	c.wmu.Lock()
	c.ring.ResetDone()
	c.wmu.Unlock()
	c.rmu.Unlock()
	c.notify()
}

// Features returns what the server advertises, unknown bits included.
func (c *RingConn) Features() uint32 { return c.ring.Features() }

// Stats returns the connection's counters.
func (c *RingConn) Stats() RingStats {
	return RingStats{
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(),
		Notified: c.notified.Load(), Arrivals: c.arrivals.Load(), Sleeps: c.sleeps.Load(),
	}
}

// Close ends the use of the ring: reads and writes return [net.ErrClosed]. It returns when none of them touches the page any more. A
// second Close does nothing.
func (c *RingConn) Close() error {
	var err error
	c.closeOnce.Do(func() {
		c.end(net.ErrClosed)
		c.ch.Handle(nil)
		if e := c.ch.Close(); e != nil {
			err = fmt.Errorf("xenstore: ring: close the event channel: %w", e)
		}
		c.rmu.Lock() // whoever is at the page leaves it first
		c.wmu.Lock()
		c.ring.shut()
		c.wmu.Unlock()
		c.rmu.Unlock()
	})
	return err
}
