package testbed_test

import (
	"os"
	"testing"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

func TestMain(m *testing.M) { os.Exit(testbedtest.Main(m)) }

// suites are those that run in every domain.
var suites = []struct{ name, pkg, run string }{
	{"Memory", "shm", ""},
	{"Xenstore", "xen/xenstore", "^TestRealServer$"},
	{"Hypercalls", "xen/hypercall", "^TestLinux"},
	{"Events", "xen/evtchn", "^TestLinuxConformance$"},
	{"Grants", "xen/grant", "^TestLinuxConformance$"},
	{"Vchan", "xen/vchan", "^TestLinuxOneDomain$/^(Placements|Packets|CloseLosesNothing|PeerCloses)$"},
}

func runSuites(t *testing.T, d *testbed.Domain) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) { testbedtest.Run(t, d, "github.com/hvkit/hvkit/"+s.pkg, "-test.run="+s.run) })
	}
}

func TestAMD64(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	t.Run("dom0", func(t *testing.T) { runSuites(t, h.Dom0()) })
	for _, kind := range []string{"pv", "pvh"} {
		t.Run(kind, func(t *testing.T) { runSuites(t, create(t, h, kind)[0]) })
	}
}

func TestARM64(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenARM64)
	t.Run("dom0", func(t *testing.T) { runSuites(t, h.Dom0()) })
	t.Run("pvh", func(t *testing.T) { runSuites(t, create(t, h, "pvh")[0]) })
}
