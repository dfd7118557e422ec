package evtchn_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// newSides makes two domains on a host, which is to have no leaks when the test ends.
func newSides(t *testing.T) (a, b evtchntest.Side) {
	host := sim.NewHost(nil)
	t.Cleanup(func() {
		require.Empty(t, host.Leaks())
		require.NoError(t, host.Close())
	})
	return newSide(t, host, "a"), newSide(t, host, "b")
}

func newSide(t testing.TB, host *sim.Host, name string) evtchntest.Side {
	dom, err := host.NewDomain(&sim.DomainConfig{Name: name})
	require.NoError(t, err)
	return evtchntest.Side{ID: dom.Xen().ID(), Table: dom.Xen().Events()}
}

func TestConformanceOnSim(t *testing.T) {
	evtchntest.TestTable(t, newSides)
}

// A domain may have channels to itself.
func TestConformanceOnSimWithItself(t *testing.T) {
	evtchntest.TestTable(t, func(t *testing.T) (a, b evtchntest.Side) {
		a, _ = newSides(t)
		return a, a
	})
}

func TestResumeOnSim(t *testing.T) {
	for _, newID := range []bool{false, true} {
		host := sim.NewHost(nil)
		a, b := newSide(t, host, "a"), newSide(t, host, "b")
		dom := host.Domain(a.ID)
		old, err := a.Table.AllocUnbound(b.ID)
		require.NoError(t, err)
		woken := make(chan error, 1)
		go func() { woken <- old.Wait(context.Background()) }()
		require.NoError(t, dom.Suspend())
		require.NoError(t, dom.Resume(newID))
		require.ErrorIs(t, <-woken, hypercall.ErrStale)
		require.ErrorIs(t, old.Notify(), hypercall.ErrStale)
		require.ErrorIs(t, old.Close(), hypercall.ErrStale)

		fresh, err := a.Table.AllocUnbound(b.ID)
		require.NoError(t, err)
		peer, err := b.Table.BindInterdomain(dom.ID(), fresh.Port())
		require.NoError(t, err)
		require.NoError(t, peer.Notify())
		require.NoError(t, fresh.Wait(t.Context()))
		require.NoError(t, peer.Close())
		require.NoError(t, fresh.Close())
		require.Empty(t, host.Leaks())
		require.NoError(t, host.Close())
	}
}

func TestVIRQOnSim(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	a := newSide(t, host, "a")
	ch, err := a.Table.BindVIRQ(hypercall.VIRQDebug, 0)
	require.NoError(t, err)
	host.Domain(a.ID).RaiseVIRQ(hypercall.VIRQDebug)
	require.NoError(t, ch.Wait(t.Context()))
	require.NoError(t, ch.Close())
	require.Empty(t, host.Leaks())
}

// No event is lost between senders, a waiter that masks and unmasks, and the scan: after the last Notify there is an arrival.
func TestNoLostWakeup(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	a, b := newSide(t, host, "a"), newSide(t, host, "b")
	ca, err := a.Table.AllocUnbound(b.ID)
	require.NoError(t, err)
	cb, err := b.Table.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	const rounds = 20_000
	var sent, seen atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 2)
	go func() { // the waiter: it has seen all that was sent before it woke
		for seen.Load() < rounds {
			if err := cb.Wait(ctx); err != nil {
				done <- fmt.Errorf("lost after %d of %d: %w", seen.Load(), sent.Load(), err)
				return
			}
			seen.Store(sent.Load())
		}
		done <- nil
	}()
	go func() { // and somebody who masks and unmasks all the time
		for seen.Load() < rounds && ctx.Err() == nil {
			if err := errors.Join(cb.Mask(), cb.Unmask()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range int64(rounds) {
		sent.Store(i + 1)
		require.NoError(t, ca.Notify())
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.NoError(t, ca.Close())
	require.NoError(t, cb.Close())
	require.Empty(t, host.Leaks())
}

func BenchmarkNotifyWaitOnSim(b *testing.B) {
	host := sim.NewHost(nil)
	b.Cleanup(func() { host.Close() })
	x, y := newSide(b, host, "x"), newSide(b, host, "y")
	p, err := x.Table.AllocUnbound(y.ID)
	require.NoError(b, err)
	q, err := y.Table.BindInterdomain(x.ID, p.Port())
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		p.Notify()
		q.Wait(b.Context())
	}
}
