package evtchn

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(5 * time.Second):
		require.Fail(t, "Close waits for a handler that waits for the lock")
	}
	mu.Unlock()
	<-left
	require.NoError(t, <-sent)
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
	case <-time.After(5 * time.Second):
		require.Fail(t, "the waiter was not told")
	}
	require.ErrorIs(t, b.Notify(), hypercall.ErrStale)
	c, d := pair(t, n, x)
	require.NoError(t, c.Notify())
	require.NoError(t, d.Wait(t.Context()))
	require.Equal(t, 2, n.Stats().Open)
}
