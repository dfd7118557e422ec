package vchantest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

// Patience is how long a test waits for what must happen soon. In a domain of the testbed the processor is an emulated one.
var Patience = bearable()

func bearable() time.Duration {
	if os.Getenv("HVKIT_TESTBED_INSIDE") != "" {
		return time.Minute
	}
	return 10 * time.Second
}

// Platform is the two domains that the tests connect. They may be one and the same.
type Platform struct {
	Server, Client *xen.Domain
}

// Test runs all tests. platform is called once for each.
func Test(t *testing.T, platform func(t *testing.T) Platform) {
	for _, test := range []struct {
		name string
		f    func(t *testing.T, p Platform)
	}{
		{"Placements", Placements}, {"NetConn", NetConn}, {"Packets", Packets}, {"Framed", Framed},
		{"CloseLosesNothing", CloseLosesNothing}, {"Linger", Linger},
		{"CallsDuringLinger", CallsDuringLinger}, {"BothClose", BothClose}, {"Deadlines", Deadlines},
		{"PeerCloses", PeerCloses}, {"PeerAborts", PeerAborts}, {"FreshPages", FreshPages}, {"ManyDials", ManyDials}, {"Paths", Paths},
		{"Names", Names}, {"MaxConns", MaxConns}, {"DialGivesUp", DialGivesUp},
		{"ListenerCloses", ListenerCloses}, {"HTTP", HTTP},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, platform(t)) })
	}
}

// number returns the domain's number as text.
func number(d *xen.Domain) string { return strconv.Itoa(int(d.ID())) }

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return ctx
}

// Listen listens on the server for the client, until the test ends.
func Listen(t testing.TB, p Platform, port string, cfg *vchan.Config) *vchan.Listener {
	t.Helper()
	lc := &vchan.ListenConfig{Clients: []string{number(p.Client)}}
	if cfg != nil {
		lc.Config = *cfg
	}
	l, err := vchan.Listen(soon(t), p.Server, port, lc)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// Dial dials from the client.
func Dial(t testing.TB, p Platform, port string, cfg *vchan.Config) *vchan.Conn {
	t.Helper()
	c, err := vchan.Dial(soon(t), p.Client, number(p.Server), port, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { abort(c) })
	return c
}

func accept(t testing.TB, l *vchan.Listener) *vchan.Conn {
	t.Helper()
	require.NoError(t, l.SetDeadline(time.Now().Add(Patience)))
	c, err := l.AcceptVchan()
	require.NoError(t, err)
	t.Cleanup(func() { abort(c) })
	return c
}

func abort(c *vchan.Conn) {
	c.SetLinger(0)
	_ = c.Close()
}

// Pair returns the two ends of a connection.
func Pair(t testing.TB, p Platform, cfg *vchan.Config) (client, server *vchan.Conn) {
	t.Helper()
	l := Listen(t, p, "pair", cfg)
	client = Dial(t, p, "pair", cfg)
	server = accept(t, l)
	require.NoError(t, l.Close())
	return client, server
}

// Placements sends data both ways through rings in every place that they can have.
func Placements(t *testing.T, p Platform) {
	for _, c := range []struct{ read, write, gotRead, gotWrite int }{
		{1024, 2048, 1024, 2048}, {2048, 1024, 2048, 1024}, {2048, 2048, 2048, 4096}, {4096, 2048, 4096, 2048}, {4096, 4096, 4096, 4096},
		{8192, 4097, 8192, 8192}, {65536, 65536, 65536, 65536}, {1 << 20, 1 << 20, 1 << 20, 1 << 20},
	} {
		t.Run(fmt.Sprintf("%d and %d", c.read, c.write), func(t *testing.T) {
			client, server := Pair(t, p, &vchan.Config{ReadRing: c.read, WriteRing: c.write})
			r, w := server.Rings()
			require.Equal(t, []int{c.gotRead, c.gotWrite}, []int{r, w})
			w, r = client.Rings()
			require.Equal(t, []int{c.gotWrite, c.gotRead}, []int{w, r})
			exchange(t, client, server, 3*(c.read+c.write))
		})
	}
}

// exchange sends n bytes in both directions at once and compares hashes.
func exchange(t *testing.T, a, b net.Conn, n int) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	require.NoError(t, a.SetDeadline(deadline))
	require.NoError(t, b.SetDeadline(deadline))
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	send := func(c net.Conn, seed byte) {
		_, err := io.Copy(c, &pattern{next: seed, left: n})
		errs <- err
	}
	receive := func(c net.Conn, seed byte) {
		want, got := sha256.New(), sha256.New()
		_, _ = io.Copy(want, &pattern{next: seed, left: n})
		_, err := io.CopyN(got, c, int64(n))
		if err == nil && !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
			err = fmt.Errorf("%d bytes arrived, but not those that were sent", n)
		}
		errs <- err
	}
	wg.Go(func() { send(a, 1) })
	wg.Go(func() { send(b, 101) })
	wg.Go(func() { receive(b, 1) })
	wg.Go(func() { receive(a, 101) })
	wg.Wait()
	for range 4 {
		require.NoError(t, <-errs)
	}
}

