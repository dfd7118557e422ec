package xenstore_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/hvkit/hvkit/xen/xenstored"
	"github.com/stretchr/testify/require"
)

// transport is a way to this module's server.
type transport struct {
	name   string
	guests bool
	new    func(tb testing.TB, s *xenstored.Server) connect
}

// connect makes a connection that acts as the domain.
type connect = func(tb testing.TB, dom hypercall.DomID) io.ReadWriteCloser

// serve serves the connections that pair makes, and waits for the end of each when the test ends.
func serve(tb testing.TB, s *xenstored.Server, pair func(tb testing.TB) (client, server io.ReadWriteCloser)) connect {
	var wg sync.WaitGroup
	tb.Cleanup(wg.Wait)
	return func(tb testing.TB, dom hypercall.DomID) io.ReadWriteCloser {
		client, server := pair(tb)
		wg.Go(func() { _ = s.ServeConn(context.Background(), server, dom) }) // it says how the client left
		return client
	}
}

func ringPair(spin time.Duration) func(testing.TB) (client, server io.ReadWriteCloser) {
	return func(tb testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) {
		page := shm.New(1)
		for off := xenstore.OffReqCons; off <= xenstore.OffRspProd; off += 4 {
			page.Store32(off, 0xffffff00) // soon to wrap
		}
		a, b := xenstoretest.NewChannels()
		server, err := xenstore.NewRingConn(page, b, xenstore.RoleServer, &xenstore.RingConfig{Spin: spin})
		require.NoError(tb, err)
		client, err := xenstore.NewRingConn(page, a, xenstore.RoleClient, &xenstore.RingConfig{Spin: spin})
		require.NoError(tb, err)
		return &ringClient{client, server}, server
	}
}

// ringClient is a client's end of a ring whose server's end closes with it: there is no hypervisor here that would tell it.
type ringClient struct {
	*xenstore.RingConn
	server *xenstore.RingConn
}

func (c *ringClient) Close() error {
	_ = c.server.Close()
	return c.RingConn.Close()
}

var transports = []transport{
	{"pipe", true, func(tb testing.TB, s *xenstored.Server) connect {
		return serve(tb, s, func(testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) { return pipe() })
	}},
	{"ring", true, func(tb testing.TB, s *xenstored.Server) connect {
		return serve(tb, s, ringPair(-1))
	}},
	{"spinning ring", true, func(tb testing.TB, s *xenstored.Server) connect {
		return serve(tb, s, ringPair(0))
	}},
	{"unix", false, func(tb testing.TB, s *xenstored.Server) connect {
		l, err := net.Listen("unix", filepath.Join(tb.TempDir(), "s"))
		require.NoError(tb, err)
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.Serve(ctx, l)
		}()
		tb.Cleanup(func() {
			cancel()
			<-served
		})
		return func(tb testing.TB, _ hypercall.DomID) io.ReadWriteCloser {
			conn, err := net.Dial("unix", l.Addr().String())
			require.NoError(tb, err)
			return conn
		}
	}},
}

func pipe() (io.ReadWriteCloser, io.ReadWriteCloser) { return net.Pipe() }

// The conformance suite against this module's server, over every transport.
func TestServer(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := xenstored.New(nil)
			defer func() { require.NoError(t, s.Close()) }()
			srv := xenstoretest.Server{Connect: tr.new(t, s)}
			if tr.guests {
				srv.Guest = 7
			}
			xenstoretest.TestServer(t, srv)
		})
	}
}

// bench runs f for each transport with a client of domain 0.
func bench(b *testing.B, f func(ctx context.Context, c *xenstore.Client) error) {
	for _, tr := range transports {
		b.Run(tr.name, func(b *testing.B) {
			s := xenstored.New(nil)
			defer s.Close()
			c := xenstore.NewClient(tr.new(b, s)(b, 0), nil)
			defer c.Close()
			ctx := b.Context()
			require.NoError(b, c.Write(ctx, "/bench/x", []byte("0123456789")))
			b.ReportAllocs()
			for b.Loop() {
				if err := f(ctx, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	bench(b, func(ctx context.Context, c *xenstore.Client) error {
		_, err := c.Read(ctx, "/bench/x")
		return err
	})
}

func BenchmarkWrite(b *testing.B) {
	value := []byte("0123456789")
	bench(b, func(ctx context.Context, c *xenstore.Client) error { return c.Write(ctx, "/bench/x", value) })
}

func BenchmarkTransaction(b *testing.B) {
	bench(b, func(ctx context.Context, c *xenstore.Client) error {
		return c.Transaction(ctx, func(tx *xenstore.Tx) error {
			v, err := tx.Read(ctx, "/bench/x")
			if err != nil {
				return err
			}
			return tx.Write(ctx, "/bench/x", v)
		})
	})
}

func BenchmarkWatchRoundTrip(b *testing.B) {
	var w *xenstore.Watch
	defer func() { w.Close() }()
	bench(b, func(ctx context.Context, c *xenstore.Client) error {
		if w == nil || w.Err() != nil {
			var err error
			if w, err = c.Watch(ctx, "/bench/x", nil); err != nil {
				return err
			}
			if _, err := w.Next(ctx); err != nil {
				return err
			}
		}
		if err := c.Write(ctx, "/bench/x", nil); err != nil {
			return err
		}
		_, err := w.Next(ctx)
		return err
	})
}

func BenchmarkDecoder(b *testing.B) {
	msg := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgRead}, []byte("0123456789"))
	var dec xenstore.Decoder
	b.ReportAllocs()
	for b.Loop() {
		dec.Filled(copy(dec.Space(), msg))
		if _, _, ok, err := dec.Next(); !ok || err != nil {
			b.Fatal(err)
		}
	}
}
