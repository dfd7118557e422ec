package sim_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

func requireState(t *testing.T, err error, op, state string) {
	t.Helper()
	wrong, ok := errors.AsType[*sim.StateError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, [2]string{op, state}, [2]string{wrong.Op, wrong.State})
}

func TestStates(t *testing.T) {
	h := simtest.NewHost(t, nil)
	d := simtest.NewDomain(t, h, "d")
	require.Equal(t, "running", d.State())
	requireState(t, d.Unpause(), "unpause", "running")
	requireState(t, d.Resume(false), "resume", "running")
	require.NoError(t, d.Pause())
	require.Equal(t, "paused", d.State())
	requireState(t, d.Pause(), "pause", "paused")
	requireState(t, d.Suspend(), "suspend", "paused")
	requireState(t, d.SoftReset(), "soft reset", "paused")
	require.NoError(t, d.Unpause())
	require.NoError(t, d.Suspend())
	require.Equal(t, "suspended", d.State())
	requireState(t, d.Pause(), "pause", "suspended")
	require.NoError(t, d.Resume(false))
	require.NoError(t, d.Destroy())
	require.NoError(t, d.Destroy())
	require.Equal(t, "dead", d.State())
	requireState(t, d.Pause(), "pause", "dead")
	requireState(t, d.Resume(true), "resume", "dead")
	requireState(t, d.Suspend(), "suspend", "dead")
	d.RaiseVIRQ(hypercall.VIRQTimer)
	require.Nil(t, h.Domain(d.ID()))
}

func TestNewDomainRefusals(t *testing.T) {
	h := simtest.NewHost(t, nil)
	d := simtest.NewDomain(t, h, "")
	require.Equal(t, "domain-1", d.Name())
	for name, c := range map[string]*sim.DomainConfig{
		"number in use":      {ID: d.ID()},
		"reserved number":    {ID: hypercall.DomFirstReserved},
		"dom0 with a number": {ID: 4, Dom0: true},
		"no such ABI":        {ABI: 9},
		"external on a heap": {External: true},
		"name in use":        {Name: "domain-1"},
		"a name with zeros":  {Name: "007"},
		"name like a number": {Name: "7"},
	} {
		_, err := h.NewDomain(c)
		require.Error(t, err, name)
	}
	chosen := simtest.NewDomain(t, h, "domain-3")
	require.Equal(t, "domain-3'", simtest.NewDomain(t, h, "").Name(), "a name of its own")
	require.NoError(t, chosen.Destroy())
	simtest.NewDomain(t, h, "domain-3")
	dom0, err := h.NewDomain(&sim.DomainConfig{Dom0: true, Name: "Domain-0"})
	require.NoError(t, err)
	require.Zero(t, dom0.ID())
	require.Equal(t, []*sim.Domain{dom0, d}, h.Domains()[:2])
	_, err = h.NewDomain(&sim.DomainConfig{Dom0: true})
	require.ErrorIs(t, err, hypercall.EEXIST)
}

// TestPaused: the calls of a paused domain wait, and no event reaches it; then both go on.
func TestPaused(t *testing.T) {
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			a, b := p.pair(t, sim.Limits{})
			ctx := t.Context()
			ch, err := a.Events().AllocUnbound(b.ID())
			require.NoError(t, err)
			peer, err := b.Events().BindInterdomain(a.ID(), ch.Port())
			require.NoError(t, err)
			require.NoError(t, peer.Wait(ctx))
			dom := hostOf(b)
			require.NoError(t, dom.Pause())
			call := make(chan error, 1)
			go func() {
				_, err := peer.Status()
				call <- err
			}()
			require.NoError(t, ch.Notify(), "the one that runs is not held up")
			require.NoError(t, ch.Notify())
			select {
			case err := <-call:
				require.Fail(t, "a call of a paused domain returned", "%v", err)
			default:
			}
			canceled, cancel := context.WithCancel(ctx)
			cancel()
			require.ErrorIs(t, peer.Wait(canceled), context.Canceled)
			require.NoError(t, dom.Unpause())
			require.NoError(t, <-call)
			require.NoError(t, peer.Wait(ctx), "what came meanwhile")
			require.NoError(t, ch.Close())
			require.NoError(t, peer.Close())
		})
	}
}

// incarnations are the ways in which a domain becomes another incarnation.
var incarnations = map[string]func(d *sim.Domain) error{
	"SameID": func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(false)) },
	"NewID":  func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(true)) },
	"Reset":  func(d *sim.Domain) error { return d.SoftReset() },
}

// TestIncarnations suspends and resumes a domain, with the same number and with a new one, and resets it softly. What was made before is
// stale, and all works again.
func TestIncarnations(t *testing.T) {
	for _, p := range platforms() {
		for name, f := range incarnations {
			t.Run(p.name+"/"+name, func(t *testing.T) {
				a, b := p.pair(t, sim.Limits{})
				incarnate(t, a, b, f, name == "NewID", name == "Reset")
			})
		}
	}
}

