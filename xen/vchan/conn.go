package vchan

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Conn is one end of a connected vchan, a [net.Conn]. It is safe for concurrent use: a Read and a Write never wait for each other,
// Reads are done one after the other, and so are Writes, each whole.
//
// Errors are *net.OpError around io.EOF (bare, as [io.Reader] has it: the peer has closed and everything was read), syscall.EPIPE (the
// peer has closed, written to), syscall.ECONNRESET (the peer's domain is gone and did not close), os.ErrDeadlineExceeded,
// net.ErrClosed, hypercall.ErrStale (this domain was suspended and resumed), ErrEnded (it has ended) or a *PeerError.
type Conn struct {
	core          *Core
	ch            evtchn.Channel
	ctl           *shm.Region
	local, remote Addr
	maxPacket     int
	log           *slog.Logger
	home          *home
	free          func() // gives back the memory and the channel

	rd, wr *direction
	linger atomic.Int64 // time.Duration

	closed  atomic.Bool
	gone    atomic.Bool // Xenstore says that the peer's domain is no more
	failure atomic.Pointer[failure]

	sent, received atomic.Uint64 // notifications
}

// failure is why a connection is broken.
type failure struct{ err error }

var _ net.Conn = (*Conn)(nil)

// newConn makes a connection of a core whose handshake is done. free is called once, at the end of Close.
func newConn(h *home, core *Core, ctl *shm.Region, ch evtchn.Channel, local, remote Addr, cfg *Config, free func()) *Conn {
	c := &Conn{
		core: core, ch: ch, ctl: ctl, local: local, remote: remote, maxPacket: cfg.MaxPacket, log: cfg.Logger, home: h, free: free,
		rd: newDirection(cfg.Spin, core.In.Changed), wr: newDirection(cfg.Spin, core.Out.Changed),
	}
	c.linger.Store(int64(cfg.Linger))
	ch.Handle(c.onEvent)
	return c
}

// onEvent runs for each arrival. One channel serves both directions: each looks for itself whether the event was meant for it.
func (c *Conn) onEvent() {
	c.received.Add(1)
	c.rd.signal()
	c.wr.signal()
}

// notify sends an event to the peer.
func (c *Conn) notify() error {
	c.sent.Add(1)
	if err := c.ch.Notify(); err != nil {
		return c.fail(err)
	}
	return nil
}

// fail breaks the connection in both directions and returns why it is broken; the first reason stays.
func (c *Conn) fail(err error) error {
	if !errors.As(err, new(*PeerError)) && !c.closed.Load() {
		err = c.home.verdict(err)
	}
	if c.failure.CompareAndSwap(nil, &failure{err}) {
		c.rd.signal()
		c.wr.signal()
	}
	return c.failure.Load().err
}

// domainReleased is told that a domain has died, and whether Xenstore still knows the peer's. Where Xenstore does not say (err), Xen
// itself does: the channel of a peer that is no more is unbound.
func (c *Conn) domainReleased(introduced bool, err error) {
	if err == nil && introduced {
		return
	}
	if err != nil {
		if s, e := c.ch.Status(); e != nil || s.State == evtchn.Interdomain {
			return
		}
	}
	c.gone.Store(true)
	c.rd.signal()
	c.wr.signal()
}

// homeChanged is told that this domain may have ended, or be in another incarnation.
func (c *Conn) homeChanged() {
	if err := c.home.lost(); err != nil && !c.closed.Load() {
		_ = c.fail(err)
	}
	c.wr.signal() // Close may wait
}

// interrupted returns why an operation in the direction must not start or go on, if so.
func (c *Conn) interrupted(d *direction) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	if d.deadline.expired.Load() {
		return os.ErrDeadlineExceeded
	}
	if f := c.failure.Load(); f != nil {
		return f.err
	}
	return nil
}

// settle turns an error of the core into the connection's.
func (c *Conn) settle(err error) error {
	if err == nil {
		return nil
	}
	if errors.As(err, new(*PeerError)) || errors.Is(err, hypercall.ErrStale) {
		return c.fail(err)
	}
	return err
}

// Read reads at least one byte, waiting for it, and at most len(p).
func (c *Conn) Read(p []byte) (int, error) {
	c.rd.turn.take()
	n, err := c.read(p)
	c.rd.turn.leave()
	return n, c.opError("read", err)
}

func (c *Conn) read(p []byte) (int, error) {
	for waited := false; ; waited = true {
		if err := c.interrupted(c.rd); err != nil {
			return 0, err
		}
		gone := c.gone.Load()
		n, notify, err := c.core.In.TryRead(p)
		if notify {
			// The bytes are the caller's already; a channel that fails shows itself at the next operation.
			_ = c.notify()
		}
		if n > 0 || err != nil || len(p) == 0 {
			c.rd.count(n)
			return n, c.settle(err)
		}
		if gone {
			return 0, syscall.ECONNRESET
		}
		if err := c.awaitData(1, waited); err != nil {
			return 0, err
		}
	}
}

