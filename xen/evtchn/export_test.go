package evtchn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// NewOnFake returns a table on a fake Xen, for tests outside the package.
func NewOnFake(t testing.TB, abi hypercall.ABI, cfg *Config) (*Native, hypercall.DomID) {
	n, x := newNative(t, abi, cfg)
	return n, x.id
}

func newNative(t testing.TB, abi hypercall.ABI, cfg *Config) (*Native, *fakeXen) {
	x := newFakeXen(abi)
	n, err := NewNative(x, x.info, cfg)
	require.NoError(t, err)
	x.upcall = n.Upcall
	t.Cleanup(func() { n.Close() })
	return n, x
}
