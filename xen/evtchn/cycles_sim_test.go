package evtchn_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
)

// TestCycles: channels are opened, bound, used and closed a hundred thousand times; every so often one of the two domains dies in the
// middle. The host has nothing left afterwards, and memory does not grow.
func TestCycles(t *testing.T) {
	const cycles, perLife = 100_000, 200
	host := sim.NewHost(nil)
	a := newSide(t, host, "a")
	var quarter uint64
	for life := range cycles / perLife {
		b := newSide(t, host, "b")
		for i := range perLife {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			server, err := from.Table.AllocUnbound(to.ID)
			require.NoError(t, err)
			client, err := to.Table.BindInterdomain(from.ID, server.Port())
			require.NoError(t, err)
			require.NoError(t, client.Notify())
			require.NoError(t, server.Wait(t.Context()))
			if i == perLife-1 {
				require.NoError(t, host.Domain(b.ID).Destroy())
				require.NoError(t, client.Notify(), "nobody is there any more")
				require.NoError(t, client.Close())
				break
			}
			require.NoError(t, server.Close())
			require.NoError(t, client.Close())
		}
		if life == cycles/perLife/4 {
			quarter = heapInUse()
		}
	}
	require.Equal(t, 1, a.Table.Stats().Open, "Xenstore's")
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
