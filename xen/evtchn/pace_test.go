package evtchn

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// handled is a channel of a domain with itself, one end of which has a handler that counts.
func handled(t *testing.T) (n *Native, x *fakeXen, a, b *channel, runs *atomic.Int64) {
	n, x = newNative(t, hypercall.X86_64, nil)
	a, b = pair(t, n, x)
	runs = new(atomic.Int64)
	b.Handle(func() { runs.Add(1) })
	runs.Store(0)
	return n, x, a, b, runs
}

// E-01: a flood of events costs this side a bounded number of runs of the handler, and the last event arrives.
func TestE01_FloodOfHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no time passes but where the test sleeps
		n, _, a, b, runs := handled(t)
		const rounds = 10
		for round := range rounds {
			for range 1000 {
				require.NoError(t, a.Notify())
			}
			require.LessOrEqual(t, int(runs.Load()), (round+1)*(handlerBurst+2))
			require.Equal(t, uint64(round+1), n.Stats().Throttled)
			before := int(runs.Load())
			<-time.After(handlerPeriod)
			synctest.Wait()
			require.Equal(t, before+1, int(runs.Load()), "the last event is not lost")
			require.False(t, n.now.Load().core.Masked(b.port))
		}
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	})
}

// Traffic that this side answers, or that a handler's period has room for, is not held up.
func TestHonestTrafficIsNotPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, a, b, runs := handled(t)
		for range 100_000 {
			before := int(runs.Load())
			require.NoError(t, a.Notify())
			require.Equal(t, before+1, int(runs.Load()))
			require.NoError(t, b.Notify())
			require.True(t, a.take())
		}
		for range 20 {
			for range handlerBurst {
				before := int(runs.Load())
				require.NoError(t, a.Notify())
				require.Equal(t, before+1, int(runs.Load()))
			}
			<-time.After(handlerPeriod)
		}
		require.Zero(t, n.Stats().Throttled)
	})
}

// Answers of before are no credit for a flood.
func TestAnswersAreNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, a, b, runs := handled(t)
		for range 10_000 {
			require.NoError(t, b.Notify())
		}
		for range 1000 {
			require.NoError(t, a.Notify())
		}
		require.LessOrEqual(t, int(runs.Load()), handlerBurst+1)
	})
}

// A channel that is closed, or ends with its incarnation, while its handler rests leaves the port to the next one.
func TestEndDuringRest(t *testing.T) {
	for _, resume := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n, x, a, b, _ := handled(t)
			for range 1000 {
				require.NoError(t, a.Notify())
			}
			require.True(t, n.now.Load().core.Masked(b.port))
			if resume {
				x.resume()
				require.NoError(t, n.Resume(x.info))
			} else {
				require.NoError(t, b.Close())
			}
			x.next = b.port
			fresh, err := n.BindIPI(0)
			require.NoError(t, err)
			<-time.After(2 * handlerPeriod)
			require.False(t, n.now.Load().core.Masked(b.port))
			require.NoError(t, fresh.Notify())
			require.NoError(t, fresh.Wait(t.Context()))
		})
	}
}

func TestPaceDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, a, _, _ := handled(t)
		timer := time.NewTimer(time.Hour)
		flood := func() {
			for range 2 * handlerBurst {
				a.Notify()
			}
			timer.Reset(handlerPeriod)
			<-timer.C
		}
		flood()
		before := n.Stats().Throttled
		allocs := testing.AllocsPerRun(20, flood)
		require.Greater(t, n.Stats().Throttled, before)
		if !raceEnabled {
			require.Less(t, allocs, 1.0)
		}
	})
}
