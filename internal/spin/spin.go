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
	// Least is the smallest window but none.
	Least = 4 * time.Microsecond
	// Free is how long every waiter may look that has a window, however many do.
	Free = 2 * time.Microsecond

	// minLook is less than a look takes. It bounds the looks where the clock stands still (testing/synctest).
	minLook = 4 * time.Nanosecond
	// looksPerClock is how often to look between two looks at the clock, which takes as long as some ten of them.
	looksPerClock = 16
	// firstYield is when the thread first lets other threads have its processor; after that always when twice as much time has passed.
	// It is for a peer in another process: Linux likes to wake it on the processor of the one who rings, where it would wait for the end
	// of the window.
	firstYield = 4 * time.Microsecond
	// firstGosched is when other goroutines are first let run: one that this one has just woken waits for this one's thread, for a long
	// time by these measures, and may be the peer. It is done again at secondGosched, and then always when twice as much time has passed:
	// no earlier, because it wakes a thread where a processor is idle, which takes time from others.
	firstGosched  = time.Microsecond
	secondGosched = 20 * time.Microsecond
	// longYield is how long it may take to get the processor back. Where it takes longer others have better use for it.
	longYield = 100 * time.Microsecond
)

// Waiter is one who waits for the same thing again and again, such as the reader of a ring. It is safe for concurrent use and does not
// allocate. The zero value never looks.
type Waiter struct {
	max    time.Duration // 0: never looks
	yield  func()        // yieldThread, but in tests
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
	w.yield = yieldThread
	switch {
	case max < 0 || runtime.NumCPU() == 1 || runtime.GOMAXPROCS(0) == 1:
		w.max = 0
	case max == 0:
		w.max = DefaultMax
	default:
		w.max = max
	}
}

// Wait is a wait that Spin began. It belongs to one Waiter.
type Wait struct {
	begin, asleep time.Duration // when it began, and when Spin returned
}

var epoch = time.Now()

func now() time.Duration { return time.Since(epoch) }

// Window returns how long the waiter would look now before it sleeps.
func (w *Waiter) Window() time.Duration { return time.Duration(w.window.Load()) }

// Spins returns how many waits ended by looking.
func (w *Waiter) Spins() uint64 { return w.spins.Load() }

// Spin begins a wait: it calls look until that reports true, for as long as the window says. It reports whether there is a reason to
// look closer and not to sleep: look said so, or there was something in wake, which it takes out then. A nil wake is not looked at.
// Otherwise the caller sleeps, and gives wait to Slept after it.
//
// look must be cheap, must not wait, and must also report true when there is nothing to wait for any more, unless wake then says so.
func (w *Waiter) Spin(look func() bool, wake <-chan struct{}) (again bool, wait Wait) {
	if w.max == 0 {
		return false, Wait{}
	}
	begin := now()
	window := w.Window()
	if window == 0 {
		return false, Wait{begin, begin}
	}
	if w.spin(look, wake, begin, window) {
		w.spins.Add(1)
		return true, Wait{}
	}
	return false, Wait{begin, now()}
}

func (w *Waiter) spin(look func() bool, wake <-chan struct{}, begin, window time.Duration) bool {
	placed, yield, gosched := false, firstYield, firstGosched
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
		past := now() - begin
		if past >= window {
			return false
		}
		if past >= Free && !placed {
			if placed = enter(); !placed {
				return false
			}
		}
		switch {
		case past >= gosched:
			gosched = max(2*past, secondGosched)
			if placed {
				placed = false
				leave() // the one who runs now may need the place
			}
			runtime.Gosched()
		case past >= yield:
			yield = 2 * past
			w.yield()
			if now()-begin-past > longYield {
				w.shrink(window)
				return look()
			}
		}
	}
	return false
}

// shrink halves the window.
func (w *Waiter) shrink(window time.Duration) {
	if window /= 2; window < Least {
		window = 0
	}
	w.window.Store(int64(window))
}

// Slept ends a wait that Spin began and that did not end there: the caller has slept and is awake again. If the whole took no longer than
// the largest window, the next looks last twice as long, so that they would have covered it. If it took longer, the window is halved; and
// also if the sleep was shorter than the look before it, because the look was in the way then: the one that is waited for had not got
// the processor or the thread before that was given up.
func (w *Waiter) Slept(wait Wait) {
	if w.max == 0 {
		return
	}
	refreshPlaces()
	awake := now()
	took := awake - wait.begin
	if took > w.max || awake-wait.asleep < wait.asleep-wait.begin {
		w.shrink(w.Window())
		return
	}
	w.window.Store(int64(min(max(2*took, Least), w.max)))
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
