package evtchn

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// pair is a channel of the domain with itself.
func pair(t testing.TB, n *Native, x *fakeXen) (a, b *channel) {
	ca, err := n.AllocUnbound(x.id)
	require.NoError(t, err)
	cb, err := n.BindInterdomain(x.id, ca.Port())
	require.NoError(t, err)
	a, b = ca.(*channel), cb.(*channel)
	b.take() // Xen's event for the new end
	return a, b
}

// E-01: a flood of events costs this side one arrival for each that its waiter takes.
func TestE01_Flood(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	before := n.Stats()
	for range 1000 {
		require.NoError(t, a.Notify())
	}
	flood := n.Stats()
	require.Equal(t, uint64(1), flood.Arrivals-before.Arrivals)
	require.LessOrEqual(t, flood.Upcalls-before.Upcalls, uint64(2), "events are kept out after the second")
	require.Equal(t, uint64(1), flood.Throttled-before.Throttled)

	require.NoError(t, b.Wait(t.Context()))
	require.NoError(t, b.Wait(t.Context()), "the last event is not lost")
	require.False(t, b.take())
	require.NoError(t, a.Notify())
	require.NoError(t, b.Wait(t.Context()), "and the channel is open again")
	require.False(t, n.now.Load().core.Masked(b.port))
}

// E-06: an event for a port that nobody has open is counted once, and then masked.
func TestE06_UnknownPort(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	core := n.now.Load().core
	core.and(core.layout.EvtchnMask, 0) // as if Xen had cleared the masks
	for range 5 {
		x.inject(9)
	}
	require.Equal(t, uint64(1), n.Stats().Spurious)
	require.True(t, core.Masked(9))

	// The port works for its next owner.
	x.next = 9
	ch, err := n.BindIPI(0)
	require.NoError(t, err)
	require.NoError(t, ch.Notify())
	require.NoError(t, ch.Wait(t.Context()))
}

// E-02: closing a channel inside its own handler, or another's, is harmless though not asked for.
func TestE02_CloseInHandler(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	c, d := pair(t, n, x)
	b.Handle(func() {
		b.Close()
		d.Close()
	})
	require.NoError(t, a.Notify())
	require.ErrorIs(t, b.Wait(t.Context()), net.ErrClosed)
	require.ErrorIs(t, d.Wait(t.Context()), net.ErrClosed)
	require.NoError(t, c.Notify())
	require.Equal(t, 2, n.Stats().Open)
}

// E-04: a scan that takes the first event of a port before its channel is known here does not lose it.
func TestE04_EventOfAnEarlierChannel(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, victim := pair(t, n, x)
	inc := n.now.Load()
	core := inc.core
	n.passes.Add(1) // a scan begins, and finds the port unmasked: it is another channel's still
	core.word, core.first, core.pending = 0, 0, 1<<victim.port
	require.NoError(t, victim.Close())
	fresh, err := n.bind("bind", func(hypercall.Caller) (hypercall.Port, error) {
		x.ports[victim.port] = &hypercall.EvtchnStatus{State: hypercall.EvtchnIPI}
		x.pend(victim.port) // the new peer is quick
		port, ok := core.Next()
		require.True(t, ok)
		require.Equal(t, victim.port, port)
		n.dispatch(inc, port)
		return port, nil
	})
	n.passes.Add(1)
	require.NoError(t, err)
	require.NotZero(t, fresh.(*channel).state.Load()&arrived, "a channel bound during a scan looks once for itself")
	require.False(t, core.Masked(victim.port))
}

// A handler that is set while an event arrives is run for it.
func TestHandlerSetDuringArrival(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, b := pair(t, n, x)
	ran := 0
	f := func() { ran++ }
	b.state.Or(arrived) // arrive found no handler, and left the event for Wait
	b.handler.Store(&f) // Handle looked for an outstanding one before
	b.announce(0)
	require.Equal(t, 1, ran)
	require.False(t, b.take())
}

// E-04: a late change of a closed channel's mask does not stick to the next owner of its port.
func TestE04_LateMaskOfAnEarlierChannel(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, old := pair(t, n, x)
	require.NoError(t, old.Close())
	x.next = old.port
	fresh, err := n.BindIPI(0)
	require.NoError(t, err)
	require.NoError(t, old.settle())
	require.False(t, n.now.Load().core.Masked(old.port))
	require.NoError(t, fresh.Notify())
	require.NoError(t, fresh.Wait(t.Context()))
}

