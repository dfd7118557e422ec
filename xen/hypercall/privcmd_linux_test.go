package hypercall_test

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/hypercall/hypercalltest"
)

// realPrivcmd is the devices of the kernel, in a domain of a real host.
func realPrivcmd(t *testing.T) *hypercall.Privcmd {
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "" {
		t.Skip("needs a domain of a real Xen host; 'hvkit testbed run ./xen/hypercall -- -test.run Linux' runs it in one")
	}
	p, err := hypercall.OpenPrivcmd()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	if _, _, err := hypercall.Version(p); errors.Is(err, hypercall.EPERM) && os.Getenv("HVKIT_TESTBED_INSIDE") != "dom0" {
		t.Skip("this kernel lets no program of an ordinary domain make hypercalls")
	}
	return p
}

func TestLinuxConformance(t *testing.T) { hypercalltest.TestCaller(t, realPrivcmd(t)) }

// TestLinuxResource asks for what is refused: another domain is not there, and Xen has nobody map its own resources so.
func TestLinuxResource(t *testing.T) {
	p := realPrivcmd(t)
	if os.Getenv("HVKIT_TESTBED_INSIDE") != "dom0" {
		t.Skip("only a toolstack's domain may map resources")
	}
	_, err := p.MapResource(0, hypercall.ResourceGrantTable, hypercall.ResourceGrantShared, 0, 1, true)
	require.ErrorIs(t, err, hypercall.EPERM)
	_, err = p.MapResource(0x7fef, hypercall.ResourceGrantTable, hypercall.ResourceGrantShared, 0, 1, true)
	require.ErrorIs(t, err, hypercall.ESRCH)
	_, err = p.MapForeign(0x7fef, []hypercall.GFN{1}, false)
	require.Error(t, err)
}