// pattern reads bytes that do not repeat at any ring's size.
type pattern struct {
	next byte
	left int
	n    int
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), p.left)
	for i := range b[:n] {
		p.n++
		p.next = p.next*5 + byte(p.n>>7) + 1
		b[i] = p.next
	}
	p.left -= n
	return n, nil
}

// NetConn runs nettest.TestConn.
func NetConn(t *testing.T, p Platform) {
	for _, ring := range []int{1024, 64 << 10} {
		for _, spin := range []time.Duration{-1, 0} {
			t.Run(fmt.Sprintf("ring %d spin %d", ring, spin), func(t *testing.T) {
				cfg := &vchan.Config{ReadRing: ring, WriteRing: ring, Spin: spin, Linger: time.Second}
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					client, server := Pair(t, p, cfg)
					return client, server, func() {
						abort(client)
						abort(server)
					}, nil
				})
			})
		}
	}
}

// Packets sends packets of libxenvchan's kind.
func Packets(t *testing.T, p Platform) {
	client, server := Pair(t, p, &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	var large *vchan.TooLargeError
	require.ErrorAs(t, client.Send(make([]byte, 1025)), &large)
	require.Equal(t, vchan.TooLargeError{Size: 1025, Max: 1024}, *large)
	require.ErrorAs(t, client.Recv(make([]byte, 2049)), &large)

	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 200 {
			if err := client.Send(bytes.Repeat([]byte{byte(i)}, 1+i*5)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 200 {
		b := make([]byte, 1+i*5)
		require.NoError(t, server.SetReadDeadline(time.Now().Add(Patience)))
		require.NoError(t, server.Recv(b))
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, len(b)), b)
	}
	wg.Wait()

	require.NoError(t, client.Send([]byte("abc")))
	require.NoError(t, server.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	b := make([]byte, 4)
	require.ErrorIs(t, server.Recv(b), os.ErrDeadlineExceeded)
	require.NoError(t, server.SetReadDeadline(time.Time{}))
	require.NoError(t, server.Recv(b[:3]), "a Recv that failed has read nothing")
	require.Equal(t, "abc", string(b[:3]))
}

// Framed sends messages with their lengths.
func Framed(t *testing.T, p Platform) {
	client, server := Pair(t, p, &vchan.Config{ReadRing: 2048, WriteRing: 1024, MaxPacket: 10000})
	a, b := vchan.NewFramed(client), vchan.NewFramed(server)
	require.NoError(t, client.SetDeadline(time.Now().Add(Patience)))
	require.NoError(t, server.SetDeadline(time.Now().Add(Patience)))
	sizes := []int{0, 1, 5, 1020, 2043, 2044, 2045, 2048, 10000, 0, 3}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, n := range sizes {
			if err := a.WriteMsg(bytes.Repeat([]byte{byte(i)}, n)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	buf := make([]byte, 10000)
	for i, n := range sizes {
		next, err := b.Next()
		require.NoError(t, err)
		require.Equal(t, n, next)
		if n > 0 {
			_, err = b.ReadMsg(buf[:n-1])
			require.ErrorIs(t, err, io.ErrShortBuffer)
		}
		got, err := b.ReadMsg(buf)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, n), buf[:got])
	}
	wg.Wait()
	var large *vchan.TooLargeError
	require.ErrorAs(t, a.WriteMsg(make([]byte, 10001)), &large)

	// A length that is too large, from a peer that does not play by the rules.
	require.NoError(t, client.Send([]byte{0xff, 0xff, 0xff, 0xff}))
	_, err := b.ReadMsg(buf)
	var peer *vchan.PeerError
	require.ErrorAs(t, err, &peer)
	require.Equal(t, uint64(0xffffffff), peer.Value)
}

// CloseLosesNothing closes right after the last byte, many times.
func CloseLosesNothing(t *testing.T, p Platform) {
	l := Listen(t, p, "close", &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	for i := range 30 {
		client := Dial(t, p, "close", nil)
		server := accept(t, l)
		from, to := client, server
		if i%2 == 1 {
			from, to = to, from
		}
		n := 1 + i*200
		closed := make(chan error, 1)
		go func() {
			_, err := io.Copy(from, &pattern{left: n})
			if err == nil {
				err = from.Close()
			}
			closed <- err
		}()
		got, err := io.ReadAll(to)
		require.NoError(t, err)
		require.NoError(t, <-closed)
		want, _ := io.ReadAll(&pattern{left: n})
		require.True(t, bytes.Equal(want, got), "%d of %d bytes", len(got), len(want))
		require.NoError(t, to.Close())
	}
}

// Linger closes towards a peer that does not read.
func Linger(t *testing.T, p Platform) {
	client, server := Pair(t, p, nil)
	_, err := client.Write([]byte("unread"))
	require.NoError(t, err)
	client.SetLinger(20 * time.Millisecond)
	began := time.Now()
	err = client.Close()
	require.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond)
	var unread *vchan.UnreadError
	require.ErrorAs(t, err, &unread)
	require.Equal(t, 6, unread.Bytes)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, client.Close(), "the second time")
	got, err := io.ReadAll(server)
	require.NoError(t, err)
	require.Equal(t, "unread", string(got), "this peer can still read it")

	// A write deadline in the future bounds it, too.
	client, _ = Pair(t, p, nil)
	_, err = client.Write([]byte("unread"))
	require.NoError(t, err)
	require.NoError(t, client.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	began = time.Now()
	require.ErrorAs(t, client.Close(), &unread)
	require.Less(t, time.Since(began), vchan.DefaultLinger)

	// One that has passed does not.
	client, server = Pair(t, p, nil)
	_, err = client.Write([]byte("unread"))
	require.NoError(t, err)
	require.NoError(t, client.SetWriteDeadline(time.Now()))
	reading := make(chan string, 1)
	time.AfterFunc(20*time.Millisecond, func() {
		got, _ := io.ReadAll(server)
		reading <- string(got)
	})
	require.NoError(t, client.Close(), "crypto/tls does it so")
	require.Equal(t, "unread", <-reading)

	// A peer that goes away ends it.
	client, server = Pair(t, p, nil)
	_, err = client.Write([]byte("unread"))
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	require.NoError(t, server.Close())
	require.ErrorIs(t, <-closed, syscall.EPIPE)
}

// CallsDuringLinger has Close wait, and other calls not.
func CallsDuringLinger(t *testing.T, p Platform) {
	client, server := Pair(t, p, nil)
	_, err := client.Write([]byte("unread"))
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	require.Eventually(t, func() bool { return client.SetDeadline(time.Time{}) != nil }, Patience, time.Millisecond)
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = client.Write(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, client.Close())
	select {
	case err := <-closed:
		require.Fail(t, "Close did not wait", "%v", err)
	default:
	}
	got, err := io.ReadAll(server)
	require.NoError(t, err)
	require.Equal(t, "unread", string(got))
	require.NoError(t, <-closed)
}

// BothClose closes both ends at once, with unread data in both directions.
func BothClose(t *testing.T, p Platform) {
	for range 10 {
		client, server := Pair(t, p, nil)
		_, err := client.Write([]byte("ping"))
		require.NoError(t, err)
		_, err = server.Write([]byte("pong"))
		require.NoError(t, err)
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { _ = client.Close() })
		wg.Go(func() { _ = server.Close() })
		wg.Wait()
		require.Less(t, time.Since(began), vchan.DefaultLinger/2)
	}
}

// Deadlines has calls time out, and go on after that.
func Deadlines(t *testing.T, p Platform) {
	client, server := Pair(t, p, &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	require.NoError(t, client.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err := client.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())

	require.NoError(t, client.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	n, err := client.Write(make([]byte, 5000))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, 1024, n, "V-19: a peer that does not read")

	require.NoError(t, client.SetDeadline(time.Time{}))
	require.NoError(t, server.SetDeadline(time.Now().Add(Patience)))
	_, err = io.ReadFull(server, make([]byte, 1024))
	require.NoError(t, err)
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	require.NoError(t, err)
}

// PeerCloses looks at what the other end is told.
func PeerCloses(t *testing.T, p Platform) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			leaves, stays := Pair(t, p, nil)
			if who == "server" {
				leaves, stays = stays, leaves
			}
			waiting := make(chan error, 1)
			go func() {
				_, err := stays.Read(make([]byte, 1))
				waiting <- err
			}()
			require.NoError(t, leaves.Close())
			require.Equal(t, io.EOF, <-waiting)
			_, err := stays.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
			_, err = leaves.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			_, err = leaves.Write(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, leaves.SetDeadline(time.Now()), net.ErrClosed)
			require.NoError(t, stays.Close())
		})
	}
}