// A scan that masks a port as unknown at the moment it is bound leaves it unmasked.
func TestE05_EventBeforeTheChannelIsKnown(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	inc := n.now.Load()
	x.next = 11
	var fresh Channel
	// The hook runs before the access that masks the unknown port.
	x.info.Observe(hook(func(a shm.Access) {
		if fresh == nil && a.Kind == shm.Modify && a.Off == inc.core.layout.EvtchnMask {
			x.info.Observe(nil)
			var err error
			fresh, err = n.BindIPI(0)
			require.NoError(t, err)
		}
	}))
	n.dispatch(inc, 11)
	require.NotNil(t, fresh)
	require.False(t, inc.core.Masked(11))
	require.NoError(t, fresh.Notify())
	require.NoError(t, fresh.Wait(t.Context()))
}

type hook func(shm.Access)

func (h hook) BeforeAccess(a shm.Access) { h(a) }

// E-09: ports that Xen cannot have are errors.
func TestE09_BadPorts(t *testing.T) {
	for _, port := range []hypercall.Port{4096, 1 << 20, 1<<32 - 1} {
		n, x := newNative(t, hypercall.X86_64, nil)
		x.next = port
		x.ports[port] = nil
		_, err := n.AllocUnbound(1)
		var op *OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, port, op.Port)
		require.Equal(t, 1, x.calls[hypercall.EvtchnopClose], "the port is given back")
		require.Zero(t, n.Stats().Open)
	}
}

// E-09: a port that Xen names twice is the first channel's.
func TestE09_XenGivesPortTwice(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	x.next = 5
	first, err := n.BindIPI(0)
	require.NoError(t, err)
	_, err = n.BindIPI(0)
	require.ErrorIs(t, err, errInUse)
	require.NoError(t, first.Notify())
	require.NoError(t, first.Wait(t.Context()))
	require.Equal(t, 1, n.Stats().Open)
}

func TestPortsExhausted(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	x.fail[hypercall.EvtchnopAllocUnbound] = hypercall.ENOSPC
	_, err := n.AllocUnbound(1)
	require.ErrorIs(t, err, hypercall.ENOSPC)
	require.Zero(t, n.Stats().Open)
}

// E-09: a bind of which the last step fails leaves nothing open.
func TestE09_UnmaskFails(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	x.fail[hypercall.EvtchnopUnmask] = hypercall.EINVAL
	a, err := n.AllocUnbound(x.id)
	require.NoError(t, err)
	_, err = n.BindInterdomain(x.id, a.Port()) // Xen's first event is there to unmask for
	require.ErrorIs(t, err, hypercall.EINVAL)
	require.Equal(t, 1, n.Stats().Open)
	require.Len(t, x.ports, 1, "the port is given back")
}

func TestVCPUsBeyondThoseTakenIn(t *testing.T) {
	n, _ := newNative(t, hypercall.X86_64, &Config{VCPUs: 2})
	_, err := n.BindIPI(2)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	ch, err := n.BindIPI(1)
	require.NoError(t, err)

	// An event on vCPU 1's selector is found.
	core := n.now.Load().core
	off, bit := core.locate(ch.Port())
	core.or(core.layout.EvtchnPending+off, bit)
	core.or(core.layout.VCPUSize+core.layout.PendingSel, 1)
	core.info.Store8(core.layout.VCPUSize+core.layout.UpcallPending, 1)
	n.Upcall()
	require.NoError(t, ch.Wait(t.Context()))
}

// An event that came before the table was set up arrives when its port is adopted.
func TestAdoptFindsEarlierEvent(t *testing.T) {
	x := newFakeXen(hypercall.X86_64)
	x.ports[1] = &hypercall.EvtchnStatus{Port: 1, State: hypercall.EvtchnInterdomain, RemoteDom: 0, RemotePort: 3}
	x.pend(1)
	n, err := NewNative(x, x.info, nil)
	require.NoError(t, err)
	x.upcall = n.Upcall
	require.Zero(t, n.Stats().Spurious)
	ch, err := n.Adopt(1)
	require.NoError(t, err)
	require.NoError(t, ch.Wait(t.Context()))
	require.NoError(t, n.Close())
}