// incarnate has a be another incarnation, while it shares with b both ways.
func incarnate(t *testing.T, a, b *xen.Domain, next func(*sim.Domain) error, newID, keeps bool) {
	ctx := within(t)
	number, changed, err := a.Incarnation()
	require.NoError(t, err)
	require.Equal(t, uint64(1), number)
	id := a.ID()
	require.NoError(t, a.Store().Write(ctx, "data/x", []byte("old")))

	share, err := a.Grants().Share(b.ID(), 1, grant.ReadWrite)
	require.NoError(t, err)
	share.Region().Store8(0, 5)
	theirs, err := b.Grants().Map(id, share.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	bShare, err := b.Grants().Share(id, 1, grant.ReadWrite)
	require.NoError(t, err)
	mine, err := a.Grants().Map(b.ID(), bShare.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	ch, err := a.Events().AllocUnbound(b.ID())
	require.NoError(t, err)
	peer, err := b.Events().BindInterdomain(id, ch.Port())
	require.NoError(t, err)
	waiter := make(chan error, 1)
	go func() {
		err := ch.Wait(ctx)
		for err == nil { // spurious arrivals are possible
			err = ch.Wait(ctx)
		}
		waiter <- err
	}()
	store := a.Store()

	require.NoError(t, next(hostOf(a)))
	select {
	case <-changed:
	case <-ctx.Done():
		require.Fail(t, "the domain was not told")
	}
	number, _, err = a.Incarnation()
	require.NoError(t, err)
	require.Equal(t, uint64(2), number)
	require.Equal(t, newID, a.ID() != id)

	require.ErrorIs(t, <-waiter, xen.ErrStale)
	_, err = share.End()
	require.ErrorIs(t, err, xen.ErrStale)
	require.ErrorIs(t, mine.Close(), xen.ErrStale)
	require.ErrorIs(t, ch.Notify(), xen.ErrStale)
	require.ErrorIs(t, ch.Close(), xen.ErrStale)
	_, err = store.Read(ctx, "name")
	require.Error(t, err, "the old connection")

	got, err := a.Store().Read(ctx, "data/x")
	if keeps {
		require.NoError(t, err)
		require.Equal(t, "old", string(got))
	} else {
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.Equal(t, uint8(5), theirs.Region().Load8(0).Unchecked(), "what the peer has mapped stays")
	require.NoError(t, theirs.Close())
	require.NoError(t, peer.Close())
	end, err := bShare.End()
	require.NoError(t, err)
	require.Equal(t, grant.Reclaimed, end, "the old incarnation's mapping has gone")
	meet(t, a, b)
	meet(t, b, a)
}

// TestWaitingCallsAreStale: a call that waits while its domain is suspended is of an incarnation that is no more.
func TestWaitingCallsAreStale(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, _ *bare) {
		port, err := hypercall.BindIPI(a.m, 0)
		require.NoError(t, err)
		require.NoError(t, a.Suspend())
		calls := make(chan error, 2)
		go func() { calls <- hypercall.ClosePort(a.m, port) }()
		go func() { calls <- hypercall.SendEvent(a.m, port) }()
		require.NoError(t, a.Resume(false))
		for range 2 {
			if err := <-calls; err != nil { // one that began after the resume finds the port closed
				require.True(t, errors.Is(err, hypercall.ErrStale) || errors.Is(err, hypercall.EINVAL), "%v", err)
			}
		}
	})
}

// TestShutdown: what domains that shut themselves down become.
func TestShutdown(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		resumed := make(chan struct{})
		a.m.SetResume(func() { close(resumed) })
		back := make(chan error, 1)
		go func() { back <- hypercall.Shutdown(a.m, hypercall.ShutdownSuspend) }()
		eventually(t, "it is suspended", func() bool { return a.State() == "suspended" })
		require.NoError(t, a.Resume(true))
		require.NoError(t, <-back, "it goes on where it was suspended")
		<-resumed

		again := make(chan struct{})
		a.m.SetResume(func() { close(again) })
		require.NoError(t, hypercall.Shutdown(a.m, hypercall.ShutdownSoftReset))
		<-again

		require.ErrorIs(t, hypercall.Shutdown(b.m, hypercall.ShutdownPoweroff), net.ErrClosed)
		eventually(t, "it is destroyed", func() bool { return b.State() == "dead" })
	})
}

// TestStoreForgetsTheDead: a domain's home goes with it, so that the next with its number finds none.
func TestStoreForgetsTheDead(t *testing.T) {
	h := simtest.NewHost(t, nil)
	d := simtest.NewDomain(t, h, "first")
	x := d.Xen()
	require.NoError(t, x.Store().Write(t.Context(), "data/x", []byte("1")))
	id := d.ID()
	require.NoError(t, d.Destroy())
	<-x.Done()
	_, err := x.Store().Read(t.Context(), "data/x")
	require.Error(t, err)
	require.NoError(t, x.Close())
	for range 20 {
		d, err := h.NewDomain(&sim.DomainConfig{ID: id, Name: "next"})
		require.NoError(t, err)
		_, err = d.Xen().Store().Read(t.Context(), "data/x")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, d.Xen().Store().Write(t.Context(), "data/x", []byte("2")))
		require.NoError(t, d.Destroy())
	}
}