// PeerAborts has the other end told that it was no orderly end, after what was written before.
func PeerAborts(t *testing.T, p Platform) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			leaves, stays := Pair(t, p, &vchan.Config{ReadRing: 1024, WriteRing: 1024})
			if who == "server" {
				leaves, stays = stays, leaves
			}
			writing := make(chan error, 1)
			go func() {
				_, err := leaves.Write(make([]byte, 5000)) // more than there is room for
				writing <- err
			}()
			_, err := io.ReadFull(stays, make([]byte, 1000))
			require.NoError(t, err)
			leaves.Abort()
			leaves.Abort()
			require.ErrorIs(t, <-writing, net.ErrClosed)
			require.NoError(t, leaves.Close())
			rest, err := io.ReadAll(stays)
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.Less(t, len(rest), 4000)
			_, err = stays.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = leaves.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			require.NoError(t, stays.Close())
		})
	}
}

// FreshPages connects twice: the second connection has nothing of the first (V-17).
func FreshPages(t *testing.T, p Platform) {
	l := Listen(t, p, "fresh", nil)
	for range 3 {
		client := Dial(t, p, "fresh", nil)
		server := accept(t, l)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
		_, err := client.Read(make([]byte, 100))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = server.Write([]byte("for this client only"))
		require.NoError(t, err)
		abort(client)
		require.Error(t, server.Close())
	}
}

