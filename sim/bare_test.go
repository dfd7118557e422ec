package sim_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// bare is a domain in which nothing runs but the test, which makes its hypercalls one by one.
type bare struct {
	t testing.TB
	*sim.Domain
	m     xen.Machine
	table *shm.Region // the first frame of its grant table
	store hypercall.Port
}

// newBare starts what a bare domain has: the first frame of its grant table.
func newBare(t testing.TB, d *sim.Domain, m xen.Machine) *bare {
	t.Helper()
	b := &bare{t: t, Domain: d, m: m}
	at := b.reserve(1)
	require.NoError(t, hypercall.AddToPhysmap(m, hypercall.DomSelf, hypercall.SpaceGrantTable, 0, at))
	b.table = b.view(at, 1, true)
	port, err := hypercall.GetParam(m, hypercall.DomSelf, hypercall.ParamStoreEvtchn)
	require.NoError(t, err)
	b.store = hypercall.Port(port)
	return b
}

// newBareHere makes a bare domain of this process.
func newBareHere(t testing.TB, h *sim.Host, c sim.DomainConfig) *bare {
	t.Helper()
	d, m, err := h.NewBare(&c)
	require.NoError(t, err)
	return newBare(t, d, m)
}

func (b *bare) reserve(n int) hypercall.GFN {
	b.t.Helper()
	at, err := b.m.Reserve(n)
	require.NoError(b.t, err)
	return at
}

func (b *bare) view(at hypercall.GFN, n int, writable bool) *shm.Region {
	b.t.Helper()
	r, err := b.m.View(at, n, writable)
	require.NoError(b.t, err)
	return r
}

func (b *bare) alloc(n int) (hypercall.GFN, *shm.Region) {
	b.t.Helper()
	at, r, err := b.m.Alloc(n)
	require.NoError(b.t, err)
	return at, r
}

// entry writes an entry of the first frame of the grant table.
func (b *bare) entry(ref hypercall.GrantRef, dom hypercall.DomID, frame hypercall.GFN, flags uint16) {
	off := int(ref) * 8
	b.table.Store16(off+2, uint16(dom))
	b.table.Store32(off+4, uint32(frame))
	b.table.Store16(off, flags)
}

func (b *bare) flags(ref hypercall.GrantRef) uint16 { return b.table.Load16(int(ref) * 8).Unchecked() }

// mapRef maps a grant at a new frame number, and returns the operation as Xen answered it.
func (b *bare) mapRef(dom hypercall.DomID, ref hypercall.GrantRef, flags uint32) hypercall.MapGrantRef {
	b.t.Helper()
	return b.mapAt(dom, ref, flags, uint64(b.reserve(1))*shm.PageSize)
}

func (b *bare) mapAt(dom hypercall.DomID, ref hypercall.GrantRef, flags uint32, addr uint64) hypercall.MapGrantRef {
	b.t.Helper()
	ops := []hypercall.MapGrantRef{{HostAddr: addr, Flags: flags, Ref: ref, Dom: dom}}
	require.NoError(b.t, hypercall.MapGrants(b.m, ops))
	return ops[0]
}

func (b *bare) unmap(op hypercall.MapGrantRef) hypercall.GrantStatus {
	b.t.Helper()
	return b.unmapAt(op.Handle, op.HostAddr)
}

func (b *bare) unmapAt(h hypercall.GrantHandle, addr uint64) hypercall.GrantStatus {
	b.t.Helper()
	ops := []hypercall.UnmapGrantRef{{HostAddr: addr, Handle: h}}
	require.NoError(b.t, hypercall.UnmapGrants(b.m, ops))
	return ops[0].Status
}

// barePlatform makes the bare domains of a test.
type barePlatform struct {
	name string
	make func(t *testing.T, limits sim.Limits) (h *sim.Host, a, b *bare)
}

func heapBare(abi hypercall.ABI) barePlatform {
	return barePlatform{"Heap/" + abi.String(), func(t *testing.T, limits sim.Limits) (*sim.Host, *bare, *bare) {
		h := newHost(t, &sim.HostConfig{Limits: limits})
		return h, newBareHere(t, h, sim.DomainConfig{Name: "a", ABI: abi}), newBareHere(t, h, sim.DomainConfig{Name: "b", ABI: abi})
	}}
}

// newHost starts a host that is closed when the test ends. Bare domains leave things behind, so it is not checked for leaks.
func newHost(t testing.TB, cfg *sim.HostConfig) *sim.Host {
	h := sim.NewHost(cfg)
	t.Cleanup(func() {
		if t.Failed() {
			h.WriteTrace(t.Output())
		}
		h.Close()
	})
	return h
}

// within is a context for what must not take long.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// onBare runs a test on each platform.
func onBare(t *testing.T, limits sim.Limits, f func(t *testing.T, h *sim.Host, a, b *bare)) {
	for _, p := range barePlatforms() {
		t.Run(p.name, func(t *testing.T) {
			h, a, b := p.make(t, limits)
			f(t, h, a, b)
		})
	}
}
