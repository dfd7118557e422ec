package xenstored_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// patience is how long tests wait for what must happen.
const patience = 10 * time.Second

// eventually polls, for what has no event of its own.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			tb.Fatalf("%s did not happen\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

// newServer returns a server that is closed at the end of the test, which then looks for goroutines that are left.
func newServer(tb testing.TB, cfg *xenstored.Config) *xenstored.Server {
	before := runtime.NumGoroutine()
	s := xenstored.New(cfg)
	tb.Cleanup(func() {
		require.NoError(tb, s.Close())
		require.NoError(tb, s.Close())
		eventually(tb, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
		require.Zero(tb, s.Stats().Connections)
	})
	return s
}

// connect serves one end of a pipe as a domain. The channel has what ServeConn returns.
func connect(s *xenstored.Server, dom hypercall.DomID) (net.Conn, <-chan error) {
	near, far := net.Pipe()
	result := make(chan error, 1)
	go func() { result <- s.ServeConn(context.Background(), far, dom) }()
	return near, result
}

func ended(tb testing.TB, result <-chan error) error {
	tb.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		tb.Fatal("ServeConn does not return")
		return nil
	}
}

// TestTransports makes a few requests over each transport.
func TestTransports(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := newServer(t, nil)
			dial := tr.dial
			if dial == nil {
				dial = listen(t, s)
			}
			ctx := t.Context()
			c := dial(t, s)
			defer c.Close()
			require.NoError(t, c.Write(ctx, "/a/b", []byte("1")))
			v, err := c.Read(ctx, "/a/b")
			require.NoError(t, err)
			require.Equal(t, "1", string(v))
			_, err = c.Read(ctx, "/none")
			require.ErrorIs(t, err, xenstore.ENOENT)
			w, err := c.Watch(ctx, "/a", nil)
			require.NoError(t, err)
			for _, want := range []string{"/a", "/a/c"} {
				e, err := w.Next(ctx)
				require.NoError(t, err)
				require.Equal(t, want, e.Path)
				if want == "/a" {
					require.NoError(t, c.Mkdir(ctx, "/a/c"))
				}
			}
			for i := range 1000 { // more than fits into one message
				require.NoError(t, c.Mkdir(ctx, fmt.Sprintf("/big/%d", i)))
			}
			names, err := c.List(ctx, "/big")
			require.NoError(t, err)
			require.Len(t, names, 1000)
		})
	}
}

// TestConcurrentTransactions: counters that many clients raise in transactions lose nothing.
func TestConcurrentTransactions(t *testing.T) {
	s := newServer(t, nil)
	const clients, each = 8, 50
	setup := s.LocalClient()
	defer setup.Close()
	require.NoError(t, setup.Write(t.Context(), "/n", []byte("0")))
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			near, _ := connect(s, 0)
			c := xenstore.NewClient(near, &xenstore.Config{MaxAttempts: 1000})
			defer c.Close()
			for range each {
				errs[i] = errors.Join(errs[i], c.Transaction(t.Context(), func(tx *xenstore.Tx) error {
					v, err := tx.Read(t.Context(), "/n")
					if err != nil {
						return err
					}
					var n int
					if _, err := fmt.Sscan(string(v), &n); err != nil {
						return err
					}
					return tx.Write(t.Context(), "/n", fmt.Append(nil, n+1))
				}))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	v, err := setup.Read(t.Context(), "/n")
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(clients*each), string(v))
}

