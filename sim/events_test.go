package sim_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// sharedInfo is the way to a bare domain's shared_info.
type sharedInfo struct {
	b *bare
	hypercall.SharedInfo
	read func(off int) uint64
}

// info puts shared_info somewhere, unmasks every port, and counts upcalls.
func (b *bare) info() (si sharedInfo, upcalls *atomic.Int64) {
	b.t.Helper()
	at := b.reserve(1)
	require.NoError(b.t, hypercall.AddToPhysmap(b.m, hypercall.DomSelf, hypercall.SpaceSharedInfo, 0, at))
	r := b.view(at, 1, true)
	upcalls = new(atomic.Int64)
	b.m.SetUpcall(func() {
		upcalls.Add(1)
		r.Store8(b.m.ABI().SharedInfo().UpcallPending, 0)
	})
	l := b.m.ABI().SharedInfo()
	return sharedInfo{b, l, func(off int) uint64 {
		if l.WordBytes == 4 {
			return uint64(r.Load32(off).Unchecked())
		}
		return r.Load64(off).Unchecked()
	}}, upcalls
}

func (s sharedInfo) bit(base int, n hypercall.Port) bool {
	per := s.WordBytes * 8
	return s.read(base+int(n)/per*s.WordBytes)>>(int(n)%per)&1 == 1
}

func (s sharedInfo) pending(n hypercall.Port) bool { return s.bit(s.EvtchnPending, n) }

// eventually waits for what another goroutine or process does.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, 10*time.Second, time.Millisecond, what)
}

func TestEventOperationsRefused(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		forB, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
		require.NoError(t, err)
		forOther, err := hypercall.AllocUnbound(a.m, a.ID(), nobody)
		require.NoError(t, err, "the remote domain need not exist")
		virq, err := hypercall.BindVIRQ(a.m, hypercall.VIRQDebug, 0)
		require.NoError(t, err)
		ipi, err := hypercall.BindIPI(a.m, 0)
		require.NoError(t, err)
		bind := func(dom hypercall.DomID, port hypercall.Port) error {
			_, err := hypercall.BindInterdomain(b.m, dom, port)
			return err
		}
		ports := hypercall.Port(a.m.ABI().SharedInfo().Ports())
		for _, test := range []struct {
			name string
			want error
			got  func() error
		}{
			{"alloc for another domain", hypercall.EPERM, func() error { _, err := hypercall.AllocUnbound(a.m, b.ID(), 0); return err }},
			{"alloc for no domain", hypercall.ESRCH, func() error { _, err := hypercall.AllocUnbound(a.m, nobody, 0); return err }},
			{"bind to no domain", hypercall.ESRCH, func() error { return bind(nobody, forB) }},
			{"bind to port 0", hypercall.EINVAL, func() error { return bind(a.ID(), 0) }},
			{"bind to a closed port", hypercall.EINVAL, func() error { return bind(a.ID(), 500) }},
			{"bind to a port beyond all", hypercall.EINVAL, func() error { return bind(a.ID(), 1<<32-1) }},
			{"bind to a port for another domain", hypercall.EINVAL, func() error { return bind(a.ID(), forOther) }},
			{"bind to a virtual interrupt", hypercall.EINVAL, func() error { return bind(a.ID(), virq) }},
			{"bind to an IPI", hypercall.EINVAL, func() error { return bind(a.ID(), ipi) }},
			{"bind to a Xenstore port", hypercall.EINVAL, func() error { return bind(a.ID(), a.store) }},
			{"bind", nil, func() error { return bind(a.ID(), forB) }},
			{"bind again", hypercall.EINVAL, func() error { return bind(a.ID(), forB) }},
			{"VIRQ again", hypercall.EEXIST, func() error { _, err := hypercall.BindVIRQ(a.m, hypercall.VIRQDebug, 0); return err }},
			{"VIRQ of another vCPU", hypercall.ENOENT, func() error { _, err := hypercall.BindVIRQ(a.m, hypercall.VIRQTimer, 1); return err }},
			{"global VIRQ of another vCPU", hypercall.EINVAL, func() error {
				_, err := hypercall.BindVIRQ(a.m, hypercall.VIRQConsole, 1)
				return err
			}},
			{"no such VIRQ", hypercall.EINVAL, func() error { _, err := hypercall.BindVIRQ(a.m, hypercall.NumVIRQs, 0); return err }},
			{"IPI of another vCPU", hypercall.ENOENT, func() error { _, err := hypercall.BindIPI(a.m, 1); return err }},
			{"send on port 0", hypercall.EINVAL, func() error { return hypercall.SendEvent(a.m, 0) }},
			{"send on a closed port", hypercall.EINVAL, func() error { return hypercall.SendEvent(a.m, 500) }},
			{"send on a port beyond all", hypercall.EINVAL, func() error { return hypercall.SendEvent(a.m, 1<<32-1) }},
			{"send on a virtual interrupt", hypercall.EINVAL, func() error { return hypercall.SendEvent(a.m, virq) }},
			{"send where nobody is bound", nil, func() error { return hypercall.SendEvent(a.m, forOther) }},
			{"close port 0", hypercall.EINVAL, func() error { return hypercall.ClosePort(a.m, 0) }},
			{"close a closed port", hypercall.EINVAL, func() error { return hypercall.ClosePort(a.m, 500) }},
			{"unmask a port beyond all", hypercall.EINVAL, func() error { return hypercall.UnmaskPort(a.m, ports) }},
			{"unmask a closed port", nil, func() error { return hypercall.UnmaskPort(a.m, 60) }},
			{"vCPU 1", hypercall.ENOENT, func() error { return hypercall.BindVCPU(a.m, forB, 1) }},
			{"vCPU 0", nil, func() error { return hypercall.BindVCPU(a.m, forB, 0) }},
			{"vCPU of a closed port", hypercall.EINVAL, func() error { return hypercall.BindVCPU(a.m, 500, 0) }},
			{"vCPU of an IPI", hypercall.EINVAL, func() error { return hypercall.BindVCPU(a.m, ipi, 0) }},
			{"vCPU of a per-vCPU VIRQ", hypercall.EINVAL, func() error { return hypercall.BindVCPU(a.m, virq, 0) }},
			{"status beyond all", hypercall.EINVAL, func() error { _, err := hypercall.PortStatus(a.m, hypercall.DomSelf, ports); return err }},
			{"status of another domain's", hypercall.EPERM, func() error { _, err := hypercall.PortStatus(b.m, a.ID(), forB); return err }},
			{"status of no domain's", hypercall.ESRCH, func() error { _, err := hypercall.PortStatus(b.m, nobody, 1); return err }},
			{"reset of another domain", hypercall.EPERM, func() error { return hypercall.ResetEvents(a.m, b.ID()) }},
			{"reset of no domain", hypercall.ESRCH, func() error { return hypercall.ResetEvents(a.m, nobody) }},
		} {
			require.ErrorIs(t, test.got(), test.want, test.name)
		}
		dom0 := newBareHere(t, h, sim.DomainConfig{Name: "dom0", Dom0: true})
		require.ErrorIs(t, hypercall.ResetEvents(dom0.m, a.ID()), hypercall.EINVAL, "it runs")
	})
}

