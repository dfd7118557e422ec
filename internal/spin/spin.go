package spin

import (
	"runtime"
	"sync/atomic"
	"time"
)

// What a Waiter looks for at most, and how.
const (
	// DefaultMax is the largest window of a [Waiter], unless it is told another: more than it takes to wake a peer whose processor
	// sleeps and to have its answer, also on a virtual machine, where that takes 20 to 100 µs. (KVM's halt_poll_ns is the same.)
	DefaultMax = 200 * time.Microsecond
	// Start is the first window after none.
	Start = 10 * time.Microsecond
	// Free is how long every waiter may look that has a window, however many do.
	Free = 2 * time.Microsecond

	// minLook is less than a look takes. It bounds the looks where the clock stands still (testing/synctest).
	minLook = 4 * time.Nanosecond
	// looksPerClock is how often to look between two looks at the clock, which takes as long as some ten of them.
	looksPerClock = 16
	// firstYield is when others are first let run; after that always when twice as much time has passed. Not more often, because
	// runtime.Gosched wakes a thread wherever a processor is idle, and that one takes time from the peer.
	firstYield = 3 * time.Microsecond
)

// Waiter is one who waits for the same thing again and again, such as the reader of a ring. It is safe for concurrent use and does not
// allocate. The zero value never looks.
type Waiter struct {
	max    time.Duration // 0: never looks
	window atomic.Int64  // time.Duration
	spins  atomic.Uint64
}

// New returns a waiter that looks for up to max before it sleeps: for DefaultMax if max is 0, and never if it is negative. On a machine
// with one processor it never looks.
func New(max time.Duration) *Waiter {
	w := new(Waiter)
	w.Init(max)
	return w
}

// Init is New for a waiter that is part of something. Nobody may use it yet.
func (w *Waiter) Init(max time.Duration) {
	refreshPlaces()
	switch {
	case max < 0 || runtime.NumCPU() == 1 || runtime.GOMAXPROCS(0) == 1:
		w.max = 0
	case max == 0:
		w.max = DefaultMax
	default:
		w.max = max
	}
}

// Instant is when a wait began.
type Instant int64

var epoch = time.Now()

func now() Instant { return Instant(time.Since(epoch)) }

// Window returns how long the waiter would look now before it sleeps.
func (w *Waiter) Window() time.Duration { return time.Duration(w.window.Load()) }

// Spins returns how many waits ended by looking.
func (w *Waiter) Spins() uint64 { return w.spins.Load() }

// Spin begins a wait: it calls look until that reports true, for as long as the window says. It reports whether there is a reason to
// look closer and not to sleep: look said so, or there was something in wake, which it takes out then. A nil wake is not looked at.
// Otherwise the caller sleeps, and gives begin to Slept after it.
//
// look must be cheap, must not wait, and must also report true when there is nothing to wait for any more, unless wake then says so.
func (w *Waiter) Spin(look func() bool, wake <-chan struct{}) (again bool, begin Instant) {
	if w.max == 0 {
		return false, 0
	}
	begin = now()
	window := w.Window()
	if window == 0 {
		return false, begin
	}
	if again = spin(look, wake, begin, window); again {
		w.spins.Add(1)
	}
	return again, begin
}

func spin(look func() bool, wake <-chan struct{}, begin Instant, window time.Duration) bool {
	placed, yield := false, firstYield
	defer func() {
		if placed {
			leave()
		}
	}()
	for range max(1, window/(minLook*looksPerClock)) {
		for range looksPerClock {
			if look() {
				return true
			}
		}
		select {
		case <-wake:
			return true
		default:
		}
		past := time.Duration(now() - begin)
		if past >= window {
			return false
		}
		if past >= Free && !placed {
			if placed = enter(); !placed {
				return false
			}
		}
		if past >= yield {
			yield = 2 * past
			runtime.Gosched()
		}
	}
	return false
}

// Slept ends a wait that Spin began and that did not end there: the caller has slept and is awake again. A wait that the largest window
// would have covered doubles the window, a longer one halves it.
func (w *Waiter) Slept(begin Instant) {
	if w.max == 0 {
		return
	}
	refreshPlaces()
	window := w.Window()
	switch past := time.Duration(now() - begin); {
	case past <= w.max:
		window = min(max(2*window, Start), w.max)
	case window/2 >= Start:
		window /= 2
	default:
		window = 0
	}
	w.window.Store(int64(window))
}

// How many of this process look, and may.
var looking, places atomic.Int32

// refreshPlaces looks how many processors this process has. That takes a lock of the scheduler, so it is done where time does not matter.
func refreshPlaces() { places.Store(int32(min(runtime.GOMAXPROCS(0), runtime.NumCPU()) - 1)) }

// enter takes a place among those who look, if there is one.
func enter() bool {
	if looking.Add(1) <= places.Load() {
		return true
	}
	looking.Add(-1)
	return false
}

func leave() { looking.Add(-1) }
