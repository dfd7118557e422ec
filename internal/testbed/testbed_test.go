package testbed_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

func TestMain(m *testing.M) { os.Exit(testbedtest.Main(m)) }

// suite is tests of a package that run in a domain. With HVKIT_LONG they are given more flags.
type suite struct{ name, pkg, run, long string }

// suites are those that run in every domain.
var suites = []suite{
	{"Memory", "shm", "", ""},
	{"Xenstore", "xen/xenstore", "^TestRealServer$", ""},
	{"Hypercalls", "xen/hypercall", "^TestLinux", ""},
	{"Events", "xen/evtchn", "^TestLinuxConformance$", ""},
	{"Grants", "xen/grant", "^TestLinuxConformance$", ""},
	{"Vchan", "xen/vchan", "^TestLinuxOneDomain$/^(Placements|Packets|CloseLosesNothing|PeerCloses)$", ""},
}

// peerSuites are those that need Xen's own programs beside them, which dom0 has.
var peerSuites = []suite{
	{"Libxenvchan", "xen/vchan", "^TestLinux(Serves|Dials)Libxenvchan$", "-vchan.bytes=268435456"},
	{"EndsWithLibxenvchan", "xen/vchan", "^TestLinuxEndsWithLibxenvchan$", "-vchan.rounds=10"},
	{"VchanOfTwoUsers", "xen/vchan", "^TestLinuxTwoUsers$", ""},
}

func runSuites(t *testing.T, d *testbed.Domain, suites []suite) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			flags := []string{"-test.run=" + s.run}
			if os.Getenv("HVKIT_LONG") != "" && s.long != "" {
				flags = append(flags, "-test.timeout=1h", s.long)
			}
			testbedtest.Run(t, d, "github.com/hvkit/hvkit/"+s.pkg, flags...)
		})
	}
}

// TestVersions says what the others have run on: "hvkit testbed matrix" looks for the lines.
func TestVersions(t *testing.T) {
	for _, r := range []*testbed.Recipe{testbed.XenAMD64, testbed.XenARM64} {
		t.Run(r.Arch, func(t *testing.T) {
			dom0 := testbedtest.Host(t, r).Dom0()
			xen, err := dom0.Output(t.Context(), "xl", "info", "xen_version")
			require.NoError(t, err)
			kernel, err := dom0.Output(t.Context(), "busybox", "uname", "-r")
			require.NoError(t, err)
			t.Logf("version: %s: Xen %s, Linux %s", r.Arch, xen, kernel)
		})
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
