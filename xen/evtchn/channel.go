package evtchn

import (
	"context"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// channel is a [Channel] of a [Native]. All that changes is in state and handler.
type channel struct {
	n       *Native
	inc     *incarnation
	port    hypercall.Port
	state   atomic.Uint32 // bits below
	handler atomic.Pointer[func()]
	wake    chan struct{} // of capacity 1: wakes the waiter, which then looks at state
	done    chan struct{} // closed when the channel ends

	// How often the handler ran since period began, less what was notified, and when that was, counted from the table's start.
	runs   atomic.Int32
	period atomic.Int64
	rested *time.Timer // ends resting; belongs to whoever set that
}

// A handler runs handlerBurst times in handlerPeriod, and once more for each Notify of this side, before the port is masked for what
// is left of the period.
const (
	handlerBurst  = 256
	handlerPeriod = time.Millisecond
)

// Bits of channel.state.
const (
	arrived   uint32 = 1 << iota // an event came that no Wait has returned for
	waiting                      // Wait sleeps, and is to be woken
	masked                       // Mask
	held                         // an event came in spite of masked
	throttled                    // masked because events come faster than Wait takes them
	resting                      // masked because the handler ran so often that it is to rest
	ended                        // closed or stale
	isStale                      // ended by a resume
	told                         // Close has said so
)

// arrive hands one event to whoever takes them.
func (ch *channel) arrive() {
	for {
		s := ch.state.Load()
		switch f := ch.handler.Load(); {
		case s&ended != 0:
			return
		case s&masked != 0:
			if ch.state.CompareAndSwap(s, s|held) {
				return
			}
		case f != nil:
			ch.n.arrivals.Add(1)
			ch.pace()
			(*f)()
			return
		case s&arrived != 0:
			if ch.state.CompareAndSwap(s, s|throttled) {
				ch.throttle()
				return
			}
		default:
			if ch.state.CompareAndSwap(s, s&^waiting|arrived) {
				ch.announce(s)
				return
			}
		}
	}
}

// announce tells of an arrival that was put into state, which was s before.
func (ch *channel) announce(s uint32) {
	ch.n.arrivals.Add(1)
	if s&waiting != 0 {
		select {
		case ch.wake <- struct{}{}:
		default: // it has been woken
		}
	}
	// A handler that was set meanwhile may have looked before the arrival was there.
	if f := ch.handler.Load(); f != nil && ch.take() {
		(*f)()
	}
}

// throttle keeps events out until the one that came before them has been taken: however fast the other end sends, this side works
// as fast as its waiter. The last event stays pending in shared_info, and arrives then.
func (ch *channel) throttle() {
	ch.n.throttled.Add(1)
	ch.settle()
}

// pace counts a run of the handler, and has the port masked for a while where there are too many. A handler does not say when it is
// done with what it was called for, so unlike with Wait the clock must tell a flood from traffic. It is read once in handlerBurst
// runs. Traffic that this side answers is not slowed down at all, because each Notify takes a run off the count. The last event stays
// pending in shared_info, and arrives when the rest is over.
func (ch *channel) pace() {
	if ch.runs.Add(1) <= handlerBurst {
		return
	}
	ch.runs.Store(0)
	now := time.Since(ch.n.start)
	rest := handlerPeriod - (now - time.Duration(ch.period.Swap(int64(now))))
	if rest <= 0 || !ch.beginRest() {
		return
	}
	ch.n.throttled.Add(1)
	ch.period.Store(int64(now + rest))
	if err := ch.settle(); err != nil {
		ch.n.cfg.Logger.Warn("evtchn: mask a port whose events come too fast", "port", ch.port, "error", err)
	}
	if ch.rested == nil {
		ch.rested = time.AfterFunc(time.Hour, ch.endRest) // assigned before it can fire
	}
	ch.rested.Reset(rest)
}

// beginRest makes the caller the one who has the handler rest, unless somebody else is.
func (ch *channel) beginRest() bool {
	for {
		s := ch.state.Load()
		if s&(ended|resting) != 0 {
			return false
		}
		if ch.state.CompareAndSwap(s, s|resting) {
			return true
		}
	}
}

func (ch *channel) endRest() {
	if ch.clearBits(resting)&ended != 0 {
		return
	}
	if err := ch.settle(); err != nil && ch.state.Load()&ended == 0 {
		ch.n.cfg.Logger.Warn("evtchn: unmask a port after its events came too fast", "port", ch.port, "error", err)
	}
}

// take consumes an arrival if there is one.
func (ch *channel) take() bool {
	for {
		s := ch.state.Load()
		if s&arrived == 0 || s&ended != 0 {
			return false
		}
		if ch.state.CompareAndSwap(s, s&^(arrived|throttled)) {
			if s&throttled != 0 {
				ch.settle()
			}
			return true
		}
	}
}

// settle makes the mask bit what state says. Of several that do it at the same time the last to write the bit looks at state once
// more, so in the end they agree, without a lock.
func (ch *channel) settle() error {
	const mask = masked | throttled | resting | ended
	for {
		s := ch.state.Load()
		if s&isStale != 0 {
			return nil // the page may be the next incarnation's by now
		}
		var err error
		if s&mask != 0 {
			ch.inc.core.Mask(ch.port)
		} else if ch.inc.core.Unmask(ch.port) {
			err = hypercall.UnmaskPort(ch.inc.c, ch.port)
		}
		if ch.n.makeGood(ch.inc, ch.port) {
			return err
		}
		if (s^ch.state.Load())&mask == 0 {
			// After Close the port may be another channel's already, whose mask this was not to touch.
			if now := ch.inc.slots[ch.port].Load(); now != nil && now != ch {
				return now.settle()
			}
			return err
		}
	}
}

// gone is the error of an operation on a channel that has ended.
func (ch *channel) gone(op string) error {
	if ch.state.Load()&isStale != 0 {
		return &OpError{Op: op, Port: ch.port, Err: hypercall.ErrStale}
	}
	return &OpError{Op: op, Port: ch.port, Err: net.ErrClosed}
}

// Port implements [Channel].
func (ch *channel) Port() hypercall.Port { return ch.port }

// Notify implements [Channel].
func (ch *channel) Notify() error {
	if ch.state.Load()&ended != 0 {
		return ch.gone("notify")
	}
	if err := hypercall.SendEvent(ch.inc.c, ch.port); err != nil {
		return &OpError{Op: "notify", Port: ch.port, Err: err}
	}
	ch.n.sent.Add(1)
	if ch.runs.Load() > 0 {
		ch.runs.Add(-1)
	}
	return nil
}

// Wait implements [Channel].
func (ch *channel) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if ch.take() || ch.n.cfg.Spin > 0 && ch.spin(ctx) {
		return nil
	}
	for {
		s := ch.state.Load()
		switch {
		case s&ended != 0:
			return ch.gone("wait on")
		case s&arrived != 0:
			if ch.take() {
				return nil
			}
			continue
		case !ch.state.CompareAndSwap(s, s|waiting):
			continue
		}
		select {
		case <-ch.wake:
		case <-ch.done:
		case <-ctx.Done():
			ch.clearBits(waiting)
			return ctx.Err()
		}
	}
}

