//go:build !race

package shm_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

// rawConn is a descriptor whose SyscallConn, unlike those of packages os and net, does not allocate.
type rawConn struct{ syscall.RawConn }

func (c *rawConn) SyscallConn() (syscall.RawConn, error) { return c.RawConn, nil }

func TestTransfersDoNotAllocate(t *testing.T) {
	a, b := unixPair(t)
	ca, err := a.SyscallConn()
	require.NoError(t, err)
	cb, err := b.SyscallConn()
	require.NoError(t, err)
	out, in := &rawConn{ca}, &rawConn{cb}
	r := shm.New(2)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := r.CopyOutTo(out, 0, page); err != nil {
			panic(err)
		}
		if _, err := r.CopyInFrom(page, in, page); err != nil {
			panic(err)
		}
	}))
}