// TestBadStreams is what ends a connection, and how.
func TestBadStreams(t *testing.T) {
	request := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgRead}, []byte("/tool\x00"))
	for _, tc := range []struct {
		name  string
		bytes []byte
		check func(t *testing.T, err error)
	}{
		{"nothing", nil, func(t *testing.T, err error) { require.NoError(t, err) }},
		{"truncated header", request[:7], func(t *testing.T, err error) { require.ErrorIs(t, err, io.ErrUnexpectedEOF) }},
		{"truncated payload", request[:18], func(t *testing.T, err error) { require.ErrorIs(t, err, io.ErrUnexpectedEOF) }},
	} {
		for _, dom := range []hypercall.DomID{0, 1} {
			t.Run(fmt.Sprintf("%s/dom%d", tc.name, dom), func(t *testing.T) {
				s := newServer(t, nil)
				require.NoError(t, s.IntroduceDomain(1))
				near, result := connect(s, dom)
				_, _ = near.Write(tc.bytes)
				require.NoError(t, near.Close())
				tc.check(t, ended(t, result))
				c := s.LocalClient()
				defer c.Close()
				ok, err := c.IsIntroduced(t.Context(), 1)
				require.NoError(t, err)
				require.True(t, ok, "the domain is there until it is released")
			})
		}
	}
}

// TestLargestMessage: 4096 bytes of payload are served.
func TestLargestMessage(t *testing.T) {
	s := newServer(t, nil)
	c := s.LocalClient()
	defer c.Close()
	value := []byte(strings.Repeat("x", xenstore.MaxPayload-len("/v")-1))
	require.NoError(t, c.Write(t.Context(), "/v", value))
	got, err := c.Read(t.Context(), "/v")
	require.NoError(t, err)
	require.Equal(t, value, got)
}

// TestXS12_Flood: guests that write without pause what another client's slow transactions read do not keep them from committing.
func TestXS12_Flood(t *testing.T) {
	s := newServer(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	near, _ := connect(s, 0)
	const attempts = 100 // without the limit it would be any number
	host := xenstore.NewClient(near, &xenstore.Config{MaxAttempts: attempts, MaxBackoff: time.Millisecond})
	defer host.Close()
	require.NoError(t, host.Mkdir(ctx, "/pub"))
	require.NoError(t, host.SetPerms(ctx, "/pub", xenstore.Perm{Dom: 0, Access: xenstore.AccessReadWrite}))
	var wg sync.WaitGroup
	for dom := hypercall.DomID(1); dom <= 2; dom++ {
		c := s.LocalClientOf(dom)
		wg.Go(func() {
			defer c.Close()
			for i := 0; ctx.Err() == nil; i++ {
				_ = c.Write(ctx, fmt.Sprintf("/pub/%d", dom), fmt.Append(nil, i)) // until the context ends it
			}
		})
	}
	eventually(t, "the flood", func() bool {
		_, one := s.Snapshot().Node("/pub/1")
		_, two := s.Snapshot().Node("/pub/2")
		return one && two && s.Stats().Requests > 100
	})
	for range 3 {
		require.NoError(t, host.Transaction(ctx, func(tx *xenstore.Tx) error {
			for _, path := range []string{"/pub/1", "/pub/2"} {
				if _, err := tx.Read(ctx, path); err != nil {
					return err
				}
			}
			for range 500 { // a slow client: without the limit, something is written in every attempt
				if _, err := host.DomainPath(ctx, 1); err != nil {
					return err
				}
			}
			return tx.Write(ctx, "/pub/y", nil)
		}))
	}
	stop()
	wg.Wait()
}

// TestPipelining: requests that come in one write are answered in order, however slowly the replies are read.
func TestPipelining(t *testing.T) {
	s := newServer(t, nil)
	near, _ := connect(s, 1)
	var out []byte
	const n = 500
	for i := range uint32(n) {
		out = xenstore.AppendMessage(out, xenstore.Header{Type: xenstore.MsgGetDomainPath, ReqID: i}, fmt.Appendf(nil, "%d\x00", i))
	}
	go func() { _, _ = near.Write(out) }()
	for i := range uint32(n) {
		var h [xenstore.HeaderSize]byte
		_, err := io.ReadFull(near, h[:])
		require.NoError(t, err)
		head := xenstore.DecodeHeader(h[:])
		require.Equal(t, i, head.ReqID)
		payload := make([]byte, head.Len)
		_, err = io.ReadFull(near, payload)
		require.NoError(t, err)
		require.Equal(t, xenstore.DomainPath(hypercall.DomID(i))+"\x00", string(payload))
	}
	require.NoError(t, near.Close())
}

// TestEnds: what ends connections from the server's side.
func TestEnds(t *testing.T) {
	s := newServer(t, nil)
	near, far := net.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- s.ServeConn(ctx, far, 0) }()
	eventually(t, "the connection", func() bool { return s.Stats().Connections == 1 })
	cancel(nil)
	require.ErrorIs(t, ended(t, result), context.Canceled)
	_, err := near.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)

	_, closed := connect(s, 0)
	eventually(t, "the connection", func() bool { return s.Stats().Connections == 1 })
	require.NoError(t, s.Close())
	require.ErrorIs(t, ended(t, closed), net.ErrClosed)

	_, late := connect(s, 0)
	require.ErrorIs(t, ended(t, late), net.ErrClosed)
	require.ErrorIs(t, s.IntroduceDomain(1), net.ErrClosed)
	c := s.LocalClient()
	_, err = c.Read(t.Context(), "/tool")
	require.Error(t, err)
	require.NoError(t, c.Close())
	require.ErrorIs(t, s.ServeConn(t.Context(), far, 0x7ff0), xenstore.EINVAL)
	require.ErrorIs(t, s.ReleaseDomain(0), xenstore.EINVAL)
	require.ErrorIs(t, s.IntroduceDomain(0x7ff1), xenstore.EINVAL)
}

