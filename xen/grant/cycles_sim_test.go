package grant_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// cyclesPerLife is how many pages are shared before one of the two domains dies.
const cyclesPerLife = 100

// TestCycles: pages are shared, mapped and ended by the thousand; every so often one of the two domains dies in the middle, now the one
// whose pages they are and now the one that has them mapped. The host has nothing left afterwards, memory does not grow, and no goroutine
// is left.
func TestCycles(t *testing.T) {
	cycles := 10_000
	if os.Getenv("HVKIT_LONG") != "" {
		cycles = 100_000
	}
	goroutines := runtime.NumGoroutine()
	host := sim.NewHost(nil)
	sides := [2]granttest.Side{newSide(t, host, "even-0"), newSide(t, host, "odd-0")}
	lives, quarter := cycles/cyclesPerLife, uint64(0)
	for life := range lives {
		for i := range cyclesPerLife - 1 {
			cycle(t, sides[i%2], sides[1-i%2], i)
		}
		// Four kinds of death: of either domain, while it is the one that shares and the one that maps.
		victim := life % 2
		from := life / 2 % 2
		dieSharing(t, host, sides[from], sides[1-from], sides[victim].ID)
		require.Empty(t, host.Leaks(), "life %d", life)
		sides[victim] = newSide(t, host, fmt.Sprintf("%s-%d", []string{"even", "odd"}[victim], life+1))
		if life == lives/4 {
			quarter = heapInUse()
		}
	}
	require.Less(t, heapInUse(), quarter+4<<20, "bytes on the heap: they were %d after a quarter", quarter)
	require.NoError(t, host.Close())
	awaitGoroutines(t, goroutines)
}

// awaitGoroutines waits until no more than n goroutines are there: what was closed may be going still.
func awaitGoroutines(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > n; runtime.Gosched() {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d goroutines where there were %d:\n%s", runtime.NumGoroutine(), n, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// cycle is one share, mapped and ended; every fifth is ended while it is mapped.
func cycle(t *testing.T, from, to granttest.Side, i int) {
	s, err := from.Table.Share(to.ID, 1+i%3, grant.ReadWrite)
	require.NoError(t, err)
	m, err := to.Table.Map(from.ID, s.Refs(), grant.ReadWrite)
	require.NoError(t, err)
	m.Region().Store32(0, uint32(i))
	require.True(t, s.Region().Load32(0).Is(uint32(i)))
	want := grant.Reclaimed
	if i%5 == 0 {
		want = grant.Busy
		e, err := s.End()
		require.NoError(t, err)
		require.Equal(t, want, e)
	}
	require.NoError(t, m.Close())
	e, err := s.End()
	require.NoError(t, err)
	require.Equal(t, want, e)
}

// dieSharing has one of two domains die while from has pages shared with to, some of them mapped and some of those ended. The one that
// lives has all of its own back.
func dieSharing(t *testing.T, host *sim.Host, from, to granttest.Side, victim hypercall.DomID) {
	var shares []grant.Share
	var maps []grant.Mapping
	for i := range 3 {
		s, err := from.Table.Share(to.ID, 2, grant.ReadWrite)
		require.NoError(t, err)
		shares = append(shares, s)
		if i > 0 {
			m, err := to.Table.Map(from.ID, s.Refs()[:i], grant.ReadWrite)
			require.NoError(t, err)
			maps = append(maps, m)
		}
	}
	e, err := shares[2].End()
	require.NoError(t, err)
	require.Equal(t, grant.Busy, e)
	require.NoError(t, host.Domain(victim).Destroy())
	for _, s := range shares {
		_, err := s.End()
		requireLife(t, from.ID != victim, err)
	}
	for _, m := range maps {
		requireLife(t, to.ID != victim, m.Close())
	}
	if from.ID != victim {
		require.Zero(t, from.Table.(*grant.Native).Reap(), "pages that a dead domain had mapped")
	}
}

// requireLife checks the answer of a domain that lives, or does not: then it is whatever its machine answers, but for a crash.
func requireLife(t *testing.T, alive bool, err error) {
	t.Helper()
	if alive {
		require.NoError(t, err)
	} else if err != nil {
		require.True(t, errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed), "%v", err)
	}
}

// heapInUse returns how many bytes are reachable.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers let go of
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