func TestResume(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	closed, _ := pair(t, n, x)
	require.NoError(t, closed.Close())
	done := make(chan error, 1)
	go func() { done <- b.Wait(context.Background()) }()
	require.Eventually(t, func() bool { return b.state.Load()&waiting != 0 }, 10*time.Second, time.Millisecond)

	x.mu.Lock()
	x.info, x.ports = shm.New(1), map[hypercall.Port]*hypercall.EvtchnStatus{}
	x.mu.Unlock()
	closes := x.calls[hypercall.EvtchnopClose]
	require.NoError(t, n.Resume(x.info))
	require.ErrorIs(t, <-done, hypercall.ErrStale)
	for _, ch := range []*channel{a, b} {
		require.ErrorIs(t, ch.Notify(), hypercall.ErrStale)
		require.ErrorIs(t, ch.Wait(t.Context()), hypercall.ErrStale)
		require.ErrorIs(t, ch.Mask(), hypercall.ErrStale)
		require.ErrorIs(t, ch.Unmask(), hypercall.ErrStale)
		_, err := ch.Status()
		require.ErrorIs(t, err, hypercall.ErrStale)
		require.ErrorIs(t, ch.Close(), hypercall.ErrStale)
		require.NoError(t, ch.Close(), "a second Close")
	}
	require.Equal(t, closes, x.calls[hypercall.EvtchnopClose], "stale ports are not closed: they may be somebody else's now")
	require.NoError(t, closed.Close())
	require.Zero(t, n.Stats().Open)

	c, d := pair(t, n, x)
	require.Equal(t, a.port, c.port, "the same number")
	require.NoError(t, c.Notify())
	require.NoError(t, d.Wait(t.Context()))
	require.Error(t, n.Resume(nil))
}

// A bind that was under way when the domain was suspended does not make a channel of the new incarnation.
func TestResumeDuringBind(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	ch, err := n.bind("bind", func(hypercall.Caller) (hypercall.Port, error) {
		x.info = shm.New(1)
		require.NoError(t, n.Resume(x.info))
		return 3, nil
	})
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Nil(t, ch)
	require.Zero(t, n.Stats().Open)
}

func TestSpin(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, &Config{Spin: time.Minute})
	a, b := pair(t, n, x)
	done := make(chan error, 1)
	go func() { done <- b.Wait(context.Background()) }()
	require.NoError(t, a.Notify())
	require.NoError(t, <-done)
	require.Zero(t, b.state.Load()&waiting, "it did not sleep")

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, b.Wait(ctx), context.DeadlineExceeded, "a spin ends with the context")
	go func() { done <- b.Wait(context.Background()) }()
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
}

// Upcalls from many goroutines at once lose nothing, and handlers of one table run one at a time.
func TestE10_UpcallFromManyGoroutines(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	const senders, each = 4, 500
	var inside, overlaps atomic.Int32
	var group sync.WaitGroup
	var seen [senders]atomic.Int64
	var ends [senders]*channel
	for i := range senders {
		a, b := pair(t, n, x)
		ends[i] = a
		b.Handle(func() {
			if inside.Add(1) > 1 {
				overlaps.Add(1)
			}
			seen[i].Add(1)
			inside.Add(-1)
		})
	}
	for i := range senders {
		group.Go(func() {
			for range each {
				if ends[i].Notify() != nil {
					return
				}
			}
		})
	}
	group.Wait()
	require.Zero(t, overlaps.Load())
	for i := range seen {
		before := seen[i].Load()
		require.Positive(t, before)
		require.NoError(t, ends[i].Notify())
		require.Eventually(t, func() bool { return seen[i].Load() > before }, 10*time.Second, time.Millisecond)
	}
}