// introducer hands out the far ends of pipes and counts those that are open.
type introducer struct {
	mu sync.Mutex
	// +checklocks:mu
	near map[hypercall.DomID]net.Conn
	// +checklocks:mu
	calls int
	// +checklocks:mu
	err error
}

func (i *introducer) Introduce(dom hypercall.DomID, gfn hypercall.GFN, port hypercall.Port) (io.ReadWriteCloser, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls++
	if i.err != nil {
		return nil, i.err
	}
	if gfn != 0x1234 || port != 7 {
		return nil, fmt.Errorf("gfn %#x, port %d", gfn, port)
	}
	near, far := net.Pipe()
	i.near[dom] = near
	return far, nil
}

// TestIntroducer: INTRODUCE makes a connection, again makes it anew, and RELEASE ends it.
func TestIntroducer(t *testing.T) {
	in := &introducer{near: map[hypercall.DomID]net.Conn{}}
	s := newServer(t, &xenstored.Config{Introducer: in})
	ctx := t.Context()
	host := s.LocalClient()
	defer host.Close()
	require.NoError(t, host.Introduce(ctx, 5, 0x1234, 7))
	guest := xenstore.NewClient(in.near[5], nil)
	defer guest.Close()
	p, err := guest.DomainPath(ctx, 5)
	require.NoError(t, err)
	require.Equal(t, "/local/domain/5", p)
	_, err = guest.Read(ctx, "/tool")
	require.ErrorIs(t, err, xenstore.EACCES, "it is the guest's connection")

	require.NoError(t, host.Introduce(ctx, 5, 0x1234, 7))
	<-guest.Done()
	again := xenstore.NewClient(in.near[5], nil)
	defer again.Close()
	_, err = again.DomainPath(ctx, 5)
	require.NoError(t, err)
	require.NoError(t, host.Release(ctx, 5))
	<-again.Done()
	require.ErrorIs(t, host.Release(ctx, 5), xenstore.ENOENT)

	in.err = xenstore.EBUSY
	require.ErrorIs(t, host.Introduce(ctx, 5, 0x1234, 7), xenstore.EBUSY)
	in.err = errors.New("no such page")
	require.ErrorIs(t, host.Introduce(ctx, 5, 0x1234, 7), xenstore.EINVAL)
	require.Equal(t, 4, in.calls)
	ok, err := host.IsIntroduced(ctx, 5)
	require.NoError(t, err)
	require.False(t, ok)
}

// slowIntroducer makes connections when it is told to, and counts those that are open.
type slowIntroducer struct {
	begun, goOn chan struct{}
	open, most  atomic.Int32
}

type countedConn struct {
	net.Conn
	close func()
}

func (c *countedConn) Close() error {
	c.close()
	return c.Conn.Close()
}

