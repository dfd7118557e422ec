package spin

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func never() bool  { return false }
func always() bool { return true }

// newWaiter returns a waiter with a window, as on a machine with two processors at least.
func newWaiter(maximum, window time.Duration) *Waiter {
	w := &Waiter{max: maximum, yield: yieldThread}
	w.window.Store(int64(window))
	return w
}

// The window becomes twice what a short wait took, up to its maximum, and shrinks after long ones to nothing.
func TestWindow(t *testing.T) {
	const second = time.Second // so that what the test takes does not count
	w := newWaiter(100*second, 0)
	// slept ends a wait of which so much was spent looking, and so much asleep.
	slept := func(looked, asleep time.Duration) time.Duration {
		w.Slept(Wait{now() - asleep - looked, now() - asleep})
		return w.Window().Round(second)
	}
	require.Equal(t, 20*second, slept(0, 10*second))
	require.Equal(t, 60*second, slept(10*second, 20*second))
	require.Equal(t, 100*second, slept(10*second, 80*second))
	require.Equal(t, 50*second, slept(60*second, 10*second), "the look was in the way")
	require.Equal(t, 25*second, slept(25*second, 1000*second), "an idle peer")
	w.window.Store(int64(2*Least - 1))
	slept(0, 1000*second)
	require.Zero(t, w.Window())
	at := now()
	w.Slept(Wait{at, at})
	require.GreaterOrEqual(t, w.Window(), Least)
}

func TestMaximum(t *testing.T) {
	if runtime.GOMAXPROCS(0) > 1 && runtime.NumCPU() > 1 {
		require.Equal(t, DefaultMax, New(0).max)
		require.Equal(t, time.Second, New(time.Second).max)
	}
	require.Zero(t, New(-1).max)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	require.Zero(t, New(0).max, "with one processor")
}

// Where there is no window, nothing is looked at.
func TestNoWindow(t *testing.T) {
	for _, w := range []*Waiter{{}, New(-1), newWaiter(time.Second, 0)} {
		again, wait := w.Spin(func() bool { t.Error("looked"); return true }, nil)
		require.False(t, again)
		if w.max == 0 {
			w.Slept(wait)
			require.Zero(t, w.Window())
		}
	}
}

func TestSpinEnds(t *testing.T) {
	places.Store(1)
	w := newWaiter(time.Hour, time.Hour)
	again, _ := w.Spin(always, nil)
	require.True(t, again)
	require.Equal(t, time.Hour, w.Window(), "what was found leaves the window as it is")

	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	again, _ = w.Spin(never, wake)
	require.True(t, again)
	require.Empty(t, wake, "the token is used up")
	closed := make(chan struct{})
	close(closed)
	again, _ = w.Spin(never, closed)
	require.True(t, again)
	require.EqualValues(t, 3, w.Spins())

	w = newWaiter(time.Hour, 50*time.Microsecond)
	start := time.Now()
	again, _ = w.Spin(never, wake)
	require.False(t, again)
	require.Less(t, time.Since(start), 5*time.Second)
	require.Zero(t, looking.Load())
}

// Who finds no place leaves after a moment; who has one gives it back.
func TestPlaces(t *testing.T) {
	defer refreshPlaces()
	places.Store(1)
	require.True(t, enter())
	require.False(t, enter())
	again, _ := newWaiter(time.Hour, time.Hour).Spin(never, nil)
	require.False(t, again)
	leave()
	require.Zero(t, looking.Load())

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			w := newWaiter(time.Hour, 100*time.Microsecond)
			for range 20 {
				w.Spin(never, nil)
			}
		})
	}
	all.Wait()
	require.Zero(t, looking.Load())
}

// A thread that got its processor back late is not to have it for long: it stops looking, and looks less long the next time.
func TestLongYield(t *testing.T) {
	places.Store(1)
	defer refreshPlaces()
	w := newWaiter(time.Hour, time.Hour)
	var yields, afterwards int
	w.yield = func() {
		yields++
		for start := now(); now()-start <= longYield; { // somebody else runs
		}
	}
	look := func() bool { // patient, but not for ever
		if yields > 0 {
			afterwards++
		}
		return afterwards > 1e6
	}
	again, _ := w.Spin(look, nil)
	require.False(t, again)
	require.Equal(t, 1, yields)
	require.Equal(t, 1, afterwards, "one last look")
	require.Equal(t, time.Hour/2, w.Window())
	require.Zero(t, looking.Load())

	again, _ = w.Spin(func() bool { return yields > 1 }, nil)
	require.True(t, again, "what came while others ran is seen")
}

// A goroutine of this process that is waited for runs, even if there is but one thread for both.
func TestOthersRun(t *testing.T) {
	places.Store(1)
	defer refreshPlaces()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 100 {
		var done atomic.Bool
		go done.Store(true)
		for !done.Load() {
			newWaiter(time.Hour, time.Hour).Spin(done.Load, nil)
		}
	}
}

// Where the clock stands still, looking ends all the same.
func TestBubble(t *testing.T) {
	places.Store(1)
	defer refreshPlaces()
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter(DefaultMax, DefaultMax)
		wake := make(chan struct{}, 1)
		time.AfterFunc(time.Hour, func() { wake <- struct{}{} })
		again, wait := w.Spin(never, wake)
		require.False(t, again)
		<-wake
		w.Slept(wait)
		require.Equal(t, DefaultMax/2, w.Window())
	})
}

func TestNoAllocations(t *testing.T) {
	w := newWaiter(50*time.Microsecond, 20*time.Microsecond)
	wake := make(chan struct{}, 1)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, wait := w.Spin(never, wake)
		w.Slept(wait)
	}))
}

// Two who wait for each other go from sleeping to looking.
func TestLockstepEnds(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 || runtime.NumCPU() < 2 {
		require.Zero(t, New(0).max)
		return
	}
	var turn atomic.Int32
	wakes := [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	var ends [2]*Waiter
	var both sync.WaitGroup
	for me := range int32(2) {
		w := New(time.Second)
		ends[me] = w
		mine := func() bool { return turn.Load() == me }
		both.Go(func() {
			for range 2000 {
				for !mine() {
					again, wait := w.Spin(mine, wakes[me])
					if again {
						continue
					}
					<-wakes[me]
					w.Slept(wait)
				}
				turn.Store(1 - me)
				select {
				case wakes[1-me] <- struct{}{}:
				default:
				}
			}
		})
	}
	both.Wait()
	require.NotZero(t, ends[0].Spins()+ends[1].Spins())
}

func BenchmarkSpin(b *testing.B) {
	b.Run("found", func(b *testing.B) {
		w := newWaiter(DefaultMax, DefaultMax)
		b.ReportAllocs()
		for b.Loop() {
			w.Spin(always, nil)
		}
	})
	b.Run("no window", func(b *testing.B) {
		w := newWaiter(DefaultMax, 0)
		b.ReportAllocs()
		for b.Loop() {
			w.Spin(always, nil)
		}
	})
}

// BenchmarkYield is what it costs to offer the processor to a thread where none wants it.
func BenchmarkYield(b *testing.B) {
	for b.Loop() {
		yieldThread()
	}
}
