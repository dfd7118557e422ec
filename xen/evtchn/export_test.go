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

// NewModel is a model of Xen and of Linux's driver, for the suite.
func NewModel() *modelXen { return newModelXen() }

// Open opens a table over the model.
func (x *modelXen) Open(dom hypercall.DomID) (*Linux, error) {
	return openLinux(x.opener(dom), nil, nil)
}

// Left is how many ports are open.
func (x *modelXen) Left() int { return x.left() }
