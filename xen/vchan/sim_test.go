package vchan_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// newHost returns a simulated host that must have nothing left when the test ends.
func newHost(t testing.TB) *sim.Host {
	h := sim.NewHost(nil)
	t.Cleanup(func() {
		if t.Failed() {
			h.WriteTrace(t.Output())
		}
		noLeaks := func() bool {
			for _, d := range h.Domains() {
				d.Xen().Grants().(*grant.Native).Reap() // what peers have let go of
			}
			return len(h.Leaks()) == 0
		}
		require.Eventually(t, noLeaks, 5*time.Second, time.Millisecond, "leaks: %v", leaks{h})
		require.NoError(t, h.Close())
	})
	return h
}

// leaks prints what is left on a host at the time it is printed.
type leaks struct{ h *sim.Host }

func (l leaks) String() string { return joinLines(l.h.Leaks()) }

func joinLines(lines []string) string {
	s := ""
	for _, line := range lines {
		s += "\n" + line
	}
	return s
}

func newDomain(t testing.TB, h *sim.Host, name string) *sim.Domain {
	d, err := h.NewDomain(&sim.DomainConfig{Name: name})
	require.NoError(t, err)
	return d
}

func newPlatform(t testing.TB) vchantest.Platform {
	h := newHost(t)
	return vchantest.Platform{Server: newDomain(t, h, "server").Xen(), Client: newDomain(t, h, "client").Xen()}
}

func TestTwoDomains(t *testing.T) {
	vchantest.Test(t, func(t *testing.T) vchantest.Platform { return newPlatform(t) })
}

// A domain talks to itself.
func TestOneDomain(t *testing.T) {
	vchantest.Test(t, func(t *testing.T) vchantest.Platform {
		d := newDomain(t, newHost(t), "lonely").Xen()
		return vchantest.Platform{Server: d, Client: d}
	})
}
