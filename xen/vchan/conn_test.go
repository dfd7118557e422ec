package vchan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// testChannel is an event channel within a test: Notify calls the other end's handler.
type testChannel struct {
	peer *testChannel
	sent atomic.Uint64

	mu sync.Mutex
	// +checklocks:mu
	f func()
	// +checklocks:mu
	pending bool
}

var _ evtchn.Channel = (*testChannel)(nil)

func newTestChannels() (a, b *testChannel) {
	a, b = new(testChannel), new(testChannel)
	a.peer, b.peer = b, a
	return a, b
}

func (c *testChannel) Port() hypercall.Port { return 1 }

func (c *testChannel) Notify() error {
	c.sent.Add(1)
	p := c.peer
	p.mu.Lock()
	f := p.f
	p.pending = p.pending || f == nil
	p.mu.Unlock()
	if f != nil {
		f()
	}
	return nil
}

func (c *testChannel) Handle(f func()) {
	c.mu.Lock()
	c.f = f
	now := c.pending && f != nil
	c.pending = c.pending && f == nil
	c.mu.Unlock()
	if now {
		f()
	}
}

func (c *testChannel) Wait(ctx context.Context) error { panic("not used") }
func (c *testChannel) Mask() error                    { return nil }
func (c *testChannel) Unmask() error                  { return nil }
func (c *testChannel) Status() (evtchn.Status, error) {
	return evtchn.Status{State: evtchn.Interdomain}, nil
}
func (c *testChannel) Close() error { c.Handle(nil); return nil }

// testConns returns the two ends of a vchan over heap pages and channels of this process: no Xen at all.
func testConns(t require.TestingT, l Layout, cfg *Config) (client, server *Conn) {
	p := connectedPair(t, l, 0xffffff00)
	full := cfg.withDefaults()
	a, b := newTestChannels()
	at := "/local/domain/1/data/vchan/2/test"
	client = newConn(nil, p.client, p.ctl, a, Addr{2, at}, Addr{1, at}, &full, func() { _ = a.Close() })
	server = newConn(nil, p.server, p.ctl, b, Addr{1, at}, Addr{2, at}, &full, func() { _ = b.Close() })
	return client, server
}

// Deadlines are those of the clock that the program has, be it a false one.
func TestDeadlinesInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := testConns(t, Layout{SmallOrder, LargeOrder}, nil)
		began := time.Now()
		require.NoError(t, client.SetReadDeadline(began.Add(3*time.Hour)))
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 3*time.Hour, time.Since(began))

		// A deadline that is moved while a call waits.
		require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Hour)))
		time.AfterFunc(time.Minute, func() { _ = client.SetReadDeadline(time.Now().Add(2 * time.Hour)) })
		began = time.Now()
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 2*time.Hour+time.Minute, time.Since(began))

		_, err = client.Write(make([]byte, 100))
		require.NoError(t, err)
		began = time.Now()
		require.ErrorIs(t, client.Close(), os.ErrDeadlineExceeded)
		require.Equal(t, DefaultLinger, time.Since(began))
		require.NoError(t, server.Close())
	})
}

// Where the platform does not clear the live byte of a peer that dies, Xenstore's word ends the connection.
func TestV11_DeathByXenstore(t *testing.T) {
	client, server := testConns(t, Layout{12, 12}, nil)
	_, err := client.Write([]byte("last words"))
	require.NoError(t, err)
	server.domainReleased(true, nil)                    // somebody else
	server.domainReleased(false, errors.ErrUnsupported) // nobody knows; the channel is bound still
	buf := make([]byte, 4)
	n, err := server.Read(buf)
	require.NoError(t, err)
	require.Equal(t, 4, n)
	reading := make(chan error, 1)
	server.domainReleased(false, nil)
	go func() {
		_, err := io.Copy(io.Discard, server)
		reading <- err
	}()
	select {
	case err := <-reading:
		require.ErrorIs(t, err, syscall.ECONNRESET)
	case <-time.After(10 * time.Second):
		require.FailNow(t, "a reader waits for a peer that is no more")
	}
	_, err = server.Write(buf)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, server.Send(buf), syscall.ECONNRESET)
	require.ErrorIs(t, server.Recv(buf), syscall.ECONNRESET)
	require.NoError(t, server.Close())
	require.NoError(t, ignoreUnreadError(client.Close()))
}