func (i *slowIntroducer) Introduce(hypercall.DomID, hypercall.GFN, hypercall.Port) (io.ReadWriteCloser, error) {
	i.begun <- struct{}{}
	<-i.goOn
	n := i.open.Add(1)
	i.most.Store(max(i.most.Load(), n))
	_, far := net.Pipe()
	return &countedConn{far, sync.OnceFunc(func() { i.open.Add(-1) })}, nil
}

// TestConcurrentIntroduce: however many introduce a domain at once, its page has one server.
func TestConcurrentIntroduce(t *testing.T) {
	const n = 8
	in := &slowIntroducer{begun: make(chan struct{}, n), goOn: make(chan struct{})}
	s := newServer(t, &xenstored.Config{Introducer: in})
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		c := s.LocalClient()
		defer c.Close()
		wg.Go(func() { errs[i] = c.Introduce(t.Context(), 7, 1, 1) })
	}
	for range n {
		<-in.begun
		in.goOn <- struct{}{}
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, 1, in.most.Load())
	require.EqualValues(t, 1, in.open.Load())
}

// TestReleaseDuringIntroduce: a release does not wait for an introduction, and undoes it.
func TestReleaseDuringIntroduce(t *testing.T) {
	in := &slowIntroducer{begun: make(chan struct{}, 1), goOn: make(chan struct{})}
	s := newServer(t, &xenstored.Config{Introducer: in})
	c := s.LocalClient()
	defer c.Close()
	result := make(chan error, 1)
	go func() { result <- c.Introduce(t.Context(), 7, 1, 1) }()
	<-in.begun
	require.NoError(t, s.ReleaseDomain(7))
	in.goOn <- struct{}{}
	require.ErrorIs(t, <-result, xenstore.ENOENT)
	eventually(t, "the end of the connection", func() bool { return in.open.Load() == 0 && s.Stats().Connections == 1 })
	ok, err := c.IsIntroduced(t.Context(), 7)
	require.NoError(t, err)
	require.False(t, ok)

	go func() { result <- c.Introduce(t.Context(), 7, 1, 1) }()
	<-in.begun
	in.goOn <- struct{}{}
	require.NoError(t, <-result, "another domain of that id")
	require.EqualValues(t, 1, in.open.Load())
}

// TestSnapshot: a snapshot shows the store as it was.
func TestSnapshot(t *testing.T) {
	s := newServer(t, nil)
	c := s.LocalClient()
	defer c.Close()
	ctx := t.Context()
	require.NoError(t, c.Write(ctx, "/a/b", []byte("1")))
	snap := s.Snapshot()
	require.NoError(t, c.Remove(ctx, "/a"))
	var paths []string
	for n := range snap.All("/") {
		paths = append(paths, n.Path)
	}
	require.Equal(t, []string{"/", "/tool", "/tool/xenstored", "/a", "/a/b"}, paths)
	n, ok := snap.Node("/a/b")
	require.True(t, ok)
	require.Equal(t, "1", n.Value)
	require.Equal(t, []xenstore.Perm{{}}, n.Perms)
	n, ok = snap.Node("/a")
	require.True(t, ok)
	require.Equal(t, []string{"b"}, n.Children)
	_, ok = s.Snapshot().Node("/a")
	require.False(t, ok)
	require.Equal(t, 7, snap.Len())
}

// TestStats: the counters count.
func TestStats(t *testing.T) {
	s := newServer(t, nil)
	c := s.LocalClient()
	defer c.Close()
	require.NoError(t, c.Write(t.Context(), "/a", nil))
	_, err := c.Read(t.Context(), "/b")
	require.Error(t, err)
	eventually(t, "the accounting of what was written", func() bool { return s.Stats().BytesOut == 16+3+16+7 })
	st := s.Stats()
	require.Equal(t, uint64(2), st.Requests)
	require.Equal(t, uint64(1), st.Errors)
	require.Equal(t, uint64(16+3+16+3), st.BytesIn)
	require.Equal(t, 1, st.Connections)
	require.Equal(t, 1, st.Domains)
	require.Equal(t, 6, st.Nodes)
}
