package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/hvkit/hvkit/xen/xenstored"
	"github.com/stretchr/testify/require"
)

// Whatever a server makes of events, short of none after the last change, who waits for a value sees it, and reads no more often than
// there were events.
func TestXC05_SpuriousAndMissingEvents(t *testing.T) {
	const last = 20
	type policy struct {
		first int             // events at the WATCH
		after func(n int) int // events of the nth change
		stray bool            // and as many of watches that nobody has
		step  int             // how far a change goes
	}
	one := func(int) int { return 1 }
	for name, p := range map[string]policy{
		"as they should be":     {1, one, false, 1},
		"the first one is lost": {0, one, false, 1},
		"everything twice":      {2, func(int) int { return 2 }, false, 1},
		"of nothing":            {50, func(n int) int { return 1 + n%3*10 }, true, 1},
		"several changes, one":  {1, one, false, 7},
		"only after the last":   {1, func(n int) int { return n / last }, true, last},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := xenstoretest.NewScript(t, nil)
			value, reads, events, token := 0, 0, 0, ""
			send := func(n int) {
				for range n {
					events++
					s.Event("/a", token)
					if p.stray {
						s.Event("/a", "hv999")
					}
				}
			}
			go s.Serve(func(m xenstoretest.Message) (string, string) {
				switch m.Type {
				case xenstore.MsgWatch:
					token = m.Token()
					send(p.first)
				case xenstore.MsgRead:
					reads++
					answer := fmt.Sprint(value)
					if value < last { // it changes right after it was read
						value = min(last, value+p.step)
						send(max(p.after(value), value/last))
					}
					return answer, ""
				}
				return "OK\x00", ""
			})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			require.NoError(t, c.Wait(ctx, "/a", func(ctx context.Context) (bool, error) {
				v, err := c.Read(ctx, "/a")
				return string(v) == fmt.Sprint(last), err
			}))
			require.NoError(t, c.Close())
			require.LessOrEqual(t, reads, events+1)
		})
	}
}

// A value is any bytes, and comes as it went, over every kind of connection.
func TestXC06_Values(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			s := xenstored.New(nil)
			defer func() { require.NoError(t, s.Close()) }()
			c := xenstore.NewClient(tr.new(t, s)(t, 0), nil)
			for _, v := range []string{
				"", "\x00", "\x00\x00", "a\x00b", " 1", "1 ", "-1", "+1", "0x10", "\xff\xfe", "OK\x00", "ENOENT\x00",
				strings.Repeat("\x00", xenstore.MaxPayload-3), strings.Repeat("v", xenstore.MaxPayload-3),
			} {
				require.NoError(t, c.Write(t.Context(), "/v", []byte(v)))
				got, err := c.Read(t.Context(), "/v")
				require.NoError(t, err)
				require.Equal(t, v, string(got))
			}
			require.NoError(t, c.Close())
		})
	}
}

// cut is a connection that ends after so many bytes.
type cut struct {
	io.ReadWriteCloser
	mu sync.Mutex
	// +checklocks:mu
	left int
}

func (c *cut) take(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.left)
	c.left -= n
	if n == 0 {
		return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
	}
	return n, nil
}

func (c *cut) Read(p []byte) (int, error) {
	n, err := c.take(p[:1]) // what is not read is still to come
	if err != nil {
		return 0, err
	}
	return c.ReadWriteCloser.Read(p[:n])
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.take(p)
	if err != nil {
		return 0, err
	}
	done, err := c.ReadWriteCloser.Write(p[:n])
	if err == nil && done < len(p) {
		err = errors.Join(io.ErrUnexpectedEOF, c.Close())
	}
	return done, err
}

