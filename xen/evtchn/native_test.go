package evtchn_test

import (
	"testing"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// The conformance suite on a fake Xen with one domain, which is both sides.
func TestNativeOnFake(t *testing.T) {
	for _, abi := range []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64} {
		t.Run(abi.String(), func(t *testing.T) {
			evtchntest.TestTable(t, func(t *testing.T) (a, b evtchntest.Side) {
				n, id := evtchn.NewOnFake(t, abi, nil)
				side := evtchntest.Side{ID: id, Table: n}
				return side, side
			})
		})
	}
}