func TestPortStatus(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		status := func(n hypercall.Port) hypercall.EvtchnStatus {
			st, err := hypercall.PortStatus(a.m, hypercall.DomSelf, n)
			require.NoError(t, err)
			require.Equal(t, n, st.Port)
			return st
		}
		require.Equal(t, hypercall.EvtchnClosed, status(0).State, "port 0 is reserved, which says closed")
		require.Equal(t, hypercall.EvtchnClosed, status(60).State)
		port, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
		require.NoError(t, err)
		st := status(port)
		require.Equal(t, hypercall.EvtchnUnbound, st.State)
		require.Equal(t, b.ID(), st.RemoteDom)
		peer, err := hypercall.BindInterdomain(b.m, a.ID(), port)
		require.NoError(t, err)
		st = status(port)
		require.Equal(t, hypercall.EvtchnInterdomain, st.State)
		require.Equal(t, b.ID(), st.RemoteDom)
		require.Equal(t, peer, st.RemotePort)
		require.NoError(t, hypercall.ClosePort(b.m, peer))
		st = status(port)
		require.Equal(t, hypercall.EvtchnUnbound, st.State, "the other end was closed")
		require.Equal(t, b.ID(), st.RemoteDom)
		peer, err = hypercall.BindInterdomain(b.m, a.ID(), port)
		require.NoError(t, err)
		require.NoError(t, b.Destroy())
		require.Equal(t, hypercall.EvtchnUnbound, status(port).State, "the other domain has died")
		_ = peer

		dom0 := newBareHere(t, h, sim.DomainConfig{Name: "dom0", Dom0: true})
		st, err = hypercall.PortStatus(dom0.m, a.ID(), port)
		require.NoError(t, err)
		require.Equal(t, hypercall.EvtchnUnbound, st.State)
		require.NoError(t, a.Pause())
		require.NoError(t, hypercall.ResetEvents(dom0.m, a.ID()))
		st, err = hypercall.PortStatus(dom0.m, a.ID(), port)
		require.NoError(t, err)
		require.Equal(t, hypercall.EvtchnClosed, st.State)
		require.NoError(t, a.Unpause())
	})
}