// awaitData waits until there may be want bytes to read, or another reason to look. The caller has the turn.
func (c *Conn) awaitData(want int, waited bool) error {
	again, wait := c.rd.spin.Spin(c.rd.changed, c.rd.wake)
	if again {
		return nil
	}
	ready, err := c.core.In.Arm(want)
	if ready || err != nil {
		return c.settle(err)
	}
	if waited {
		c.rd.spurious.Add(1)
	}
	c.rd.sleep()
	c.rd.spin.Slept(wait)
	return nil
}

// Write writes all of p, waiting for space. If it fails, n bytes were written before.
func (c *Conn) Write(p []byte) (int, error) {
	c.wr.turn.take()
	n, err := c.write(p)
	c.wr.turn.leave()
	return n, c.opError("write", err)
}

func (c *Conn) write(p []byte) (done int, err error) {
	defer func() { c.wr.count(done) }()
	for waited := false; ; waited = true {
		if err := c.interrupted(c.wr); err != nil {
			return done, err
		}
		if c.gone.Load() {
			return done, syscall.ECONNRESET
		}
		n, notify, err := c.core.Out.TryWrite(p[done:])
		if done += n; notify {
			if err := c.notify(); err != nil {
				return done, err
			}
		}
		if err != nil || done == len(p) {
			return done, c.settle(err)
		}
		if n > 0 {
			waited = false
			continue
		}
		if err := c.awaitSpace(1, waited); err != nil {
			return done, err
		}
	}
}

// awaitSpace waits until there may be space for want bytes, or another reason to look. The caller has the turn.
func (c *Conn) awaitSpace(want int, waited bool) error {
	again, wait := c.wr.spin.Spin(c.wr.changed, c.wr.wake)
	if again {
		return nil
	}
	ready, err := c.core.Out.Arm(want)
	if ready || err != nil {
		return c.settle(err)
	}
	if waited {
		c.wr.spurious.Add(1)
	}
	c.wr.sleep()
	c.wr.spin.Slept(wait)
	return nil
}

// UnreadError says that a connection was closed although the peer had not read everything.
type UnreadError struct {
	Bytes int   // written, and not read by the peer when Close stopped waiting; a peer that is there still may read them later
	Err   error // os.ErrDeadlineExceeded: Close waited long enough. syscall.EPIPE: the peer has closed, or its domain is gone.
}

func (e *UnreadError) Error() string {
	return fmt.Sprintf("the peer left %d bytes unread: %v", e.Bytes, e.Err)
}

// Unwrap returns why Close did not wait any longer.
func (e *UnreadError) Unwrap() error { return e.Err }

// Close ends the connection. Reads and Writes under way return net.ErrClosed. Then Close waits until the peer has read what was written,
// because a peer with libxenvchan loses what it has not read when it sees the close; it waits no longer than the linger time, nor past a
// write deadline that lies in the future, and not for a peer that has closed. A write deadline that has passed does not count: crypto/tls
// sets one before it closes. http.Server's Close closes its connections one after the other, each with its linger time: where clients
// may not read, give them a short one (Config.Linger or SetLinger).
//
// What the peer writes meanwhile is thrown away, so that two ends that close at the same time do not wait for each other. Close returns
// an *UnreadError inside a *net.OpError if something was left. A second Close returns nil at once.
func (c *Conn) Close() error {
	if !c.enterClose() {
		return nil
	}
	err := c.drain()
	c.core.Close()
	c.leave()
	return c.opError("close", err)
}

// Abort ends the connection at once, and lets the peer know that it was no orderly end: its Read returns syscall.ECONNRESET after what was
// written, as it does where this end has died. It is what closing a TCP connection with a linger of 0 does. A peer with libxenvchan sees a
// close.
func (c *Conn) Abort() {
	if !c.enterClose() {
		return
	}
	c.core.Abort()
	c.leave()
}

// enterClose makes the caller the one who closes the connection, and gives it the core alone. It returns false where somebody else is.
func (c *Conn) enterClose() bool {
	if c.closed.Swap(true) {
		return false
	}
	c.rd.signal()
	c.wr.signal()
	// Whoever is inside leaves at once, and whoever comes later sees that the connection is closed before it touches the core: from
	// here on that is this call's alone.
	c.rd.turn.take()
	c.wr.turn.take()
	c.rd.turn.leave()
	c.wr.turn.leave()
	return true
}