// ManyDials has a hundred dials at once, to one port and to many.
func ManyDials(t *testing.T, p Platform) {
	const dials, ports = 100, 10
	small := &vchan.Config{ReadRing: 1024, WriteRing: 2048}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range ports {
		l := Listen(t, p, fmt.Sprintf("many%d", i), small)
		defer func() { require.NoError(t, l.Close()) }()
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				})
			}
		})
	}
	ctx := soon(t)
	var good atomic.Int32
	var clients sync.WaitGroup
	for i := range dials {
		clients.Go(func() {
			c, err := vchan.Dial(ctx, p.Client, number(p.Server), fmt.Sprintf("many%d", i%ports), small)
			if err != nil {
				t.Error(err)
				return
			}
			msg := []byte(fmt.Sprintf("message %d", i))
			got := make([]byte, len(msg))
			_, err = c.Write(msg)
			if err == nil {
				_, err = io.ReadFull(c, got)
			}
			if err == nil {
				err = c.Close()
			}
			if err != nil || !bytes.Equal(msg, got) {
				t.Errorf("dial %d: %q, %v", i, got, err)
				return
			}
			good.Add(1)
		})
	}
	clients.Wait()
	require.EqualValues(t, dials, good.Load())
}

// Paths listens on and dials a path, and looks at the addresses.
func Paths(t *testing.T, p Platform) {
	path := fmt.Sprintf("/local/domain/%d/data/some/where", p.Server.ID())
	l, err := vchan.ListenPath(soon(t), p.Server, number(p.Client), path, nil)
	require.NoError(t, err)
	require.Equal(t, vchan.Addr{Dom: p.Server.ID(), Path: path}, l.Addr())
	d := &vchan.Dialer{Domain: p.Client}
	c, err := d.DialContext(soon(t), "", number(p.Server)+":"+path)
	require.NoError(t, err)
	s := accept(t, l)
	require.Equal(t, vchan.Addr{Dom: p.Server.ID(), Path: path}, c.RemoteAddr())
	require.Equal(t, vchan.Addr{Dom: p.Client.ID(), Path: path}, c.LocalAddr())
	require.Equal(t, vchan.Addr{Dom: p.Client.ID(), Path: path}, s.RemoteAddr())
	require.Equal(t, number(p.Server)+":"+path, c.RemoteAddr().String())
	require.NoError(t, c.Close())
	require.NoError(t, l.Close())
	_, err = p.Server.Store().Read(soon(t), path+"/ring-ref")
	require.ErrorIs(t, err, os.ErrNotExist, "Close removes the offer")

	for _, addr := range []string{"", ":", "1:", ":x", "nocolon", "1:/", "1:/x/"} {
		_, err := d.DialContext(soon(t), "", addr)
		require.Error(t, err, "%q", addr)
	}
	for _, port := range []string{"", "a/b"} {
		_, err := vchan.Dial(soon(t), p.Client, number(p.Server), port, nil)
		require.Error(t, err)
		_, err = vchan.Listen(soon(t), p.Server, port, &vchan.ListenConfig{Any: true})
		require.Error(t, err)
	}
	_, err = vchan.Listen(soon(t), p.Server, "nobody", nil)
	require.Error(t, err)
}

