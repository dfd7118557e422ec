package vchan

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/internal/spin"
)

// direction is what a Conn has once for reading and once for writing: whose turn it is, how it waits, until when, and counters.
type direction struct {
	turn     turn
	wake     chan struct{} // of capacity 1: there may be something to do
	deadline deadline
	spin     spin.Waiter
	changed  func() bool // whether the peer's index has moved

	bytes, ops, sleeps, spurious atomic.Uint64
}

func newDirection(maxSpin time.Duration, changed func() bool) *direction {
	d := &direction{turn: newTurn(), wake: make(chan struct{}, 1), changed: changed}
	d.spin.Init(maxSpin)
	d.deadline.signal = d.signal
	return d
}

// signal makes the present or the next wait look again.
func (d *direction) signal() { poke(d.wake) }

// count adds one operation of n bytes. Only the holder of the turn counts, so no locked addition is needed.
func (d *direction) count(n int) {
	d.bytes.Store(d.bytes.Load() + uint64(n))
	d.ops.Store(d.ops.Load() + 1)
}

// sleep waits for a signal.
func (d *direction) sleep() {
	d.sleeps.Add(1)
	<-d.wake
}

// turn lets one goroutine at a time into a direction, even while that one waits. Whoever is inside leaves when the connection closes
// or the deadline passes, so nobody needs to give up waiting for it.
type turn struct {
	n    atomic.Int32 // inside or waiting to be
	next chan struct{}
}

func newTurn() turn { return turn{next: make(chan struct{}, 1)} }

func (t *turn) take() {
	if t.n.Add(1) > 1 {
		<-t.next
	}
}

func (t *turn) leave() {
	if t.n.Add(-1) > 0 {
		t.next <- struct{}{}
	}
}

// deadline is a time after which operations fail. It makes no garbage when it is set again and again.
type deadline struct {
	signal  func()
	expired atomic.Bool

	mu sync.Mutex
	// +checklocks:mu
	when time.Time
	// +checklocks:mu
	timer *time.Timer
}

// set makes t the deadline; the zero time is none.
func (d *deadline) set(t time.Time) {
	if d.arm(t) {
		d.signal()
	}
}

// arm sets the timer and reports whether the deadline has passed already.
func (d *deadline) arm(t time.Time) (passed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.when = t
	if d.timer != nil {
		d.timer.Stop()
	}
	if t.IsZero() {
		d.expired.Store(false)
		return false
	}
	left := time.Until(t)
	d.expired.Store(left <= 0)
	switch {
	case left <= 0:
		return true
	case d.timer == nil:
		d.timer = time.AfterFunc(left, d.fire)
	default:
		d.timer.Reset(left)
	}
	return false
}

// fire is the timer's function.
func (d *deadline) fire() {
	if d.pass() {
		d.signal()
	}
}

// pass reports whether the deadline has passed. A timer that was stopped too late finds that its time is not up.
func (d *deadline) pass() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.when.IsZero() || time.Now().Before(d.when) {
		return false
	}
	d.expired.Store(true)
	return true
}

// left returns how long it is until the deadline, and whether there is one.
func (d *deadline) left() (time.Duration, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.when.IsZero() {
		return 0, false
	}
	return time.Until(d.when), true
}

// stop ends the timer.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.when = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
}
