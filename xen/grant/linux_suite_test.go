package grant_test

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// The suite over a model of the drivers: two kernels, and one that maps its own grants.
func TestLinuxModelConformance(t *testing.T) {
	for name, ids := range map[string][2]hypercall.DomID{"Two": {1, 2}, "One": {3, 3}} {
		t.Run(name, func(t *testing.T) {
			granttest.TestTable(t, func(t *testing.T) (a, b granttest.Side) {
				x := grant.NewModel()
				t.Cleanup(func() { x.Check(t) })
				side := func(id hypercall.DomID) granttest.Side {
					l, err := x.Open(id)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, l.Close()) })
					return granttest.Side{ID: id, Table: l, Limit: 1024}
				}
				a = side(ids[0])
				if b = a; ids[0] != ids[1] {
					b = side(ids[1])
				}
				return a, b
			})
		})
	}
}

// The suite over a real kernel's devices: the domain maps what it granted to itself, as one and as two users of the devices.
func TestLinuxConformance(t *testing.T) {
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "" {
		t.Skip("needs a domain of a real Xen host; 'hvkit testbed run ./xen/grant -- -test.run Linux' runs it in one")
	}
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "pvh" && runtime.GOARCH == "amd64" {
		t.Skip("an x86 PVH domain cannot map what it granted to itself")
	}
	self := selfID(t)
	for name, one := range map[string]bool{"OneUser": true, "TwoUsers": false} {
		t.Run(name, func(t *testing.T) {
			granttest.TestTable(t, func(t *testing.T) (a, b granttest.Side) {
				side := func() granttest.Side {
					l, err := grant.OpenLinux(nil)
					require.NoError(t, err)
					e, err := evtchn.OpenLinux(nil, nil)
					require.NoError(t, err)
					t.Cleanup(func() {
						require.NoError(t, l.Close())
						require.NoError(t, e.Close())
					})
					return granttest.Side{ID: self, Table: l, Events: e, Limit: 1024}
				}
				a = side()
				if b = a; !one {
					b = side()
				}
				return a, b
			})
		})
	}
}

// selfID is the domain's own number, which Xenstore knows.
func selfID(t *testing.T) hypercall.DomID {
	c, err := xenstore.Dial(t.Context(), "", nil)
	require.NoError(t, err)
	defer c.Close()
	text, err := c.Read(t.Context(), "domid")
	require.NoError(t, err)
	id, err := xenstore.ParseDomID(string(text))
	require.NoError(t, err)
	return id
}
