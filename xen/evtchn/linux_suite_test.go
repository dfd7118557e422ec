package evtchn_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// The suite over a model of the driver: two kernels, and one that has channels to itself.
func TestLinuxModelConformance(t *testing.T) {
	for name, ids := range map[string][2]hypercall.DomID{"Two": {1, 2}, "One": {3, 3}} {
		t.Run(name, func(t *testing.T) {
			evtchntest.TestTable(t, func(t *testing.T) (a, b evtchntest.Side) {
				x := evtchn.NewModel()
				side := func(id hypercall.DomID) evtchntest.Side {
					l, err := x.Open(id)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, l.Close()) })
					return evtchntest.Side{ID: id, Table: l}
				}
				t.Cleanup(func() { require.Zero(t, x.Left(), "ports left open") })
				a = side(ids[0])
				if b = a; ids[0] != ids[1] {
					b = side(ids[1])
				}
				return a, b
			})
		})
	}
}

// The suite over a real kernel's device: the domain has channels to itself, as one and as two users of the device.
func TestLinuxConformance(t *testing.T) {
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "" {
		t.Skip("needs a domain of a real Xen host; 'hvkit testbed run ./xen/evtchn -- -test.run Linux' runs it in one")
	}
	var c hypercall.Caller
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "dom0" { // kernels let nobody else make hypercalls
		p, err := hypercall.OpenPrivcmd()
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Close()) })
		c = p
	}
	self := selfID(t)
	for name, one := range map[string]bool{"OneDescriptor": true, "TwoDescriptors": false} {
		t.Run(name, func(t *testing.T) {
			evtchntest.TestTable(t, func(t *testing.T) (a, b evtchntest.Side) {
				side := func() evtchntest.Side {
					l, err := evtchn.OpenLinux(c, nil)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, l.Close()) })
					return evtchntest.Side{ID: self, Table: l, VIRQ: hypercall.VIRQTbuf}
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
