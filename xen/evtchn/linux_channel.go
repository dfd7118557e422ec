package evtchn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// deviceChannel is a [Channel] of a [Linux].
type deviceChannel struct {
	s      *session
	port   hypercall.Port
	notify []byte // the structure of the request, which nobody writes
	wake   chan struct{}
	done   chan struct{} // closed when the channel ends

	mu sync.Mutex
	// +checklocks:mu
	kept bool // an event was read and the port not written back: the kernel has it masked
	// +checklocks:mu
	arrived bool // an event came that no Wait has returned for
	// +checklocks:mu
	masked bool // Mask
	// +checklocks:mu
	held bool // an event came in spite of masked
	// +checklocks:mu
	resting bool // the handler ran so often that it is to rest
	// +checklocks:mu
	handler func()
	// +checklocks:mu
	runs int // of the handler since period began, less what was notified
	// +checklocks:mu
	period time.Duration // counted from the table's start
	// +checklocks:mu
	ended error // nil while the channel is open
	// +checklocks:mu
	told bool // Close has said that it is stale
}

var _ Channel = (*deviceChannel)(nil)

func newDeviceChannel(s *session, port hypercall.Port) *deviceChannel {
	return &deviceChannel{
		s: s, port: port, notify: xendev.U32s(uint32(port)), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// arrive takes in an event that was read. It reports whether the port is to be written back, so that the next one comes.
func (ch *deviceChannel) arrive() (back bool) {
	f := ch.enter()
	if f == nil {
		return false
	}
	f()
	return ch.release()
}

// enter puts an event where it belongs, and returns the handler where it is to run.
func (ch *deviceChannel) enter() func() {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.ended != nil {
		return nil
	}
	ch.kept = true
	if ch.masked {
		ch.held = true
		return nil
	}
	return ch.deliverLocked()
}

// deliverLocked makes an event an arrival: it wakes the waiter, or returns the handler, which the caller runs without the lock.
//
// +checklocks:ch.mu
func (ch *deviceChannel) deliverLocked() func() {
	ch.s.l.arrivals.Add(1)
	if ch.handler != nil {
		ch.paceLocked()
		return ch.handler
	}
	ch.arrived = true
	select {
	case ch.wake <- struct{}{}:
	default: // it has been woken
	}
	return nil
}

// paceLocked counts a run of the handler, and has the port rest where there are too many, as the channels of a [Native] do.
//
// +checklocks:ch.mu
func (ch *deviceChannel) paceLocked() {
	if ch.runs++; ch.runs <= handlerBurst {
		return
	}
	ch.runs = 0
	now := time.Since(ch.s.l.start)
	rest := handlerPeriod - (now - ch.period)
	ch.period = now
	if rest <= 0 || ch.resting {
		return
	}
	ch.s.l.throttled.Add(1)
	ch.period += rest
	ch.resting = true
	time.AfterFunc(rest, ch.endRest)
}

func (ch *deviceChannel) endRest() {
	ch.mu.Lock()
	ch.resting = false
	back := ch.releaseLocked()
	ch.mu.Unlock()
	ch.giveBack(back)
}

// release reports whether the port is to be written back now.
func (ch *deviceChannel) release() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.releaseLocked()
}

// +checklocks:ch.mu
func (ch *deviceChannel) releaseLocked() bool {
	if !ch.kept || ch.arrived || ch.masked || ch.resting || ch.ended != nil {
		return false
	}
	ch.kept = false
	return true
}

func (ch *deviceChannel) giveBack(back bool) {
	if back {
		ch.s.giveBack(ch.notify)
	}
}

// take consumes an arrival if there is one.
func (ch *deviceChannel) take() bool {
	took, back := ch.tryTake()
	ch.giveBack(back)
	return took
}

func (ch *deviceChannel) tryTake() (took, back bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !ch.arrived || ch.ended != nil {
		return false, false
	}
	ch.arrived = false
	return true, ch.releaseLocked()
}

// gone is the error of an operation on a channel that has ended, or nil.
func (ch *deviceChannel) gone(op string) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.goneLocked(op)
}

// +checklocks:ch.mu
func (ch *deviceChannel) goneLocked(op string) error {
	if ch.ended == nil {
		return nil
	}
	return &OpError{Op: op, Port: ch.port, Err: ch.ended}
}

// Port implements [Channel].
func (ch *deviceChannel) Port() hypercall.Port { return ch.port }

