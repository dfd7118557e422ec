package evtchn

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// E-02: an event is under way to a channel that its own handler closes. Nothing runs after that.
func TestE02_EventUnderWayWhenTheHandlerCloses(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	runs := 0
	b.Handle(func() {
		runs++
		require.NoError(t, b.Close())
	})
	require.NoError(t, a.Notify())
	require.Equal(t, 1, runs)
	b.arrive() // a scan had seen its bit before
	require.Equal(t, 1, runs, "the handler ran after Close")
	require.NoError(t, a.Notify(), "the other end does not mind")
}

// E-03: a channel is closed by someone who holds a lock that its handler, which runs just now, waits for. Close does not wait for the
// handler.
func TestE03_CloseDoesNotWaitForTheHandler(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	var mu sync.Mutex
	inside, left := make(chan struct{}), make(chan struct{})
	b.Handle(func() {
		close(inside)
		mu.Lock()
		defer mu.Unlock()
		close(left)
	})
	mu.Lock()
	sent := make(chan error, 1)
	go func() { sent <- a.Notify() }()
	<-inside
	closed := make(chan error, 1)
	go func() { closed <- b.Close() }()
	var err error
	waits := false
	select {
	case err = <-closed:
	case <-time.After(patience):
		waits = true
	}
	mu.Unlock()
	<-left
	require.NoError(t, <-sent)
	if waits {
		require.NoError(t, <-closed)
	}
	require.False(t, waits, "Close waits for a handler that waits for the lock")
	require.NoError(t, err)
}

// patience is how long something may take that happens at once.
const patience = 3 * time.Second

// withinPatience is a context that ends when that has not happened.
func withinPatience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// E-05: the peer's first event comes at each step of binding: before the hypercall returns, before the channel is known here, before its
// port is unmasked, before and while a handler is set. It arrives.
func TestE05_FirstEventAtEveryStepOfBinding(t *testing.T) {
	forEachABI(t, func(t *testing.T, abi hypercall.ABI) {
		for at := range 30 {
			n, x := newNative(t, abi, nil)
			steps, runs, sent := 0, 0, false
			var port hypercall.Port
			send := func() {
				if !sent && steps >= at && port != 0 && !x.inside() {
					sent = true
					x.inject(port)
				}
				steps++
			}
			x.info.Observe(hookAgain(x, send))
			ch, err := n.bind("bind", func(c hypercall.Caller) (hypercall.Port, error) {
				p, err := hypercall.BindIPI(c, 0)
				port = p
				send()
				return p, err
			})
			require.NoError(t, err)
			send()
			ch.Handle(func() { runs++ })
			send()
			x.info.Observe(nil)
			for !sent {
				send()
			}
			require.NotZero(t, runs, "the event before step %d was lost", at)
			require.False(t, n.now.Load().core.Masked(port))
		}
	})
}

// hookAgain is an observer that calls f before each access, and is not called for accesses in f.
func hookAgain(x *fakeXen, f func()) shm.Observer {
	var h hook
	h = func(shm.Access) {
		x.info.Observe(nil)
		f()
		x.info.Observe(h)
	}
	return h
}

// E-06: what is no event is none: upcalls for nothing, and a pending bit that somebody took away while a scan had seen it.
func TestE06_NoEvent(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	runs := 0
	b.Handle(func() { runs++ })
	calls, arrivals := x.calls[hypercall.EvtchnopUnmask], n.Stats().Arrivals
	for range 10_000 {
		n.Upcall()
	}
	require.Zero(t, runs)
	require.Equal(t, calls, x.calls[hypercall.EvtchnopUnmask])

	core := n.now.Load().core
	x.upcall = nil
	x.pend(a.port)
	x.pend(b.port)
	require.True(t, core.Begin())
	port, ok := core.Next()
	require.True(t, ok)
	require.True(t, core.ClearPending(a.port+b.port-port), "the other is pending, and the scan has seen it")
	_, ok = core.Next()
	require.False(t, ok, "an event that was dropped arrives")
	require.Equal(t, arrivals, n.Stats().Arrivals)
}

// E-08: an event that a scan had seen before Mask, and hands on after it, is held back and arrives at Unmask.
func TestE08_SeenBeforeMask(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, b := pair(t, n, x)
	runs := 0
	b.Handle(func() { runs++ })
	require.NoError(t, b.Mask())
	n.dispatch(b.inc, b.port)
	n.dispatch(b.inc, b.port)
	require.Zero(t, runs, "the handler ran while the channel was masked")
	require.NoError(t, b.Unmask())
	require.Equal(t, 1, runs)
}

// E-10: channels are opened and closed by some goroutines while others send, and while Xen tells of events of ports that come and go. The
// race detector looks on; each channel that stays open hears of what is sent to it last.
func TestE10_ChannelsChangeWhileEventsCome(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	stay, hears := pair(t, n, x)
	var heard atomic.Int64
	hears.Handle(func() { heard.Add(1) })
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for j := range 300 {
				switch i {
				case 0:
					x.inject(hypercall.Port(1 + j%12)) // whether it is open or not
				case 1:
					if stay.Notify() != nil {
						return
					}
				default:
					ch, err := n.BindIPI(0)
					if err != nil {
						return
					}
					ch.Handle(func() { heard.Add(0) })
					_ = ch.Notify()
					_ = ch.Close()
				}
			}
		})
	}
	group.Wait()
	require.Equal(t, 2, n.Stats().Open)
	for deadline := time.Now().Add(patience); n.scanner.Load() != scanIdle; {
		require.True(t, time.Now().Before(deadline), "a scan does not end")
	}
	before := heard.Load()
	require.NoError(t, stay.Notify())
	require.Eventually(t, func() bool { return heard.Load() > before }, patience, time.Millisecond)
}

// E-10: an event interrupts while a scan is under way that has passed its word already. Another scan follows.
func TestE10_UpcallDuringAScan(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	x.next = 200 // of another word, which the scan has not been told of
	late, err := n.BindIPI(0)
	require.NoError(t, err)
	runs := 0
	late.Handle(func() { runs++ })
	b.Handle(func() { x.inject(200) })
	require.NoError(t, a.Notify())
	require.Equal(t, 1, runs)
}

// E-11: all channels are reset while somebody waits. The waiters are told, and new channels work.
func TestE11_ResetWhileInUse(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, b := pair(t, n, x)
	woken := make(chan error, 1)
	go func() { woken <- b.Wait(t.Context()) }()
	require.Eventually(t, func() bool { return b.state.Load()&waiting != 0 }, 10*time.Second, time.Millisecond)
	x.resume()
	require.NoError(t, n.Resume(x.info))
	select {
	case err := <-woken:
		require.ErrorIs(t, err, hypercall.ErrStale)
	case <-time.After(patience):
		require.Fail(t, "the waiter was not told")
	}
	require.ErrorIs(t, b.Notify(), hypercall.ErrStale)
	c, d := pair(t, n, x)
	require.NoError(t, c.Notify())
	require.NoError(t, d.Wait(t.Context()))
	require.Equal(t, 2, n.Stats().Open)
}
