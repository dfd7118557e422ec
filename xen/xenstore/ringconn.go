package xenstore

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/internal/spin"
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
	// Spin is how long a read looks at the ring before it sleeps until an event, at most. How long it really does, it finds out by
	// itself: it spins while the peer is busy, and not on an idle connection. 0 is DefaultSpin, a negative one never spins, and on a
	// machine with one processor nothing does.
	Spin time.Duration
	// Reset, of a client, asks for a reset of the connection first, where the server can do that.
	Reset bool
	// Features, of a server, is what it advertises. 0 is FeatureReconnection|FeatureError: to advertise nothing takes a [Ring]. A
	// server that advertises FeatureReconnection answers ErrRingReset with ResetDone.
	Features uint32
	// Logger takes what goes wrong. The default is silence.
	Logger *slog.Logger
}

// DefaultSpin is how long a read of a [RingConn] looks at the ring before it sleeps, at most, where its RingConfig does not say.
const DefaultSpin = spin.DefaultMax

// RingStats counts what went over a [RingConn].
type RingStats struct {
	BytesRead, BytesWritten uint64
	Notified                uint64 // events sent
	Saved                   uint64 // events not sent, because the peer had taken everything by then
	Arrivals                uint64 // events that came
	Spins                   uint64 // times that a read waited for bytes, and found them without a sleep
	Sleeps                  uint64 // times that a read or write waited for an event
}

// RingConn is one end of a ring page as a stream of bytes that blocks. It is safe for concurrent use: one Read and one Write at a time
// go on, others wait their turn.
type RingConn struct {
	ch    RingChannel
	spin  spin.Waiter
	grace bool // whether a write looks for a moment if its event is needed
	log   *slog.Logger

	rmu sync.Mutex // held while the reading half of ring is used
	wmu sync.Mutex // held while the writing half of ring is used
	// ring's halves belong to rmu and wmu; where both are needed rmu is taken first.
	ring *Ring
	// patience belongs to wmu: how many notifications are to be sent without looking whether they are needed.
	patience int

	ready func() bool // is c.worthReading

	lookers atomic.Int32 // see lookIn
	passed  atomic.Bool  // an event came while somebody looked

	readable  chan struct{} // of capacity 1: an event came
	writable  chan struct{} // the same, for writers
	ended     chan struct{} // closed by end
	closeOnce sync.Once

	mu sync.Mutex
	// +checklocks:mu
	err error // why it has ended

	bytesRead, bytesWritten, notified, saved, arrivals, sleeps atomic.Uint64
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
		ch: ch, grace: conf.Spin >= 0, log: conf.Logger, ring: ring,
		readable: make(chan struct{}, 1), writable: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	c.ready = c.worthReading
	c.spin.Init(conf.Spin)
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
	wake(c.writable)
	c.passed.Store(true) // before the look at lookers: whoever looks away does that the other way round
	if c.lookers.Load() == 0 {
		wake(c.readable)
	}
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
	for {
		n, err := c.tryRead(p)
		if n > 0 || err != nil {
			return n, err
		}
		again, wait := c.spin.Spin(c.ready, c.readable)
		if again {
			continue
		}
		if err := c.sleep(c.readable); err != nil {
			return 0, err
		}
		c.spin.Slept(wait)
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

// worthReading reports whether tryRead would return something.
func (c *RingConn) worthReading() bool {
	if c.endedWith() != nil {
		return true
	}
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.ring.Readable()
}

// awaitEvent waits until it is worth to read.
func (c *RingConn) awaitEvent() error {
	if c.worthReading() {
		return nil
	}
	return c.sleep(c.readable)
}

// lookIn and lookAway stand around a time in which somebody looks at the ring and reads what comes, so that awaitEvent need not return
// for an event.
func (c *RingConn) lookIn() { c.lookers.Add(1) }

func (c *RingConn) lookAway() {
	c.lookers.Add(-1)
	// What was written before an event that was passed over is to be seen now.
	if c.passed.Swap(false) && (c.worthReading() || c.gaveUp()) {
		wake(c.readable)
	}
}

// gaveUp reports whether the server left an error in the page.
func (c *RingConn) gaveUp() bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.ring.PeerError() != nil
}

// waiter returns what decides how long to look for something to read.
func (c *RingConn) waiter() *spin.Waiter { return &c.spin }

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
	if notify && c.taken() {
		notify = false
		c.saved.Add(1)
	}
	c.wmu.Unlock()
	if notify || err != nil && err != ErrRingReset {
		c.notify()
	}
	c.bytesWritten.Add(uint64(n))
	return n, err
}

// A write looks up to looksForPeer times, which takes a few microseconds, whether its event is needed. If it was, the next eventsAfter
// events are sent without a look.
const (
	looksForPeer = 1000
	eventsAfter  = 16
)

// taken looks for a moment whether the peer takes what was written without being told: it spins then, and an event, which would cost
// both ends much more, would tell it nothing. One that has taken everything is not asleep for want of it. The caller holds wmu.
func (c *RingConn) taken() bool {
	if !c.grace {
		return false
	}
	if c.patience > 0 {
		c.patience--
		return false
	}
	h := &c.ring.out
	for range looksForPeer {
		if c.ring.page.Load32(h.peerOff).Is(h.own) {
			return true
		}
	}
	c.patience = eventsAfter
	return false
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

// ResetAsked, of a server, reports whether the client asks for a reset. It is for one that does not read for a while, and looks when
// Arrived says that an event came.
func (c *RingConn) ResetAsked() bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.ring.ResetAsked()
}

// Arrived returns a channel of capacity 1 that has something where an event came since the last Read slept. A Read that goes on at the
// same time may take it away.
func (c *RingConn) Arrived() <-chan struct{} { return c.readable }

// Features returns what the server advertises, unknown bits included.
func (c *RingConn) Features() uint32 { return c.ring.Features() }

// Stats returns the connection's counters.
func (c *RingConn) Stats() RingStats {
	return RingStats{
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(),
		Notified: c.notified.Load(), Saved: c.saved.Load(), Arrivals: c.arrivals.Load(),
		Spins: c.spin.Spins(), Sleeps: c.sleeps.Load(),
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
