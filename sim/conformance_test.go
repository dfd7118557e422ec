package sim_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// platform makes the two domains of a conformance test.
type platform struct {
	name string
	pair func(t *testing.T, limits sim.Limits) (a, b *xen.Domain)
}

// inProcess makes domains of this process.
func inProcess(t *testing.T, h *sim.Host, name string, abi hypercall.ABI) *xen.Domain {
	return simtest.NewDomainConfig(t, h, &sim.DomainConfig{Name: name, ABI: abi}).Xen()
}

// hosts are the hosts of domains: *xen.Domain to *sim.Host.
var hosts sync.Map

// known remembers a domain's host for hostOf.
func known(t *testing.T, h *sim.Host, d *xen.Domain) *xen.Domain {
	hosts.Store(d, h)
	t.Cleanup(func() { hosts.Delete(d) })
	return d
}

// theHost returns the host of a domain of a platform's pair.
func theHost(d *xen.Domain) *sim.Host {
	h, _ := hosts.Load(d)
	return h.(*sim.Host)
}

// hostOf returns a domain as its host sees it.
func hostOf(d *xen.Domain) *sim.Domain { return theHost(d).Domain(d.ID()) }

func heapPair(abi hypercall.ABI) platform {
	return platform{"Heap/" + abi.String(), func(t *testing.T, limits sim.Limits) (a, b *xen.Domain) {
		h := simtest.NewHost(t, &sim.HostConfig{Limits: limits})
		return known(t, h, inProcess(t, h, "a", abi)), known(t, h, inProcess(t, h, "b", abi))
	}}
}

func TestGrantConformance(t *testing.T) {
	const frames = 2
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			granttest.TestTable(t, func(t *testing.T) (granttest.Side, granttest.Side) {
				a, b := p.pair(t, sim.Limits{GrantFrames: frames})
				side := func(d *xen.Domain) granttest.Side {
					limit := frames*hypercall.GrantsPerFrame - hypercall.NumReservedGrants
					return granttest.Side{ID: d.ID(), Table: d.Grants(), Events: d.Events(), Limit: limit}
				}
				return side(a), side(b)
			})
		})
	}
}

func TestEventConformance(t *testing.T) {
	for _, p := range platforms() {
		t.Run(p.name, func(t *testing.T) {
			evtchntest.TestTable(t, func(t *testing.T) (evtchntest.Side, evtchntest.Side) {
				a, b := p.pair(t, sim.Limits{})
				return evtchntest.Side{ID: a.ID(), Table: a.Events()}, evtchntest.Side{ID: b.ID(), Table: b.Events()}
			})
		})
	}
}

// TestABIsMeet has domains of different architectures share memory and events, as a 32-bit guest and a 64-bit one do.
func TestABIsMeet(t *testing.T) {
	h := simtest.NewHost(t, nil)
	a, b := inProcess(t, h, "a", hypercall.X86_32), inProcess(t, h, "b", hypercall.ARM64)
	meet(t, a, b)
	meet(t, b, a)
}

// meet has a share a page with b, and both send an event.
func meet(t *testing.T, a, b *xen.Domain) {
	t.Helper()
	ctx := context.Background()
	s, err := a.Grants().Share(b.ID(), 3, grant.ReadWrite)
	require.NoError(t, err)
	s.Region().CopyIn(4090, []byte("hello, world"))
	m, err := b.Grants().Map(a.ID(), s.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	got := make([]byte, 12)
	m.Region().CopyOut(got, 4090)
	require.Equal(t, "hello, world", string(got))
	ch, err := a.Events().AllocUnbound(b.ID())
	require.NoError(t, err)
	peer, err := b.Events().BindInterdomain(a.ID(), ch.Port())
	require.NoError(t, err)
	require.NoError(t, peer.Wait(ctx)) // Xen's own first event
	require.NoError(t, ch.Notify())
	require.NoError(t, peer.Wait(ctx))
	require.NoError(t, peer.Notify())
	require.NoError(t, ch.Wait(ctx))
	require.NoError(t, m.Close())
	end, err := s.End()
	require.NoError(t, err)
	require.Equal(t, grant.Reclaimed, end)
	require.NoError(t, ch.Close())
	require.NoError(t, peer.Close())
}
