package sim_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
)

// pingPong measures an event there and one back; the other side is a goroutine or a process that answers each event with one.
func pingPong(b *testing.B, ch evtchn.Channel) {
	b.Helper()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := ch.Notify(); err != nil {
			b.Fatal(err)
		}
		if err := ch.Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPingPong(b *testing.B) {
	h := newHost(b, nil)
	x, y := newDomain(h, "x").Xen(), newDomain(h, "y").Xen()
	_, _, cx, cy := connect(x, y)
	go func() {
		for cy.Wait(context.Background()) == nil {
			if cy.Notify() != nil {
				return
			}
		}
	}()
	pingPong(b, cx)
}

// BenchmarkNotifyHandler is an event whose taker is a function: the sender's goroutine runs it.
func BenchmarkNotifyHandler(b *testing.B) {
	h := newHost(b, nil)
	x, y := newDomain(h, "x").Xen(), newDomain(h, "y").Xen()
	_, _, cx, cy := connect(x, y)
	n := 0
	cy.Handle(func() { n++ })
	b.ReportAllocs()
	for b.Loop() {
		if err := cx.Notify(); err != nil {
			b.Fatal(err)
		}
	}
	require.Positive(b, n) // not each: events that nobody answers are a flood, and merge
}

func TestEventsDoNotAllocate(t *testing.T) {
	h := newHost(t, nil)
	x, y := newDomain(h, "x").Xen(), newDomain(h, "y").Xen()
	_, _, cx, cy := connect(x, y)
	ctx := context.Background()
	allocs := testing.AllocsPerRun(1000, func() {
		cx.Notify()
		cy.Wait(ctx)
	})
	require.Less(t, allocs, 0.5)
}

// mapUnmap measures mapping 256 pages of one share, and unmapping them.
func mapUnmap(b *testing.B, x *xen.Domain, y *xen.Domain) {
	b.Helper()
	s, err := x.Grants().Share(y.ID(), 256, grant.ReadWrite)
	require.NoError(b, err)
	refs := s.Refs()
	b.ReportAllocs()
	for b.Loop() {
		m, err := y.Grants().Map(x.ID(), refs, grant.ReadWrite)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMapUnmap256(b *testing.B) {
	for name, shared := range map[string]bool{"Heap": false, "Shared": true} {
		b.Run(name, func(b *testing.B) {
			h := newHost(b, &sim.HostConfig{Shared: shared})
			mapUnmap(b, newDomain(h, "x").Xen(), newDomain(h, "y").Xen())
		})
	}
}