func TestPortsRunOut(t *testing.T) {
	const limit = 10
	onBare(t, sim.Limits{Ports: limit}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		var ports []hypercall.Port
		for range limit - 1 { // Xenstore has one
			p, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
			require.NoError(t, err)
			ports = append(ports, p)
		}
		_, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
		require.ErrorIs(t, err, hypercall.ENOSPC)
		_, err = hypercall.BindIPI(a.m, 0)
		require.ErrorIs(t, err, hypercall.ENOSPC)
		require.NoError(t, hypercall.ClosePort(a.m, ports[3]))
		p, err := hypercall.BindIPI(a.m, 0)
		require.NoError(t, err)
		require.Equal(t, ports[3], p, "the lowest free port")
	})
}

// TestAllPorts: no limit makes more ports than the ABI's bitmaps have.
func TestAllPorts(t *testing.T) {
	h := newHost(t, nil)
	a := newBareHere(t, h, sim.DomainConfig{ABI: hypercall.X86_32, Limits: sim.Limits{Ports: 1 << 20}})
	n := 0
	for {
		if _, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, nobody); err != nil {
			require.ErrorIs(t, err, hypercall.ENOSPC)
			break
		}
		n++
	}
	require.Equal(t, 1024-2, n, "all but port 0 and Xenstore's")
}

// TestPendingBits follows one event through shared_info: pending bit, mask, selector, upcall.
func TestPendingBits(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		si, upcalls := b.info()
		port, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
		require.NoError(t, err)
		peer, err := hypercall.BindInterdomain(b.m, a.ID(), port)
		require.NoError(t, err)
		require.NoError(t, hypercall.UnmaskPort(b.m, peer))
		eventually(t, "Xen's own first event", func() bool { return si.pending(peer) && upcalls.Load() > 0 })
		require.Equal(t, uint64(1), si.read(si.PendingSel)&1)

		require.NoError(t, hypercall.ClosePort(b.m, peer))
		eventually(t, "closing drops what is pending", func() bool { return !si.pending(peer) })
		require.NoError(t, hypercall.SendEvent(a.m, port), "nobody is bound: dropped")
	})
}

func TestIPIAndVIRQ(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, _ *bare) {
		si, _ := a.info()
		ipi, err := hypercall.BindIPI(a.m, 0)
		require.NoError(t, err)
		virq, err := hypercall.BindVIRQ(a.m, hypercall.VIRQConsole, 0)
		require.NoError(t, err)
		timer, err := hypercall.BindVIRQ(a.m, hypercall.VIRQTimer, 0)
		require.NoError(t, err)
		require.NoError(t, hypercall.SendEvent(a.m, ipi))
		eventually(t, "the IPI", func() bool { return si.pending(ipi) })
		require.False(t, si.pending(virq))
		a.RaiseVIRQ(hypercall.VIRQConsole)
		eventually(t, "the virtual interrupt", func() bool { return si.pending(virq) })
		a.RaiseVIRQ(hypercall.VIRQDebug) // not bound
		require.False(t, si.pending(timer))
		require.NoError(t, hypercall.SetTimer(a.m, 1)) // long ago
		eventually(t, "the timer", func() bool { return si.pending(timer) })
		require.NoError(t, hypercall.SetTimer(a.m, 1<<64-1))
		require.NoError(t, hypercall.SetTimer(a.m, 0))
	})
}

// TestLoopback: a domain talks to itself.
func TestLoopback(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		si, _ := a.info()
		port, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, hypercall.DomSelf)
		require.NoError(t, err)
		peer, err := hypercall.BindInterdomain(a.m, hypercall.DomSelf, port)
		require.NoError(t, err)
		eventually(t, "the first event", func() bool { return si.pending(peer) })
		require.NoError(t, hypercall.SendEvent(a.m, peer))
		eventually(t, "an event", func() bool { return si.pending(port) })
		page, _ := a.alloc(1)
		a.entry(20, a.ID(), page, permit)
		op := a.mapRef(a.ID(), 20, mapRW)
		require.Equal(t, hypercall.StatusOkay, op.Status)
		require.Equal(t, hypercall.StatusOkay, a.unmap(op))
		require.NoError(t, hypercall.ClosePort(a.m, port))
		require.NoError(t, hypercall.ClosePort(a.m, peer))
	})
}

