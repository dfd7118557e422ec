package vchan_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// What a test of another domain's program is told: the testbed runs this test in two domains at once.
var (
	role = flag.String("vchan.role", "", "what TestLinuxPeer is: server or client; or doomed, a server to be destroyed, or its witness")
	peer = flag.String("vchan.peer", "", "the number of the domain that TestLinuxPeer talks to")
)

// crossed are the rings between domains, in the order in which both ends go through them.
var crossed = [][2]int{{1024, 2048}, {2048, 1024}, {2048, 2048}, {4096, 65536}, {1 << 20, 1 << 20}}

// TestLinuxPeer is one of two ends in two domains of a real host.
func TestLinuxPeer(t *testing.T) {
	roles := map[string]func(*testing.T, *xen.Domain){"server": serveCrossed, "client": dialCrossed, "doomed": serveEnd, "witness": witness}
	f := roles[*role]
	if f == nil {
		t.Skip("needs two domains of a real Xen host; the tests of internal/testbed run it in them")
	}
	d, err := xen.Open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		st := d.Grants().Stats()
		require.Zero(t, st.Shared+st.Mapped+st.Leaked, "%+v", st)
		require.NoError(t, d.Close())
	})
	f(t, d)
}

// serveCrossed sends back what it gets, over each ring in turn.
func serveCrossed(t *testing.T, d *xen.Domain) {
	for i, sizes := range crossed {
		c := acceptCrossed(t, d, fmt.Sprintf("cross-%d", i), vchan.Config{ReadRing: sizes[0], WriteRing: sizes[1]})
		n, err := io.Copy(c, c)
		require.NoError(t, err)
		require.EqualValues(t, *volume, n)
		require.NoError(t, c.Close())
	}
	serveEnd(t, d)
}

// serveEnd waits with an open connection for the other end to go.
func serveEnd(t *testing.T, d *xen.Domain) {
	c := acceptCrossed(t, d, "end", vchan.Config{})
	_, err := c.Write([]byte("waiting"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.NoError(t, c.Close())
}

func acceptCrossed(t *testing.T, d *xen.Domain, port string, cfg vchan.Config) *vchan.Conn {
	t.Helper()
	l, err := vchan.Listen(t.Context(), d, port, &vchan.ListenConfig{Config: cfg, Clients: []string{*peer}})
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, l.SetDeadline(time.Now().Add(3*vchantest.Patience)))
	c, err := l.AcceptVchan()
	require.NoError(t, err)
	t.Cleanup(func() { c.SetLinger(0); _ = c.Close() })
	return c
}

func dialPeer(t *testing.T, d *xen.Domain, port string) *vchan.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*vchantest.Patience)
	defer cancel()
	c, err := vchan.Dial(ctx, d, *peer, port, nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.SetLinger(0); _ = c.Close() })
	return c
}

// dialCrossed is the other end of serveCrossed.
func dialCrossed(t *testing.T, d *xen.Domain) {
	for i := range crossed {
		c := dialPeer(t, d, fmt.Sprintf("cross-%d", i))
		require.NoError(t, c.SetDeadline(time.Now().Add(vchantest.Patience+time.Duration(*volume>>19)*time.Second)))
		want, got := sha256.New(), sha256.New()
		sent := make(chan error, 1)
		go func() {
			r := io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), int64(*volume))
			_, err := io.Copy(struct{ io.Writer }{c}, io.TeeReader(r, want))
			sent <- err
		}()
		_, err := io.CopyN(got, c, int64(*volume))
		require.NoError(t, err)
		require.NoError(t, <-sent)
		require.True(t, bytes.Equal(want.Sum(nil), got.Sum(nil)), "other bytes came back")
		require.NoError(t, c.Close())
	}
	c := dialPeer(t, d, "end")
	b := make([]byte, 7)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "waiting", string(b))
	require.NoError(t, c.Close())
}

// witness sees the other end end: the testbed destroys its domain once "witness: connected" is printed.
func witness(t *testing.T, d *xen.Domain) {
	c := dialPeer(t, d, "end")
	_, err := io.ReadFull(c, make([]byte, 7))
	require.NoError(t, err)
	fmt.Println("witness: connected")
	require.NoError(t, c.SetReadDeadline(time.Now().Add(vchantest.Patience)))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	fmt.Println("witness:", err)
}
