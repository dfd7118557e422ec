package attach_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/attach"
)

func newEvent(t testing.TB) *attach.Event {
	e, err := attach.NewEvent()
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

func newPoller(t testing.TB) *attach.Poller {
	p, err := attach.NewPoller()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestPollerSeesEachRing(t *testing.T) {
	p, e := newPoller(t), newEvent(t)
	rung := make(chan struct{}, 1)
	e.Ring() // before anybody watches
	id, err := p.Watch(e, func() { rung <- struct{}{} })
	require.NoError(t, err)
	<-rung
	for range 100 {
		e.Ring()
		<-rung
	}
	p.Forget(id, e)
	e.Ring()
	other := newEvent(t)
	_, err = p.Watch(other, func() { rung <- struct{}{} })
	require.NoError(t, err)
	other.Ring()
	<-rung
	require.Empty(t, rung, "what was forgotten is silent")
	e.Close()
	e.Ring() // after Close it does nothing
	require.Equal(t, -1, e.FD())
}

// A process that hears two who ring the same port hears each ring, though it never reads.
func TestPollerSeesEachRingThroughAnEar(t *testing.T) {
	p, one, other := newPoller(t), newEvent(t), newEvent(t)
	ear, err := attach.NewEar(one, other)
	require.NoError(t, err)
	t.Cleanup(ear.Close)
	one.Ring() // before anybody watches
	rung := make(chan struct{}, 1)
	id, err := p.Watch(ear, func() { rung <- struct{}{} })
	require.NoError(t, err)
	<-rung
	for range 100 {
		one.Ring()
		<-rung
		other.Ring()
		<-rung
	}
	p.Forget(id, ear)
	one.Ring()
	id, err = p.Watch(other, func() { rung <- struct{}{} })
	require.NoError(t, err)
	<-rung // for the rings of before
	other.Ring()
	<-rung
	require.Empty(t, rung, "what was forgotten is silent")
	p.Forget(id, other)
	ear.Close()
	require.Equal(t, -1, ear.FD())
}

func TestPollerManyAtOnce(t *testing.T) {
	p := newPoller(t)
	const n = 300
	var count [n]atomic.Int64
	var events [n]*attach.Event
	for i := range events {
		events[i] = newEvent(t)
		_, err := p.Watch(events[i], func() { count[i].Add(1) })
		require.NoError(t, err)
	}
	var ringers sync.WaitGroup
	for i := range events {
		ringers.Go(events[i].Ring)
	}
	ringers.Wait()
	for i := range count {
		require.Eventually(t, func() bool { return count[i].Load() > 0 }, 10*time.Second, time.Millisecond)
	}
}

func TestPollerClose(t *testing.T) {
	p, e := newPoller(t), newEvent(t)
	began, end := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	_, err := p.Watch(e, func() {
		close(began)
		<-end
		done.Store(true)
	})
	require.NoError(t, err)
	e.Ring()
	<-began
	closed := make(chan struct{})
	go func() {
		p.Close()
		close(closed)
	}()
	close(end)
	<-closed
	require.True(t, done.Load(), "Close waits for what is running")
	_, err = p.Watch(e, func() {})
	require.Error(t, err)
}

func BenchmarkRing(b *testing.B) {
	e := newEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		e.Ring()
	}
}