// E-01: an upcall does not stay for ever with one caller, however often others call.
func TestE01_UpcallIsBounded(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	rounds, returned, kept := 0, make(chan struct{}), make(chan bool, 1)
	b.Handle(func() {
		rounds++
		if rounds == maxPasses+2 { // it is another goroutine's turn by now
			select {
			case <-returned:
				kept <- false
			case <-time.After(patience):
				kept <- true
			}
		}
		if rounds < handlerBurst {
			a.Notify() // a handler must not; here it stands for a peer that sends all the time
		}
	})
	require.NoError(t, a.Notify())
	close(returned)
	require.False(t, <-kept, "the sender was kept by events that went on coming")
	for deadline := time.Now().Add(patience); n.scanner.Load() != scanIdle; {
		require.True(t, time.Now().Before(deadline), "the scans do not end")
	}
	require.Equal(t, handlerBurst, rounds)
}

// The channel's state against a model: arrivals are neither lost nor delivered while masked.
func TestChannelModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := newFakeXen(rapid.SampledFrom(abis).Draw(rt, "abi"))
		n, err := NewNative(x, x.info, nil)
		require.NoError(rt, err)
		x.upcall = n.Upcall
		ca, err := n.AllocUnbound(x.id)
		require.NoError(rt, err)
		cb, err := n.BindInterdomain(x.id, ca.Port())
		require.NoError(rt, err)
		b := cb.(*channel)
		b.take()
		isMasked, handling := false, false
		unseen := false // whether an event came since the last arrival
		budget := 0     // arrivals that there may still be: one for each event
		calls := 0
		// called is what follows from an action during which the handler must run if owed says so.
		called := func(rt *rapid.T, was int, owed bool) {
			if owed {
				require.Greater(rt, calls, was, "an arrival was lost")
			}
			if calls > was {
				unseen = false
			}
			budget -= calls - was
			require.GreaterOrEqual(rt, budget, 0, "more arrivals than events")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"notify": func(rt *rapid.T) {
				was := calls
				unseen = true
				budget++
				require.NoError(rt, ca.Notify())
				called(rt, was, handling && !isMasked)
			},
			"mask": func(rt *rapid.T) {
				require.NoError(rt, b.Mask())
				isMasked = true
			},
			"unmask": func(rt *rapid.T) {
				was := calls
				require.NoError(rt, b.Unmask())
				called(rt, was, unseen && handling)
				isMasked = false
			},
			"take": func(rt *rapid.T) {
				switch got := b.take(); {
				case got:
					unseen = false
					budget--
					require.GreaterOrEqual(rt, budget, 0, "more arrivals than events")
				case !isMasked:
					require.False(rt, unseen, "an arrival was lost")
				}
			},
			"handle": func(rt *rapid.T) {
				if handling = !handling; !handling {
					b.Handle(nil)
					return
				}
				was := calls
				b.Handle(func() { calls++ })
				called(rt, was, unseen && !isMasked)
			},
		})
		require.NoError(rt, n.Close())
		require.Zero(rt, n.Stats().Open)
	})
}

func TestNoAllocations(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	allocs := testing.AllocsPerRun(200, func() {
		a.Notify() // three: one arrives, one makes the port masked, one is pending there
		a.Notify()
		a.Notify()
		b.Wait(ctx)
		b.Wait(ctx)
	})
	if !raceEnabled {
		require.Zero(t, allocs)
	}
}

func BenchmarkNotifyWait(b *testing.B) {
	n, x := newNative(b, hypercall.X86_64, nil)
	p, q := pair(b, n, x)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		p.Notify()
		q.Wait(ctx)
	}
}

func BenchmarkNotifyFlooded(b *testing.B) {
	n, x := newNative(b, hypercall.X86_64, nil)
	p, _ := pair(b, n, x)
	b.ReportAllocs()
	for b.Loop() {
		p.Notify()
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, mode := range []struct {
		name string
		spin time.Duration
	}{{"sleep", 0}, {"spin", 50 * time.Microsecond}} {
		b.Run(mode.name, func(b *testing.B) {
			n, x := newNative(b, hypercall.X86_64, &Config{Spin: mode.spin})
			p, q := pair(b, n, x)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			go func() {
				for q.Wait(ctx) == nil {
					q.Notify()
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				p.Notify()
				p.Wait(ctx)
			}
			b.ReportMetric(float64(n.Stats().Sent)/float64(b.N), "events/op")
		})
	}
}