// E-11: a domain resets its channels while others send to them, bind to them and close theirs. Its ports are closed, theirs are unbound,
// nothing that is numbered as before reaches anybody, and new channels work.
func TestE11_ResetWhileInUse(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		const channels, rounds = 8, 20
		for range rounds {
			var ports, peers [channels]hypercall.Port
			for i := range channels {
				var err error
				ports[i], err = hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
				require.NoError(t, err)
				peers[i], err = hypercall.BindInterdomain(b.m, a.ID(), ports[i])
				require.NoError(t, err)
			}
			offer, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
			require.NoError(t, err)
			var group sync.WaitGroup
			errs := make(chan error, 2*channels+2)
			group.Go(func() {
				for _, p := range peers {
					errs <- hypercall.SendEvent(b.m, p)
				}
			})
			group.Go(func() {
				for _, p := range peers[:channels/2] {
					errs <- hypercall.ClosePort(b.m, p)
				}
			})
			late := hypercall.Port(0)
			group.Go(func() {
				if p, err := hypercall.BindInterdomain(b.m, a.ID(), offer); err == nil { // before the reset, or not
					late = p
				} else if !errors.Is(err, hypercall.EINVAL) {
					errs <- err
				}
			})
			group.Go(func() { errs <- hypercall.ResetEvents(a.m, hypercall.DomSelf) })
			group.Wait()
			close(errs)
			for err := range errs {
				if err != nil { // a port of b's that is closed, or one that is another's now
					require.ErrorIs(t, err, hypercall.EINVAL)
				}
			}
			for _, p := range append(ports[:], offer) {
				require.ErrorIs(t, hypercall.SendEvent(a.m, p), hypercall.EINVAL, "port %d is open after the reset", p)
			}
			for _, p := range append(peers[channels/2:], late) {
				if p == 0 {
					continue
				}
				st, err := hypercall.PortStatus(b.m, hypercall.DomSelf, p)
				require.NoError(t, err)
				require.Equal(t, hypercall.EvtchnUnbound, st.State, "port %d has an other end after the reset", p)
				require.NoError(t, hypercall.SendEvent(b.m, p), "dropped")
				require.NoError(t, hypercall.ClosePort(b.m, p))
			}
		}
		require.NotContains(t, strings.Join(h.Leaks(), "\n"), "is open")
	})
}

// E-11: nobody but a toolstack resets another domain's channels, and that only while it is paused.
func TestE11_ResetOfAnother(t *testing.T) {
	h := newHost(t, nil)
	a, b := newBareHere(t, h, sim.DomainConfig{Name: "a"}), newBareHere(t, h, sim.DomainConfig{Name: "b"})
	tools := newBareHere(t, h, sim.DomainConfig{Name: "tools", Dom0: true})
	port, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
	require.NoError(t, err)
	require.ErrorIs(t, hypercall.ResetEvents(b.m, a.ID()), hypercall.EPERM)
	require.ErrorIs(t, hypercall.ResetEvents(tools.m, a.ID()), hypercall.EINVAL)
	require.NoError(t, hypercall.SendEvent(a.m, port))
	require.NoError(t, a.Pause())
	require.NoError(t, hypercall.ResetEvents(tools.m, a.ID()))
	require.NoError(t, a.Unpause())
	require.ErrorIs(t, hypercall.SendEvent(a.m, port), hypercall.EINVAL)
}

func TestResetClosesEveryPort(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		port, err := hypercall.AllocUnbound(a.m, hypercall.DomSelf, b.ID())
		require.NoError(t, err)
		peer, err := hypercall.BindInterdomain(b.m, a.ID(), port)
		require.NoError(t, err)
		require.NoError(t, hypercall.ResetEvents(b.m, hypercall.DomSelf))
		require.ErrorIs(t, hypercall.SendEvent(b.m, peer), hypercall.EINVAL)
		st, err := hypercall.PortStatus(a.m, hypercall.DomSelf, port)
		require.NoError(t, err)
		require.Equal(t, hypercall.EvtchnUnbound, st.State)
		require.False(t, errors.Is(hypercall.SendEvent(a.m, port), hypercall.EINVAL))
	})
}
