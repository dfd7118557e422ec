//go:build !race

package shm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

// The race detector allocates by itself, so allocations are counted without it.

func TestAccessesDoNotAllocate(t *testing.T) {
	buf := make([]byte, 3*page)
	for name, r := range layouts(t) {
		require.Zero(t, testing.AllocsPerRun(100, func() {
			for _, op := range wordOps {
				op.real(r, page, 1, 2)
			}
			r.CopyIn(0, buf)
			r.CopyOut(buf, 0)
			r.Zero(0, page)
			shm.Copy(r, 0, r, 0, 2*page)
		}), name)
	}
}
