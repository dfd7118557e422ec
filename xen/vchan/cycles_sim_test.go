package vchan_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// cyclesPerLife is how many connections a client makes before its domain dies.
const cyclesPerLife = 20

// TestCycles: connections come and go by the thousand, with a few bytes each, closed from either end in turn; every so often a client's
// domain dies in the middle of one. The host has nothing left afterwards, and memory does not grow.
func TestCycles(t *testing.T) {
	cycles := 1000
	if os.Getenv("HVKIT_LONG") != "" {
		cycles = 100_000
	}
	h := newHost(t)
	server := newDomain(t, h, "server")
	l, err := vchan.Listen(soon(t), server.Xen(), "echo", &vchan.ListenConfig{Any: true, Config: vchan.Config{Linger: -1}})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- serveCycles(l) }()

	var first uint64
	for life := range cycles / cyclesPerLife {
		client := newDomain(t, h, fmt.Sprintf("client-%d", life))
		for i := range cyclesPerLife {
			require.NoError(t, cycle(client, i), "connection %d of life %d", i, life)
		}
		dieConnected(t, client)
		if life == cycles/cyclesPerLife/4 {
			first = heapInUse()
		}
	}
	require.NoError(t, l.Close())
	require.NoError(t, <-served)
	require.Less(t, heapInUse(), first+8<<20, "bytes on the heap: they were %d after a quarter", first)
}

// heapInUse returns how many bytes are reachable.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what finalizers let go of
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// serveCycles answers each connection's first byte with another, and waits for the end of it, until the listener ends.
func serveCycles(l *vchan.Listener) error {
	for {
		c, err := l.AcceptVchan()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		go func() {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err == nil && b[0]%2 == 0 {
				_, _ = c.Write(b)
			} else if err == nil {
				_, _ = c.Write(b)
				_, _ = c.Read(b) // the client closes first
			}
			_ = c.Close()
		}()
	}
}

// cycle is one connection.
func cycle(client *sim.Domain, i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), vchantest.Patience)
	defer cancel()
	c, err := vchan.Dial(ctx, client.Xen(), "server", "echo", &vchan.Config{Linger: -1})
	if err != nil {
		return err
	}
	b := []byte{byte(i)}
	_, err = c.Write(b)
	if err == nil {
		_, err = io.ReadFull(c, b)
	}
	return errors.Join(err, c.Close())
}

// dieConnected ends the client's domain while it has a connection.
func dieConnected(t *testing.T, client *sim.Domain) {
	ctx, cancel := context.WithTimeout(context.Background(), vchantest.Patience)
	defer cancel()
	c, err := vchan.Dial(ctx, client.Xen(), "server", "echo", nil)
	require.NoError(t, err)
	require.NoError(t, client.Destroy())
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	_ = c.Close()
}