func ignoreUnreadError(err error) error {
	if errors.As(err, new(*UnreadError)) {
		return nil
	}
	return err
}

// No call allocates.
func TestCallsDoNotAllocate(t *testing.T) {
	client, server := testConns(t, Layout{14, 14}, nil)
	a, b := NewFramed(client), NewFramed(server)
	buf := make([]byte, 100)
	allocs := testing.AllocsPerRun(200, func() {
		_, _ = client.Write(buf)
		_, _ = io.ReadFull(server, buf)
		_ = server.Send(buf)
		_ = client.Recv(buf)
		_ = a.WriteMsg(buf)
		_, _ = b.ReadMsg(buf)
		_ = client.SetDeadline(time.Now().Add(time.Hour))
	})
	require.Zero(t, allocs)
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
}

func TestStats(t *testing.T) {
	client, server := testConns(t, Layout{12, 12}, &Config{Spin: -1})
	_, err := client.Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 5))
	require.NoError(t, err)
	c, s := client.Stats(), server.Stats()
	require.Equal(t, Stats{BytesWritten: 5, Writes: 1, NotificationsSent: 1}, c)
	require.Equal(t, Stats{BytesRead: 5, Reads: 1, NotificationsReceived: 1}, s)
	require.Equal(t, Client, client.Role())
	require.Equal(t, "server", server.Role().String())
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
}

func BenchmarkStream(b *testing.B) {
	for _, ring := range []int{1 << 10, 4 << 10, 64 << 10, 1 << 20} {
		for _, spin := range []time.Duration{-1, 0} {
			name := "sleep"
			if spin == 0 {
				name = "spin"
			}
			b.Run(fmt.Sprintf("ring=%d/%s", ring, name), func(b *testing.B) {
				l, err := LayoutFor(ring, ring)
				require.NoError(b, err)
				client, server := testConns(b, l, &Config{Spin: spin, Linger: -1})
				benchmarkStream(b, client, server, min(max(ring, 4096), 256<<10))
			})
		}
	}
}

func benchmarkStream(b *testing.B, from, to *Conn, size int) {
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
		if _, err := from.Write(buf); err != nil {
			b.Fatal(err)
		}
		n += size
	}
	sent, recv := from.Stats(), to.Stats()
	b.ReportMetric(float64(sent.NotificationsSent+recv.NotificationsSent)*(1<<20)/float64(n), "notifications/MiB")
	_ = from.Close()
	wg.Wait()
	_ = to.Close()
}

func BenchmarkPingPong(b *testing.B) {
	for _, spin := range []time.Duration{-1, 0} {
		name := "sleep"
		if spin == 0 {
			name = "spin"
		}
		b.Run(name, func(b *testing.B) {
			client, server := testConns(b, Layout{16, 16}, &Config{Spin: spin, Linger: -1})
			benchmarkPingPong(b, client, server)
		})
	}
}

func benchmarkPingPong(b *testing.B, client, server net.Conn) {
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
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = client.Close()
	wg.Wait()
	_ = server.Close()
}

// A peer that takes its close back does not have Close spin: a close is final, whichever half of the connection saw it.
func TestCloseAfterTheLiveByteCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := testConns(t, Layout{12, 12}, nil)
		_, err := client.Write([]byte("unread"))
		require.NoError(t, err)
		client.ctl.Store8(offSrvLive, liveExited)
		_, err = client.Read(make([]byte, 1))
		require.Error(t, err)
		client.ctl.Store8(offSrvLive, liveConnected)
		require.ErrorIs(t, client.Close(), syscall.EPIPE)
		require.NoError(t, server.Close())
	})
}

// Only a deadline in the future bounds the wait of Close.
func TestCloseWithADeadlineInThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ in, want time.Duration }{{-time.Hour, DefaultLinger}, {0, DefaultLinger}, {time.Second, time.Second}} {
			client, server := testConns(t, Layout{12, 12}, nil)
			_, err := client.Write([]byte("unread"))
			require.NoError(t, err)
			began := time.Now()
			require.NoError(t, client.SetWriteDeadline(began.Add(c.in)))
			require.ErrorIs(t, client.Close(), os.ErrDeadlineExceeded)
			require.Equal(t, c.want, time.Since(began))
			require.NoError(t, server.Close())
		}
	})
}
