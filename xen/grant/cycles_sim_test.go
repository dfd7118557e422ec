package grant_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/grant"
)

// TestCycles: pages are shared, mapped and ended a hundred thousand times; every so often one of the two domains dies in the middle.
// The host has nothing left afterwards, and memory does not grow.
func TestCycles(t *testing.T) {
	const cycles, perLife = 100_000, 200
	host := sim.NewHost(nil)
	a := newSide(t, host, "a")
	var quarter uint64
	for life := range cycles / perLife {
		b := newSide(t, host, "b")
		from, to := a, b
		for i := range perLife {
			if i%2 == 1 {
				from, to = to, from
			}
			s, err := from.Table.Share(to.ID, 1+i%3, grant.ReadWrite)
			require.NoError(t, err)
			m, err := to.Table.Map(from.ID, s.Refs(), grant.ReadWrite)
			require.NoError(t, err)
			m.Region().Store32(0, uint32(i))
			if i == perLife-1 { // the domain dies with pages shared and mapped both ways
				require.NoError(t, host.Domain(b.ID).Destroy())
				if from.ID == a.ID {
					_, err = s.End()
				} else {
					err = m.Close()
				}
				require.NoError(t, err)
				break
			}
			if i%5 == 0 { // ended while it is mapped
				e, err := s.End()
				require.NoError(t, err)
				require.Equal(t, grant.Busy, e)
				require.NoError(t, m.Close())
				continue
			}
			require.NoError(t, m.Close())
			_, err = s.End()
			require.NoError(t, err)
		}
		if life == cycles/perLife/4 {
			quarter = heapInUse()
		}
	}
	a.Table.(*grant.Native).Reap()
	require.Empty(t, host.Leaks())
	require.Less(t, heapInUse(), quarter+4<<20, "bytes on the heap: they were %d after a quarter", quarter)
	require.NoError(t, host.Close())
}

// heapInUse returns how many bytes are reachable.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers let go of
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
