package sim_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// newBareThere makes a bare domain behind a socket.
func newBareThere(t testing.TB, h *sim.Host, socket string, c sim.DomainConfig) *bare {
	t.Helper()
	c.External = true
	d, err := h.NewDomain(&c)
	require.NoError(t, err)
	m, err := attach.Join(context.Background(), socket, d.Token(), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return newBare(t, d, m)
}

func sharedBare(a, b place) barePlatform {
	return barePlatform{a.String() + b.String(), func(t *testing.T, limits sim.Limits) (*sim.Host, *bare, *bare) {
		h := newHost(t, &sim.HostConfig{Shared: true, Limits: limits})
		socket := simtest.Serve(t, h, nil)
		make := func(p place, name string) *bare {
			if p == here {
				return newBareHere(t, h, sim.DomainConfig{Name: name})
			}
			return newBareThere(t, h, socket, sim.DomainConfig{Name: name})
		}
		return h, make(a, "a"), make(b, "b")
	}}
}

func barePlatforms() []barePlatform {
	return []barePlatform{
		heapBare(hypercall.X86_64), heapBare(hypercall.X86_32), heapBare(hypercall.ARM64),
		sharedBare(here, here), sharedBare(here, there), sharedBare(there, here), sharedBare(there, there),
	}
}
