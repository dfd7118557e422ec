package xenstored_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// transports are the ways in which benchmarks connect their clients.
var transports = []struct {
	name string
	dial func(tb testing.TB, s *xenstored.Server) *xenstore.Client
}{
	{"local", func(_ testing.TB, s *xenstored.Server) *xenstore.Client { return s.LocalClient() }},
	{"pipe", func(tb testing.TB, s *xenstored.Server) *xenstore.Client {
		near, far := net.Pipe()
		go func() { _ = s.ServeConn(context.Background(), far, 0) }()
		return xenstore.NewClient(near, nil)
	}},
	{"socket", nil},
}

// benchmark runs f on clients that share a server, over each transport, with 1 and 16 of them.
func benchmark(b *testing.B, f func(ctx context.Context, c *xenstore.Client, i int) (step func() error)) {
	for _, t := range transports {
		for _, clients := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/clients=%d", t.name, clients), func(b *testing.B) {
				s := xenstored.New(nil)
				defer s.Close()
				dial := t.dial
				if dial == nil {
					dial = listen(b, s)
				}
				steps := make([]func() error, clients)
				for i := range steps {
					c := dial(b, s)
					defer c.Close()
					steps[i] = f(context.Background(), c, i)
				}
				b.ReportAllocs()
				b.ResetTimer()
				if clients == 1 {
					for range b.N {
						if err := steps[0](); err != nil {
							b.Fatal(err)
						}
					}
					return
				}
				var wg sync.WaitGroup
				for i, step := range steps {
					n := b.N / clients
					if i < b.N%clients {
						n++
					}
					wg.Go(func() {
						for range n {
							if err := step(); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func listen(tb testing.TB, s *xenstored.Server) func(testing.TB, *xenstored.Server) *xenstore.Client {
	path := filepath.Join(tb.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(tb, err)
	go func() { _ = s.Serve(context.Background(), l) }()
	return func(tb testing.TB, _ *xenstored.Server) *xenstore.Client {
		c, err := xenstore.Dial(context.Background(), path, nil)
		require.NoError(tb, err)
		return c
	}
}

func BenchmarkRead(b *testing.B) {
	benchmark(b, func(ctx context.Context, c *xenstore.Client, i int) func() error {
		path := fmt.Sprintf("/bench/%d", i)
		require.NoError(b, c.Write(ctx, path, []byte("1")))
		return func() error { _, err := c.Read(ctx, path); return err }
	})
}

func BenchmarkWrite(b *testing.B) {
	benchmark(b, func(ctx context.Context, c *xenstore.Client, i int) func() error {
		path, value := fmt.Sprintf("/bench/%d", i), []byte("1")
		require.NoError(b, c.Write(ctx, path, value))
		return func() error { return c.Write(ctx, path, value) }
	})
}

func BenchmarkTransaction(b *testing.B) {
	benchmark(b, func(ctx context.Context, c *xenstore.Client, i int) func() error {
		path := fmt.Sprintf("/bench/%d", i)
		require.NoError(b, c.Write(ctx, path, []byte("1")))
		return func() error {
			return c.Transaction(ctx, func(tx *xenstore.Tx) error {
				v, err := tx.Read(ctx, path)
				if err != nil {
					return err
				}
				return tx.Write(ctx, path, v)
			})
		}
	})
}

// BenchmarkWatch is a write and the event that comes of it.
func BenchmarkWatch(b *testing.B) {
	benchmark(b, func(ctx context.Context, c *xenstore.Client, i int) func() error {
		path, value := fmt.Sprintf("/bench/%d", i), []byte("1")
		require.NoError(b, c.Write(ctx, path, value))
		w, err := c.Watch(ctx, path, nil)
		require.NoError(b, err)
		_, err = w.Next(ctx)
		require.NoError(b, err)
		return func() error {
			if err := c.Write(ctx, path, value); err != nil {
				return err
			}
			_, err := w.Next(ctx)
			return err
		}
	})
}
