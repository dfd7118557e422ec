package testbed_test

import (
	"os"
	"testing"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { os.Exit(testbedtest.Main(m)) }

// The suites that any domain can run, in each kind.
func TestSuites(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	run := func(t *testing.T, d *testbed.Domain) {
		for _, suite := range []struct{ name, pkg, run string }{
			{"Xenstore", "xen/xenstore", "^TestRealServer$"},
			{"Hypercalls", "xen/hypercall", "^TestLinux"},
			{"Events", "xen/evtchn", "^TestLinuxConformance$"},
			{"Grants", "xen/grant", "^TestLinuxConformance$"},
			{"Vchan", "xen/vchan", "^TestLinuxOneDomain$/^(Placements|Packets|CloseLosesNothing|PeerCloses)$"},
		} {
			t.Run(suite.name, func(t *testing.T) {
				testbedtest.Run(t, d, "github.com/hvkit/hvkit/"+suite.pkg, "-test.run="+suite.run, "-test.v")
			})
		}
	}
	t.Run("dom0", func(t *testing.T) { run(t, h.Dom0()) })
	for _, kind := range []string{"pv", "pvh"} {
		t.Run(kind, func(t *testing.T) {
			d, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: kind})
			require.NoError(t, err)
			run(t, d)
			require.NoError(t, d.Destroy(t.Context()))
		})
	}
}