// spin looks for an arrival for Config.Spin, and reports whether it took one. Now and then it lets other goroutines run, one of which
// may be the one that takes in events.
func (ch *channel) spin(ctx context.Context) bool {
	const yieldEvery, lookEvery = 32, 128
	begin := time.Now()
	for i := 1; ; i++ {
		s := ch.state.Load()
		switch {
		case s&ended != 0:
			return false
		case s&arrived != 0 && ch.take():
			return true
		case i%lookEvery == 0 && (time.Since(begin) >= ch.n.cfg.Spin || ctx.Err() != nil):
			return false
		case i%yieldEvery == 0:
			runtime.Gosched()
		}
	}
}

// clearBits clears bits of state, and returns what it was.
func (ch *channel) clearBits(bits uint32) uint32 { return ch.state.And(^bits) }

// Handle implements [Channel].
func (ch *channel) Handle(f func()) {
	if f == nil {
		ch.handler.Store(nil)
		return
	}
	ch.handler.Store(&f)
	if ch.take() {
		f()
	}
}

// Mask implements [Channel].
func (ch *channel) Mask() error {
	if ch.state.Or(masked)&ended != 0 {
		return ch.gone("mask")
	}
	return ch.settled("mask")
}

// Unmask implements [Channel].
func (ch *channel) Unmask() error {
	was := ch.clearBits(masked | held)
	if was&ended != 0 {
		return ch.gone("unmask")
	}
	err := ch.settled("unmask")
	if was&held != 0 {
		ch.arrive()
	}
	return err
}

func (ch *channel) settled(op string) error {
	if err := ch.settle(); err != nil {
		return &OpError{Op: op, Port: ch.port, Err: err}
	}
	return nil
}

// Status implements [Channel].
func (ch *channel) Status() (Status, error) {
	if ch.state.Load()&ended != 0 {
		return Status{}, ch.gone("status of")
	}
	st, err := hypercall.PortStatus(ch.inc.c, hypercall.DomSelf, ch.port)
	if err != nil {
		return Status{}, &OpError{Op: "status of", Port: ch.port, Err: err}
	}
	return Status{State: st.State, VCPU: st.VCPU, Remote: st.RemoteDom, Port: st.RemotePort, VIRQ: st.VIRQ}, nil
}

// Close implements [Channel].
func (ch *channel) Close() error {
	if ch.state.Or(ended)&ended != 0 {
		if ch.state.Load()&isStale != 0 && ch.state.Or(told)&told == 0 {
			return ch.gone("close")
		}
		return nil
	}
	ch.leave()
	return ch.free()
}

// free gives the port back.
func (ch *channel) free() error {
	// Masked, so that an event for this channel does not find the next one that gets the port. What is pending Xen clears when it closes
	// the port.
	ch.inc.core.Mask(ch.port)
	ch.inc.slots[ch.port].CompareAndSwap(ch, nil) // before Xen may give the port to somebody else
	if ch.n.makeGood(ch.inc, ch.port) {
		return nil // Xen closed it when the domain was suspended
	}
	if err := hypercall.ClosePort(ch.inc.c, ch.port); err != nil {
		if ch.n.now.Load() != ch.inc {
			err = hypercall.ErrStale
		}
		return &OpError{Op: "close", Port: ch.port, Err: err}
	}
	return nil
}

// abandon ends a channel of an earlier incarnation.
func (ch *channel) abandon() {
	if ch.state.Or(ended|isStale)&ended == 0 {
		ch.leave()
	}
}

// leave wakes whoever waits; nothing arrives any more.
func (ch *channel) leave() {
	ch.handler.Store(nil)
	close(ch.done)
	ch.n.open.Add(-1)
}

var _ Channel = (*channel)(nil)
