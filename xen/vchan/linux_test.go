package vchan_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// insideDomain opens the domain of a real host that the test runs in.
func insideDomain(t *testing.T) *xen.Domain {
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "" {
		t.Skip("needs a domain of a real Xen host; 'hvkit testbed run ./xen/vchan -- -test.run Linux' runs it in one")
	}
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "pvh" && runtime.GOARCH == "amd64" {
		t.Skip("an x86 PVH domain cannot map what it granted to itself")
	}
	d, err := xen.Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		st := d.Grants().Stats()
		require.Zero(t, st.Shared+st.Mapped+st.Leaked, "%+v", st)
		require.Zero(t, d.Events().Stats().Open)
		require.NoError(t, d.Close())
	})
	return d
}

// A domain of a real host talks to itself, as one user of the kernel's devices and as two.
func TestLinuxOneDomain(t *testing.T) {
	vchantest.Test(t, func(t *testing.T) vchantest.Platform {
		d := insideDomain(t)
		return vchantest.Platform{Server: d, Client: d}
	})
}

func TestLinuxTwoUsers(t *testing.T) {
	vchantest.Test(t, func(t *testing.T) vchantest.Platform {
		return vchantest.Platform{Server: insideDomain(t), Client: insideDomain(t)}
	})
}