// leave tells the peer, and gives everything back.
func (c *Conn) leave() {
	c.sent.Add(1)
	if e := c.ch.Notify(); e != nil {
		c.log.Debug("vchan: telling the peer of the close", "remote", c.remote.String(), "err", e)
	}
	c.rd.deadline.stop()
	c.wr.deadline.stop()
	c.free()
}

// abort closes the connection without waiting for the peer.
func (c *Conn) abort() {
	c.linger.Store(0)
	_ = c.Close()
}

// drain waits until the peer has read everything. Only Close calls it.
func (c *Conn) drain() error {
	if c.failure.Load() != nil {
		return nil
	}
	var over atomic.Bool
	if wait := c.patience(); wait > 0 {
		timer := time.AfterFunc(wait, func() {
			over.Store(true)
			c.wr.signal()
		})
		defer timer.Stop()
	} else {
		over.Store(true)
	}
	for {
		n, open, err := c.core.Out.Unread()
		switch {
		case c.ctl.Closed() || c.home.lost() != nil:
			return nil // the domain was resumed or has ended: what was in the memory is gone, and the peer with it
		case n == 0 || err != nil:
			return err
		case !open || c.core.In.closed || c.gone.Load(): // a close is final, whichever half saw it
			return &UnreadError{n, syscall.EPIPE}
		case over.Load():
			return &UnreadError{n, os.ErrDeadlineExceeded}
		}
		if err := c.awaitReader(n); err != nil {
			return err
		}
	}
}

// patience returns how long Close waits at most. A deadline in the past says that nothing shall be written any more; it does not bound
// what was.
func (c *Conn) patience() time.Duration {
	wait := time.Duration(c.linger.Load())
	if left, ok := c.wr.deadline.left(); ok && left > 0 {
		wait = min(wait, left)
	}
	return wait
}

// awaitReader throws away what the peer has written, so that it may come to read, and waits until it has read some of the n bytes, or
// there is another reason to look.
func (c *Conn) awaitReader(n int) error {
	_, notify, err := c.core.In.TryDiscard()
	if err == nil && notify {
		err = c.notify()
	}
	if err != nil {
		return err
	}
	if more, err := c.core.In.Arm(1); more || err != nil {
		return err
	}
	if read, err := c.core.Out.Arm(c.core.Out.Size() - n + 1); read || err != nil {
		return err
	}
	c.wr.sleep()
	return nil
}

// LocalAddr returns this domain and the path of the vchan.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the peer's domain, which Xen vouches for (only it can map the memory), and the path of the vchan.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadline of Reads and of Writes.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, c.rd, c.wr)
}

// SetReadDeadline sets the deadline of Reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(t, c.rd)
}

// SetWriteDeadline sets the deadline of Writes. Close does not wait past it either, if it is in the future then.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(t, c.wr)
}

func (c *Conn) setDeadlines(t time.Time, ds ...*direction) error {
	if c.closed.Load() {
		return c.opError("set", net.ErrClosed)
	}
	for _, d := range ds {
		d.deadline.set(t)
	}
	return nil
}

// SetLinger sets how long Close waits for the peer to read, in place of Config.Linger; 0 or less does not wait.
func (c *Conn) SetLinger(d time.Duration) { c.linger.Store(int64(d)) }

// Role returns which end of the vchan this is.
func (c *Conn) Role() Role { return c.core.Role() }

// Rings returns the sizes of the ring that this end reads and of the one that it writes, in bytes.
func (c *Conn) Rings() (read, write int) { return c.core.In.Size(), c.core.Out.Size() }

// opError puts an error into the form that package net's connections give theirs.
func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: Network, Source: c.local, Addr: c.remote, Err: err}
}

// Stats counts what a Conn did.
type Stats struct {
	BytesRead, BytesWritten uint64
	Reads, Writes           uint64 // calls that returned
	NotificationsSent       uint64 // events sent to the peer
	NotificationsReceived   uint64 // events that arrived
	Spins                   uint64 // waits that ended without a sleep, because spinning found something
	Sleeps                  uint64 // waits that slept
	Spurious                uint64 // wake-ups that found nothing to do
}

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	return Stats{
		BytesRead: c.rd.bytes.Load(), BytesWritten: c.wr.bytes.Load(),
		Reads: c.rd.ops.Load(), Writes: c.wr.ops.Load(),
		NotificationsSent: c.sent.Load(), NotificationsReceived: c.received.Load(),
		Spins:    c.rd.spin.Spins() + c.wr.spin.Spins(),
		Sleeps:   c.rd.sleeps.Load() + c.wr.sleeps.Load(),
		Spurious: c.rd.spurious.Load() + c.wr.spurious.Load(),
	}
}
