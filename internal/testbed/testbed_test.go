package testbed_test

import (
	"os"
	"testing"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

func TestMain(m *testing.M) { os.Exit(testbedtest.Main(m)) }

// suite is tests of a package that run in a domain.
type suite struct{ name, pkg, run string }

// suites are those that run in every domain.
var suites = []suite{
	{"Memory", "shm", ""},
	{"Xenstore", "xen/xenstore", "^TestRealServer$"},
	{"Hypercalls", "xen/hypercall", "^TestLinux"},
	{"Events", "xen/evtchn", "^TestLinuxConformance$"},
	{"Grants", "xen/grant", "^TestLinuxConformance$"},
	{"Vchan", "xen/vchan", "^TestLinuxOneDomain$/^(Placements|Packets|CloseLosesNothing|PeerCloses)$"},
}

// peerSuites are those that need Xen's own programs beside them, which dom0 has.
var peerSuites = []suite{
	{"Libxenvchan", "xen/vchan", "^TestLinux(Serves|Dials)Libxenvchan$"},
	{"EndsWithLibxenvchan", "xen/vchan", "^TestLinuxEndsWithLibxenvchan$"},
	{"VchanOfTwoUsers", "xen/vchan", "^TestLinuxTwoUsers$"},
}

func runSuites(t *testing.T, d *testbed.Domain, suites []suite) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) { testbedtest.Run(t, d, "github.com/hvkit/hvkit/"+s.pkg, "-test.run="+s.run) })
	}
}

func TestAMD64(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	t.Run("dom0", func(t *testing.T) { runSuites(t, h.Dom0(), append(peerSuites, suites...)) })
	for _, kind := range []string{"pv", "pvh"} {
		t.Run(kind, func(t *testing.T) { runSuites(t, create(t, h, kind)[0], suites) })
	}
}

func TestARM64(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenARM64)
	t.Run("dom0", func(t *testing.T) { runSuites(t, h.Dom0(), append(peerSuites, suites...)) })
	t.Run("pvh", func(t *testing.T) { runSuites(t, create(t, h, "pvh")[0], suites) })
}