// TestToolstackAtWork has the toolstack pause, suspend, resume and reset domains that are busy with each other, and destroy them.
func TestToolstackAtWork(t *testing.T) {
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			a, b := p.pair(t, sim.Limits{})
			da, db := hostOf(a), hostOf(b)
			stop := make(chan struct{})
			var work, tools, ends sync.WaitGroup
			work.Go(func() { bother(a, b, stop) })
			work.Go(func() { bother(b, a, stop) })
			for _, d := range []*sim.Domain{da, db} {
				tools.Go(func() {
					for i := range 6 {
						d.Pause()
						d.Unpause()
						d.Suspend()
						d.Resume(i%2 == 0)
						d.SoftReset()
					}
				})
				tools.Go(func() {
					for range 100 {
						d.Pause()
						d.RaiseVIRQ(hypercall.VIRQDebug)
						d.Unpause()
					}
				})
			}
			tools.Wait()
			for range 4 {
				ends.Go(func() { da.Destroy() })
				ends.Go(func() { db.Destroy() })
			}
			ends.Wait()
			close(stop)
			work.Wait()
		})
	}
}

// TestAnythingAtAnyMoment has the toolstack do everything at once to domains that make hypercalls all the time.
func TestAnythingAtAnyMoment(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		var work, tools sync.WaitGroup
		for _, d := range []*bare{a, b} {
			ops := []func(){
				func() { d.Pause() }, func() { d.Unpause() }, func() { d.Suspend() }, func() { d.Resume(false) }, func() { d.Resume(true) },
				func() { d.SoftReset() }, func() { d.RaiseVIRQ(hypercall.VIRQTimer) }, func() { h.Leaks() }, func() { h.Stats() },
			}
			for _, op := range ops {
				tools.Go(func() {
					for range 100 {
						op()
					}
				})
			}
			for range 2 {
				work.Go(func() { call(d.m) })
			}
		}
		tools.Wait()
		for _, d := range []*bare{a, b, a, b} {
			tools.Go(func() { d.Destroy() })
		}
		tools.Go(func() { h.Close() })
		tools.Wait()
		work.Wait()
	})
}

// call makes hypercalls until the domain has ended.
func call(m xen.Machine) {
	for {
		port, err := hypercall.AllocUnbound(m, hypercall.DomSelf, hypercall.DomSelf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		peer, _ := hypercall.BindInterdomain(m, hypercall.DomSelf, port)
		hypercall.SendEvent(m, peer)
		if at, r, err := m.Alloc(1); err == nil {
			r.Close()
			m.Free(at, 1)
		}
		hypercall.ClosePort(m, port)
		hypercall.ClosePort(m, peer)
	}
}

// bother shares and unshares, maps and unmaps, and sends, whatever becomes of it.
func bother(d, peer *xen.Domain, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-d.Done():
			return
		default:
		}
		ch, err := d.Events().AllocUnbound(peer.ID())
		if err != nil {
			continue
		}
		s, err := d.Grants().Share(peer.ID(), 2, grant.ReadWrite)
		if err == nil {
			s.SetNotify(grant.Notify{ClearByte: true, Offset: 3, Port: ch.Port()})
			if m, err := peer.Grants().Map(d.ID(), s.Refs(), grant.ReadWrite); err == nil {
				m.Region().Store8(3, 1)
				m.Close()
			}
			if c, err := peer.Events().BindInterdomain(d.ID(), ch.Port()); err == nil {
				c.Notify()
				c.Close()
			}
			s.End()
		}
		ch.Notify()
		ch.Close()
	}
}

// TestCloseWithWaiters: Close ends hypercalls of paused and suspended domains.
func TestCloseWithWaiters(t *testing.T) {
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			a, b := p.pair(t, sim.Limits{})
			h := theHost(a)
			require.NoError(t, hostOf(a).Pause())
			require.NoError(t, hostOf(b).Suspend())
			calls := make(chan error, 2)
			for _, d := range []*xen.Domain{a, b} {
				go func() {
					_, err := d.Events().BindIPI(0)
					calls <- err
				}()
			}
			var closes sync.WaitGroup
			for range 3 {
				closes.Go(func() { h.Close() })
			}
			closes.Wait()
			for range 2 {
				require.ErrorIs(t, <-calls, net.ErrClosed)
			}
			_, err := h.NewDomain(nil)
			require.ErrorIs(t, err, sim.ErrHostClosed)
		})
	}
}

// TestMakeWhileClosing makes domains while the host is closed: each is made and destroyed, or refused.
func TestMakeWhileClosing(t *testing.T) {
	for range 20 {
		h := sim.NewHost(nil)
		var makers sync.WaitGroup
		for range 3 {
			makers.Go(func() {
				for {
					if _, err := h.NewDomain(nil); err != nil {
						return
					}
				}
			})
		}
		eventually(t, "some domains", func() bool { return len(h.Domains()) > 3 })
		require.NoError(t, h.Close())
		makers.Wait()
		require.Empty(t, h.Domains())
	}
}