// Notify implements [Channel].
func (ch *deviceChannel) Notify() error {
	if err := ch.beginNotify(); err != nil {
		return err
	}
	if _, err := ch.s.node.Ioctl(xendev.EvtchnNotify, ch.notify); err != nil {
		if err := ch.gone("notify"); err != nil {
			return err // it was closed meanwhile
		}
		return &OpError{Op: "notify", Port: ch.port, Err: deviceError(err)}
	}
	ch.s.l.sent.Add(1)
	return nil
}

func (ch *deviceChannel) beginNotify() error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.runs > 0 {
		ch.runs--
	}
	return ch.goneLocked("notify")
}

// Wait implements [Channel].
func (ch *deviceChannel) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if spin := ch.s.l.cfg.Spin; spin > 0 && ch.spin(ctx, spin) {
		return nil
	}
	for {
		if ch.take() {
			return nil
		}
		if err := ch.gone("wait on"); err != nil {
			return err
		}
		select {
		case <-ch.wake:
		case <-ch.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// spin looks for an arrival for a while, and reports whether it took one. It lets other goroutines run: one of them takes events in.
func (ch *deviceChannel) spin(ctx context.Context, d time.Duration) bool {
	for begin := time.Now(); time.Since(begin) < d && ctx.Err() == nil && ch.gone("wait on") == nil; runtime.Gosched() {
		if ch.take() {
			return true
		}
	}
	return false
}

// Handle implements [Channel].
func (ch *deviceChannel) Handle(f func()) {
	if run := ch.setHandler(f); run != nil {
		run()
		ch.giveBack(ch.release())
	}
}

func (ch *deviceChannel) setHandler(f func()) (run func()) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.ended != nil {
		return nil
	}
	ch.handler = f
	if f == nil || !ch.arrived {
		return nil
	}
	ch.arrived = false
	return f
}

// Mask implements [Channel]. The kernel is not told: an event that comes is kept back here, and no other comes after it.
func (ch *deviceChannel) Mask() error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.masked = true
	return ch.goneLocked("mask")
}

// Unmask implements [Channel].
func (ch *deviceChannel) Unmask() error {
	if ch.beginUnmask() {
		// What came after the event that is held back is pending in Xen. It is to be the same arrival.
		ch.giveBack(true)
		ch.s.drain()
	}
	run, back, err := ch.unmask()
	if run != nil {
		run()
		back = ch.release()
	}
	ch.giveBack(back)
	return err
}

// beginUnmask reports whether the port is to be written back before events are let in.
func (ch *deviceChannel) beginUnmask() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if !ch.held || !ch.kept || ch.ended != nil {
		return false
	}
	ch.kept = false
	return true
}

func (ch *deviceChannel) unmask() (run func(), back bool, err error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	held := ch.held
	ch.masked, ch.held = false, false
	if err := ch.goneLocked("unmask"); err != nil {
		return nil, false, err
	}
	if held {
		if run := ch.deliverLocked(); run != nil {
			return run, false, nil
		}
	}
	return nil, ch.releaseLocked(), nil
}

// Status implements [Channel]. Where the table has no way to ask Xen the error is [errors.ErrUnsupported].
func (ch *deviceChannel) Status() (Status, error) {
	if err := ch.gone("status of"); err != nil {
		return Status{}, err
	}
	if ch.s.l.c == nil {
		return Status{}, &OpError{Op: "status of", Port: ch.port,
			Err: fmt.Errorf("there is no way to make hypercalls: %w", errors.ErrUnsupported)}
	}
	st, err := hypercall.PortStatus(ch.s.l.c, hypercall.DomSelf, ch.port)
	if err != nil {
		return Status{}, &OpError{Op: "status of", Port: ch.port, Err: err}
	}
	return Status{State: st.State, VCPU: st.VCPU, Remote: st.RemoteDom, Port: st.RemotePort, VIRQ: st.VIRQ}, nil
}

// Close implements [Channel].
func (ch *deviceChannel) Close() error {
	first, err := ch.shut(net.ErrClosed)
	if !first {
		return err
	}
	ch.s.remove(ch)
	if err := ch.s.unbind(ch.port); err != nil && !errors.Is(err, net.ErrClosed) {
		return &OpError{Op: "close", Port: ch.port, Err: err}
	}
	return nil
}

// shut ends the channel. Where it had ended already it returns what Close is to say of that: that it is stale, once.
func (ch *deviceChannel) shut(why error) (first bool, err error) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.ended != nil {
		if ch.ended == hypercall.ErrStale && !ch.told {
			ch.told = true
			return false, ch.goneLocked("close")
		}
		return false, nil
	}
	ch.ended = why
	ch.handler = nil
	close(ch.done)
	ch.s.l.channels.Add(-1)
	return true, nil
}