// A server that ends the connection at any byte, as one that is started anew does, leaves its client with errors that say so, and the
// store without half a transaction; the next client does what was to be done, with watches of its own.
func TestXC08_Restart(t *testing.T) {
	s := xenstored.New(nil)
	defer func() { require.NoError(t, s.Close()) }()
	work := func(c *xenstore.Client) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		w, err := c.Watch(ctx, "/r", nil)
		if err != nil {
			return err
		}
		if err := c.Transaction(ctx, func(tx *xenstore.Tx) error {
			for _, path := range []string{"/r/a", "/r/b"} {
				v, err := tx.Read(ctx, path)
				if err != nil && !errors.Is(err, xenstore.ENOENT) {
					return err
				}
				if err := tx.Write(ctx, path, append(v, '.')); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for seen := ""; seen != "/r/b"; {
			e, err := w.Next(ctx)
			if err != nil {
				return err
			}
			seen = e.Path
		}
		return c.Err()
	}
	host := s.LocalClient()
	read := func(path string) string {
		v, err := host.Read(t.Context(), path)
		if err != nil {
			require.ErrorIs(t, err, xenstore.ENOENT)
		}
		return string(v)
	}
	whole := 0
	for bytes := 0; whole < 3; bytes++ {
		require.Less(t, bytes, 10000, "it takes no more than that")
		require.NoError(t, host.Remove(t.Context(), "/r"))
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- s.ServeConn(context.Background(), &cut{ReadWriteCloser: far, left: bytes}, 0) }()
		c := xenstore.NewClient(near, nil)
		err := work(c)
		if err != nil {
			whole = 0
			_, ok := errors.AsType[*xenstore.ConnError](err)
			require.True(t, ok, "after %d bytes: %v", bytes, err)
			_, err = c.Read(t.Context(), "/r/a")
			require.ErrorIs(t, err, c.Err(), "later calls say the same")
		} else {
			whole++
		}
		require.NoError(t, c.Close())
		<-served
		require.Equal(t, read("/r/a"), read("/r/b"), "after %d bytes", bytes)
		require.Eventually(t, func() bool { // also of the client before, which the server may not have missed yet
			st := s.Stats()
			return st.Watches+st.Transactions == 0
		}, 5*time.Second, time.Millisecond, "after %d bytes", bytes)

		next := s.LocalClient()
		require.NoError(t, work(next))
		require.NoError(t, next.Close())
		require.Equal(t, read("/r/a"), read("/r/b"))
	}
	require.NoError(t, host.Close())
}

// Every call takes a server that has no room for it as an error that says so, leaves nothing of what it began, and the connection goes on.
func TestXC10_Quota(t *testing.T) {
	for _, tc := range []struct {
		name string
		want error
	}{
		{"EQUOTA", xenstore.EQUOTA}, {"E2BIG", xenstore.E2BIG}, {"ENOSPC", xenstore.ENOSPC}, {"ENOMEM", xenstore.ENOMEM},
		{"ETOOMUCH", xenstore.ErrUnknown},
	} {
		t.Run("error "+tc.name, func(t *testing.T) {
			s, c := xenstoretest.NewScript(t, &xenstore.Config{MaxAttempts: 3, MaxBackoff: time.Millisecond})
			room := false
			go s.Serve(func(m xenstoretest.Message) (string, string) {
				switch {
				case !room:
					return "", tc.name
				case m.Type == xenstore.MsgTransactionStart:
					return "7\x00", ""
				}
				return "OK\x00", ""
			})
			ctx := t.Context()
			calls := []func() error{
				func() error { return c.Write(ctx, "/a", nil) },
				func() error { return c.Mkdir(ctx, "/a") },
				func() error { return c.SetPerms(ctx, "/a", xenstore.Perm{}) },
				func() error { return c.Transaction(ctx, func(tx *xenstore.Tx) error { return tx.Mkdir(ctx, "/a") }) },
				func() error {
					w, err := c.Watch(ctx, "/a", nil)
					if err != nil {
						return err
					}
					return w.Close()
				},
			}
			for i, call := range calls {
				err := call()
				require.ErrorIs(t, err, tc.want, "call %d", i)
				_, ok := err.(*xenstore.OpError)
				require.True(t, ok, "%v", err)
			}
			n := 0
			for _, err := range c.Events(ctx, "/a") {
				require.ErrorIs(t, err, tc.want)
				n++
			}
			require.Equal(t, 1, n)
			require.Zero(t, c.Stats().Watches)
			require.Zero(t, c.Stats().Outstanding)
			room = true
			for _, call := range calls {
				require.NoError(t, call())
			}
			require.NoError(t, c.Err())
		})
	}
}
