package xenstore

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

// wire is one end of an event channel whose handler runs on the sender's goroutine.
type wire struct {
	f    func()
	peer *wire
}

func (w *wire) Notify() error {
	if f := w.peer.f; f != nil {
		f()
	}
	return nil
}
func (w *wire) Handle(f func()) { w.f = f }
func (w *wire) Close() error    { return nil }

func spinningRings(t testing.TB, cfg *RingConfig) (client, server *RingConn) {
	a, b := &wire{}, &wire{}
	a.peer, b.peer = b, a
	page := shm.New(1)
	server, err := NewRingConn(page, b, RoleServer, cfg)
	require.NoError(t, err)
	client, err = NewRingConn(page, a, RoleClient, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})
	return client, server
}

// An event that comes while somebody looks at the ring wakes nobody, but is not lost when that one looks away with something unread.
func TestEventWhileSomebodyLooks(t *testing.T) {
	client, server := spinningRings(t, nil)
	drain := func() {
		select {
		case <-client.readable:
		default:
		}
	}
	say := func() {
		_, err := server.Write([]byte("x"))
		require.NoError(t, err)
	}
	drain()

	client.lookIn()
	say()
	require.Empty(t, client.readable)
	client.lookAway()
	require.Len(t, client.readable, 1, "it was left unread")
	drain()

	client.lookIn()
	say()
	_, err := client.tryRead(make([]byte, 9))
	require.NoError(t, err)
	client.lookAway()
	require.Empty(t, client.readable, "it was read")

	client.lookIn()
	require.NoError(t, server.Fail(RingErrorProtocol))
	client.lookAway()
	require.Len(t, client.readable, 1, "the server gave up")
}

// A write whose bytes the peer has taken sends no event; one that waited in vain is followed by some that do not wait.
func TestTaken(t *testing.T) {
	client, server := spinningRings(t, nil)
	_, err := client.Write([]byte("x"))
	require.NoError(t, err)
	require.EqualValues(t, 1, client.Stats().Notified)
	require.Equal(t, eventsAfter, client.patience)
	_, err = server.tryRead(make([]byte, 9))
	require.NoError(t, err)
	for range eventsAfter {
		require.False(t, client.taken())
	}
	require.True(t, client.taken())

	client, _ = spinningRings(t, &RingConfig{Spin: -1})
	require.False(t, client.taken(), "who does not spin does not wait here either")
}

// Whatever the server takes for its answers, they arrive: also those that come as the client stops looking.
func TestSpinningClientMissesNothing(t *testing.T) {
	client, server := spinningRings(t, nil)
	done := make(chan error, 1)
	go func() {
		var dec Decoder
		for i := 0; ; {
			n, err := server.Read(dec.Space())
			if err != nil {
				done <- err
				return
			}
			dec.Filled(n)
			for {
				h, _, ok, _ := dec.Next()
				if !ok {
					break
				}
				for i++; time.Now().Nanosecond()%1000 < i%1000; { // up to some microseconds, never the same
				}
				if i%16 == 0 {
					<-time.After(time.Duration(i) * 50 * time.Nanosecond)
				}
				h.Len = 1
				if _, err := server.Write(append(h.Append(nil), 'v')); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	c := NewClient(client, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 4000 {
		v, err := c.Read(ctx, "/x")
		require.NoError(t, err)
		require.Equal(t, "v", string(v))
	}
	require.NotZero(t, client.Stats().Spins+client.Stats().Sleeps)
	require.NoError(t, c.Close())
	require.NoError(t, server.Close())
	require.Error(t, <-done)
}

// A call's context ends it while it looks.
func TestContextEndsALook(t *testing.T) {
	if runtime.GOMAXPROCS(0) == 1 {
		t.Skip("with one processor nobody looks (internal/spin)")
	}
	client, server := spinningRings(t, &RingConfig{Spin: time.Hour})
	go io.Copy(io.Discard, server)
	c := NewClient(client, nil)
	defer c.Close()
	for range 30 { // the window grows meanwhile
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		_, err := c.Read(ctx, "/x")
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if c.Stats().Outstanding >= DefaultOutstanding-1 {
			break
		}
	}
	require.NotZero(t, client.spin.Window())
}