// Names uses names in the place of numbers. Domains without a name are passed over.
func Names(t *testing.T, p Platform) {
	if p.Server.Name() == "" || p.Client.Name() == "" {
		return
	}
	l, err := vchan.Listen(soon(t), p.Server, "named", &vchan.ListenConfig{Clients: []string{p.Client.Name(), "nobody yet"}})
	require.NoError(t, err)
	defer l.Close()
	c, err := vchan.Dial(soon(t), p.Client, p.Server.Name(), "named", nil)
	require.NoError(t, err)
	defer abort(c)
	exchange(t, c, accept(t, l), 10000)
	_, err = vchan.Dial(soon(t), p.Client, "no such domain", "named", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = vchan.Dial(soon(t), p.Client, "32752", "named", nil)
	require.Error(t, err, "a reserved number")
}

// MaxConns has a listener that allows one connection at a time.
func MaxConns(t *testing.T, p Platform) {
	l, err := vchan.Listen(soon(t), p.Server, "one", &vchan.ListenConfig{Clients: []string{number(p.Client)}, MaxConns: 1})
	require.NoError(t, err)
	defer l.Close()
	first := Dial(t, p, "one", nil)
	server := accept(t, l)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = vchan.Dial(ctx, p.Client, number(p.Server), "one", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, l.Stats().Open)
	require.NoError(t, first.Close())
	require.NoError(t, server.Close())
	second := Dial(t, p, "one", nil)
	exchange(t, second, accept(t, l), 1000)
}

// DialGivesUp dials what is not offered.
func DialGivesUp(t *testing.T, p Platform) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := vchan.Dial(ctx, p.Client, number(p.Server), "silence", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "dial", op.Op)
	require.True(t, op.Timeout())
}

// ListenerCloses looks at what Accept says, and that connections outlive their listener.
func ListenerCloses(t *testing.T, p Platform) {
	l := Listen(t, p, "closing", nil)
	require.NoError(t, l.SetDeadline(time.Now().Add(5*time.Millisecond)))
	_, err := l.Accept()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	client := Dial(t, p, "closing", nil)
	server := accept(t, l)
	require.NoError(t, l.SetDeadline(time.Time{}))
	accepting := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accepting <- err
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-accepting, net.ErrClosed)
	require.NoError(t, l.Close(), "the second time")
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, l.SetDeadline(time.Now()), net.ErrClosed)
	exchange(t, client, server, 10000)
}

// HTTP serves and gets over vchan with the standard library's server and client.
func HTTP(t *testing.T, p Platform) {
	l := Listen(t, p, "80", &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s: %s", r.RemoteAddr, r.URL.Path, body)
	})}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	transport := &http.Transport{DialContext: (&vchan.Dialer{Domain: p.Client}).DialContext, MaxConnsPerHost: 4}
	client := &http.Client{Transport: transport, Timeout: Patience}
	var gets sync.WaitGroup
	for i := range 20 {
		gets.Go(func() {
			body := strings.Repeat("x", i*1000)
			resp, err := client.Post(fmt.Sprintf("http://%d/page%d", p.Server.ID(), i), "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			want := fmt.Sprintf("%d:/local/domain/%d/data/vchan/%d/80 /page%d: %s", p.Client.ID(), p.Server.ID(), p.Client.ID(), i, body)
			if err != nil || string(got) != want {
				t.Errorf("got %d bytes, want %d: %v", len(got), len(want), err)
			}
		})
	}
	gets.Wait()
	transport.CloseIdleConnections()
	require.NoError(t, server.Shutdown(soon(t)))
	wg.Wait()
}
