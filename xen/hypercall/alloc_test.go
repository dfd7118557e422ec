//go:build !race

package hypercall_test

// The race detector has sync.Pool drop what it is given, so that there is nothing to count.

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

func TestDataPathsDoNotAllocate(t *testing.T) {
	var c hypercall.Caller = silent{}
	maps, unmaps, copies := make([]hypercall.MapGrantRef, 32), make([]hypercall.UnmapGrantRef, 32), make([]hypercall.GrantCopy, 32)
	ports := []hypercall.Port{1, 2}
	var buf [64]byte
	paths := map[string]func() error{
		"SendEvent":   func() error { return hypercall.SendEvent(c, 5) },
		"UnmaskPort":  func() error { return hypercall.UnmaskPort(c, 5) },
		"MapGrants":   func() error { return hypercall.MapGrants(c, maps) },
		"UnmapGrants": func() error { return hypercall.UnmapGrants(c, unmaps) },
		"CopyGrants":  func() error { return hypercall.CopyGrants(c, copies) },
		"Poll":        func() error { return hypercall.Poll(c, ports, 0) },
		"Marshal and Unmarshal": func() error {
			op := hypercall.GrantCopy{Flags: hypercall.CopyDestGref}
			op.Marshal(hypercall.ARM64, buf[:])
			op.Unmarshal(hypercall.ARM64, buf[:])
			return nil
		},
	}
	for name, path := range paths {
		// A garbage collection may empty the pool in between: less than one allocation a run is none in steady state.
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			if err := path(); err != nil {
				panic(err)
			}
		}), name)
	}
}
