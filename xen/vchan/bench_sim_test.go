package vchan_test

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// The benchmarks run both ends in this process, on the simulated host, with its hypercalls and upcalls.

func waits(b *testing.B, f func(b *testing.B, spin time.Duration)) {
	b.Run("sleep", func(b *testing.B) { f(b, -1) })
	b.Run("spin", func(b *testing.B) { f(b, 0) })
}

func BenchmarkSimStream(b *testing.B) {
	for _, ring := range []int{1 << 10, 4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("ring=%d", ring), func(b *testing.B) {
			waits(b, func(b *testing.B, spin time.Duration) {
				client, server := vchantest.Pair(b, newPlatform(b), &vchan.Config{ReadRing: ring, WriteRing: ring, Spin: spin, Linger: -1})
				streamTo(b, client, server, min(max(ring, 4096), 256<<10))
			})
		})
	}
}

func streamTo(b *testing.B, from, to *vchan.Conn, size int) {
	b.ReportAllocs()
	b.SetBytes(int64(size))
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, size)
		for {
			if _, err := to.Read(buf); err != nil {
				return
			}
		}
	})
	buf := make([]byte, size)
	n := 0
	for b.Loop() {
		_, err := from.Write(buf)
		require.NoError(b, err)
		n += size
	}
	sent := from.Stats().NotificationsSent + to.Stats().NotificationsSent
	b.ReportMetric(float64(sent)*(1<<20)/float64(n), "notifications/MiB")
	require.NoError(b, ignoreUnread(from.Close()))
	wg.Wait()
}

func ignoreUnread(err error) error {
	if errors.As(err, new(*vchan.UnreadError)) {
		return nil
	}
	return err
}

func BenchmarkSimPingPong(b *testing.B) {
	waits(b, func(b *testing.B, spin time.Duration) {
		client, server := vchantest.Pair(b, newPlatform(b), &vchan.Config{Spin: spin, Linger: -1})
		b.ReportAllocs()
		var wg sync.WaitGroup
		wg.Go(func() {
			buf := make([]byte, 64)
			for {
				if _, err := io.ReadFull(server, buf); err != nil {
					return
				}
				if _, err := server.Write(buf); err != nil {
					return
				}
			}
		})
		buf := make([]byte, 64)
		for b.Loop() {
			_, err := client.Write(buf)
			require.NoError(b, err)
			_, err = io.ReadFull(client, buf)
			require.NoError(b, err)
		}
		require.NoError(b, client.Close())
		wg.Wait()
	})
}

// BenchmarkSimDial measures a whole connection: offer, dial, accept, close.
func BenchmarkSimDial(b *testing.B) {
	p := newPlatform(b)
	l := vchantest.Listen(b, p, "x", &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	for b.Loop() {
		c, err := vchan.Dial(b.Context(), p.Client, fmt.Sprint(p.Server.ID()), "x", nil)
		require.NoError(b, err)
		s, err := l.Accept()
		require.NoError(b, err)
		require.NoError(b, c.Close())
		require.NoError(b, s.Close())
	}
}
