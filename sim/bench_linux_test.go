package sim_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// BenchmarkProcesses measures against a domain in another process.
func BenchmarkProcesses(b *testing.B) {
	h := newHost(b, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(b, h, nil)
	d := simtest.Join(b, socket, "out")
	child := startChild(b, socket, "", "echo", d.ID())
	var id hypercall.DomID
	var port hypercall.Port
	var first grant.Ref
	child.line(&id, &port, &first)
	ch, err := d.Events().BindInterdomain(id, port)
	require.NoError(b, err)
	require.NoError(b, ch.Wait(context.Background()))
	b.Run("PingPong", func(b *testing.B) { pingPong(b, ch) })
	refs := make([]grant.Ref, 256)
	for i := range refs {
		refs[i] = first + grant.Ref(i)
	}
	b.Run("MapUnmap256", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m, err := d.Grants().Map(id, refs, grant.ReadWrite)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Hypercall", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ch.Status(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
