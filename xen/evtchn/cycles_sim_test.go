package evtchn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// cyclesPerLife is how many channels are opened before one of the two domains dies.
const cyclesPerLife = 100

// TestCycles: channels are opened, bound, used and closed by the thousand; every so often one of the two domains dies in the middle, now
// the one that opened the channel and now the one that is bound to it, while somebody waits at either end. The host has nothing left
// afterwards, memory does not grow, and no goroutine is left.
func TestCycles(t *testing.T) {
	cycles := 10_000
	if os.Getenv("HVKIT_LONG") != "" {
		cycles = 100_000
	}
	goroutines := runtime.NumGoroutine()
	host := sim.NewHost(nil)
	sides := [2]evtchntest.Side{newSide(t, host, "even-0"), newSide(t, host, "odd-0")}
	lives, quarter := cycles/cyclesPerLife, uint64(0)
	for life := range lives {
		for i := range cyclesPerLife - 1 {
			cycle(t, sides[i%2], sides[1-i%2])
		}
		// Four kinds of death: of either domain, while it is the one that opened the channel and the one that is bound to it.
		victim := life % 2
		from := life / 2 % 2
		dieConnected(t, host, sides[from], sides[1-from], sides[victim].ID)
		for _, s := range sides {
			if s.ID != sides[victim].ID {
				require.Equal(t, 1, s.Table.Stats().Open, "Xenstore's alone, in life %d", life)
			}
		}
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

// cycle is one channel, used both ways.
func cycle(t *testing.T, from, to evtchntest.Side) {
	server, client := channelBetween(t, from, to)
	require.NoError(t, client.Notify())
	require.NoError(t, server.Wait(t.Context()))
	require.NoError(t, server.Notify())
	require.NoError(t, client.Wait(t.Context()))
	require.NoError(t, server.Close())
	require.NoError(t, client.Close())
}

func channelBetween(t *testing.T, from, to evtchntest.Side) (server, client evtchn.Channel) {
	server, err := from.Table.AllocUnbound(to.ID)
	require.NoError(t, err)
	client, err = to.Table.BindInterdomain(from.ID, server.Port())
	require.NoError(t, err)
	return server, client
}

// dieConnected has one of two domains die while they have channels, one of which has somebody waiting at each end. Notifications to the
// dead one are dropped; the one that lives waits on as with any silent peer, until it gives up.
func dieConnected(t *testing.T, host *sim.Host, from, to evtchntest.Side, victim hypercall.DomID) {
	server, client := channelBetween(t, from, to)
	idle, idleClient := channelBetween(t, from, to)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := make(chan error, 2)
	for _, ch := range []evtchn.Channel{server, client} {
		go func() {
			err := ch.Wait(ctx)
			for err == nil { // the event that binding causes
				err = ch.Wait(ctx)
			}
			waits <- err
		}()
	}
	require.NoError(t, host.Domain(victim).Destroy())
	for _, ch := range []evtchn.Channel{server, idle} {
		requireLife(t, from.ID != victim, ch.Notify())
	}
	for _, ch := range []evtchn.Channel{client, idleClient} {
		requireLife(t, to.ID != victim, ch.Notify())
	}
	cancel()
	for range 2 {
		err := <-waits
		require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) || errors.Is(err, hypercall.ErrStale), "%v", err)
	}
	requireLife(t, from.ID != victim, errors.Join(server.Close(), idle.Close()))
	requireLife(t, to.ID != victim, errors.Join(client.Close(), idleClient.Close()))
}

// requireLife checks the answer of a domain that lives; one that does not may say so.
func requireLife(t *testing.T, alive bool, err error) {
	t.Helper()
	if alive {
		require.NoError(t, err)
	} else if err != nil {
		require.True(t, errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed), "%v", err)
	}
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

// heapInUse returns how many bytes are reachable.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers let go of
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
