package xenstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/stretchr/testify/require"
)

// results runs calls at once and collects their answers.
func results(n int, f func(i int) string) (wait func() []string) {
	out := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { out[i] = f(i) })
	}
	return func() []string {
		wg.Wait()
		return out
	}
}

func readString(c *xenstore.Client, path string) string {
	v, err := c.Read(context.Background(), path)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(v)
}

// Replies are for the requests whose ids they repeat, in whatever order they come.
func TestXC01_RepliesInAnyOrder(t *testing.T) {
	for name, conn := range connections(t) {
		t.Run(name, func(t *testing.T) {
			const n = 16
			s, c := xenstoretest.NewScriptOver(conn.server), xenstore.NewClient(conn.client, nil)
			for _, step := range []int{1, 3, 5, 7, 11, 15} {
				wait := results(n, func(i int) string { return readString(c, fmt.Sprintf("/%d", i)) })
				var msgs []xenstoretest.Message
				for range n {
					msgs = append(msgs, s.Next())
				}
				for i := range msgs {
					m := msgs[(i*step+3)%n]
					s.Reply(m, "value of "+strings.TrimSuffix(m.Payload, "\x00"))
				}
				for i, got := range wait() {
					require.Equal(t, fmt.Sprintf("value of /%d", i), got)
				}
				require.Zero(t, c.Stats().Outstanding)
			}
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
		})
	}
}

func TestClientSendsWhatTheProtocolSays(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	ctx := t.Context()
	for _, x := range []struct {
		typ     xenstore.MsgType
		payload string
		reply   string
		want    string
		call    func() (any, error)
	}{
		{xenstore.MsgRead, "/a\x00", "v\x00w", "[118 0 119]", func() (any, error) { return c.Read(ctx, "/a") }},
		{xenstore.MsgRead, "rel\x00", "", "[]", func() (any, error) { return c.Read(ctx, "rel") }},
		{xenstore.MsgWrite, "/a\x00v\x00w", "OK\x00", "<nil>", func() (any, error) {
			return nil, c.Write(ctx, "/a", []byte("v\x00w"))
		}},
		{xenstore.MsgMkdir, "/a\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.Mkdir(ctx, "/a") }},
		{xenstore.MsgRemove, "/a\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.Remove(ctx, "/a") }},
		{xenstore.MsgDirectory, "/\x00", "a\x00bc\x00", "[a bc]", func() (any, error) { return c.List(ctx, "/") }},
		{xenstore.MsgDirectory, "/\x00", "", "[]", func() (any, error) { return c.List(ctx, "/") }},
		{xenstore.MsgGetPerms, "/a\x00", "n0\x00r5\x00", "[n0 r5]", func() (any, error) { return c.Perms(ctx, "/a") }},
		{xenstore.MsgSetPerms, "/a\x00b1\x00w2\x00", "OK\x00", "<nil>", func() (any, error) {
			owner, other := xenstore.Perm{Dom: 1, Access: xenstore.AccessReadWrite}, xenstore.Perm{Dom: 2, Access: xenstore.AccessWrite}
			return nil, c.SetPerms(ctx, "/a", owner, other)
		}},
		{xenstore.MsgGetDomainPath, "7\x00", "/local/domain/7\x00", "/local/domain/7", func() (any, error) { return c.DomainPath(ctx, 7) }},
		{xenstore.MsgIsIntroduced, "7\x00", "T\x00", "true", func() (any, error) { return c.IsIntroduced(ctx, 7) }},
		{xenstore.MsgIsIntroduced, "7\x00", "F\x00", "false", func() (any, error) { return c.IsIntroduced(ctx, 7) }},
		{xenstore.MsgIntroduce, "7\x00255\x003\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.Introduce(ctx, 7, 255, 3) }},
		{xenstore.MsgRelease, "7\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.Release(ctx, 7) }},
		{xenstore.MsgResume, "7\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.Resume(ctx, 7) }},
		{xenstore.MsgSetTarget, "7\x008\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.SetTarget(ctx, 7, 8) }},
		{xenstore.MsgControl, "print\x00hello\x00", "OK\x00", "[79 75 0]", func() (any, error) { return c.Control(ctx, "print", "hello") }},
		{xenstore.MsgResetWatches, "\x00", "OK\x00", "<nil>", func() (any, error) { return nil, c.ResetWatches(ctx) }},
	} {
		wait := results(1, func(int) string {
			v, err := x.call()
			if err != nil {
				return err.Error()
			}
			return fmt.Sprint(v)
		})
		m := s.Next()
		require.Equal(t, x.typ, m.Type)
		require.Equal(t, x.payload, m.Payload)
		require.Zero(t, m.TxID)
		s.Reply(m, x.reply)
		require.Equal(t, x.want, wait()[0])
	}
}

func TestClientRefusesBadArguments(t *testing.T) {
	_, c := xenstoretest.NewScript(t, nil)
	ctx := t.Context()
	for _, err := range []error{
		c.Write(ctx, "/a\x00b", nil),
		c.Mkdir(ctx, ""),
		c.Remove(ctx, "@releaseDomain"),
		c.SetPerms(ctx, "/a"),
		func() error { _, err := c.Control(ctx); return err }(),
		func() error { _, err := c.Control(ctx, "a", "b\x00c"); return err }(),
		func() error { _, err := c.Watch(ctx, "/a/", nil); return err }(),
	} {
		require.ErrorIs(t, err, xenstore.EINVAL)
	}
	require.ErrorIs(t, c.Write(ctx, "/a", make([]byte, 4094)), xenstore.E2BIG)
	require.Zero(t, c.Stats().Requests, "nothing of it was sent: a server would cut us off")
}

func TestClientErrorNames(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	for name, want := range map[string]error{
		"ENOENT": xenstore.ENOENT, "EQUOTA": xenstore.EQUOTA, "ENOTSUP": errors.ErrUnsupported,
		"EFROBNICATE": xenstore.ErrUnknown, "": xenstore.ErrUnknown,
	} {
		errs := make(chan error, 1)
		go func() { errs <- c.Mkdir(context.Background(), "/a") }()
		s.Fail(s.Next(), name)
		err := <-errs
		require.ErrorIs(t, err, want)
		oe, ok := errors.AsType[*xenstore.OpError](err)
		require.True(t, ok)
		require.Equal(t, "mkdir /a", oe.Op+" "+oe.Path)
	}
	require.NoError(t, c.Err(), "the connection goes on")
}

func header(typ xenstore.MsgType, id, n uint32) []byte {
	return xenstore.Header{Type: typ, ReqID: id, Len: n}.Append(nil)
}

// breakage is what a server may do instead of answering a read, what the error says of it, and what it is.
type breakage struct {
	do   func(s *xenstoretest.Script, m xenstoretest.Message)
	want string
	is   error
}

// breaks has the server do each, and wants the connection to be over: the call under way ends with an error that says what was wrong, and
// later calls, and watches, fail at once.
func breaks(t *testing.T, kinds map[string]func(t *testing.T) connection, all map[string]breakage) {
	for kind, dial := range kinds {
		for name, x := range all {
			ok := t.Run(kind+"/"+name, func(t *testing.T) {
				conn := dial(t)
				s, c := xenstoretest.NewScriptOver(conn.server), xenstore.NewClient(conn.client, nil)
				w := watch(t, s, c, "/w")
				errs := make(chan error, 1)
				go func() {
					_, err := c.Read(context.Background(), "/a")
					errs <- err
				}()
				m := s.Next()
				require.Equal(t, xenstore.MsgRead, m.Type)
				x.do(s, m)
				var err error
				select {
				case err = <-errs:
				case <-time.After(5 * time.Second):
					require.Fail(t, "the call goes on")
				}
				require.ErrorContains(t, err, x.want)
				_, ok := errors.AsType[*xenstore.ConnError](err)
				require.True(t, ok)
				if x.is == nil {
					_, ok := errors.AsType[*xenstore.ProtocolError](err)
					require.True(t, ok)
				} else {
					require.ErrorIs(t, err, x.is)
				}
				<-c.Done()
				require.Equal(t, errors.Unwrap(err), c.Err())
				require.ErrorContains(t, c.Mkdir(context.Background(), "/b"), x.want)
				_, err = w.Next(context.Background())
				require.ErrorContains(t, err, x.want)
				require.NoError(t, w.Close())
				require.NoError(t, c.Close())
				_ = s.Close() // it may have gone already
			})
			if !ok {
				return
			}
		}
	}
}

// A reply that belongs to no request ends the connection: whatever comes next could be anybody's.
func TestXC01_WrongReplies(t *testing.T) {
	reply := func(change func(m *xenstoretest.Message)) func(*xenstoretest.Script, xenstoretest.Message) {
		return func(s *xenstoretest.Script, m xenstoretest.Message) {
			change(&m)
			s.Reply(m, "x")
		}
	}
	breaks(t, dialers, map[string]breakage{
		"unknown request id":    {reply(func(m *xenstoretest.Message) { m.ReqID++ }), "not under way", nil},
		"request id of no slot": {reply(func(m *xenstoretest.Message) { m.ReqID |= 0xff }), "not under way", nil},
		"request id 0":          {reply(func(m *xenstoretest.Message) { m.ReqID = 0 }), "not under way", nil},
		"wrong type":            {reply(func(m *xenstoretest.Message) { m.Type = xenstore.MsgWrite }), "type READ", nil},
		"unknown type":          {reply(func(m *xenstoretest.Message) { m.Type = 20 }), "MsgType(20)", nil},
		"reply twice": {func(s *xenstoretest.Script, m xenstoretest.Message) {
			b := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch, ReqID: m.ReqID}, nil)
			s.Raw(append(b, b...))
		}, "reply to a request of type READ", nil},
		"event without token": {func(s *xenstoretest.Script, _ xenstoretest.Message) {
			s.Send(xenstore.Header{Type: xenstore.MsgWatchEvent}, "/a\x00b")
		}, "event", nil},
	})
}

// A payload longer than the protocol's 4096 bytes ends the connection before anything of it is taken, the longest that may be is taken.
func TestXC02_PayloadLength(t *testing.T) {
	all := map[string]breakage{
		"event with endless path": {func(s *xenstoretest.Script, _ xenstoretest.Message) {
			s.Event(strings.Repeat("a", 4000), "t")
		}, "longer than 3072", nil},
	}
	for _, n := range []uint32{4097, 8192, 1 << 31, 0xffffffff} {
		all[fmt.Sprint(n)] = breakage{func(s *xenstoretest.Script, m xenstoretest.Message) {
			go s.Raw(append(header(m.Type, m.ReqID, n), make([]byte, 9000)...)) // what is taken of it ends with the connection
		}, fmt.Sprint(n), nil}
	}
	breaks(t, dialers, all)
	s, c := xenstoretest.NewScript(t, nil)
	wait := results(1, func(int) string { return readString(c, "/a") })
	s.Reply(s.Next(), strings.Repeat("x", xenstore.MaxPayload))
	require.Len(t, wait()[0], xenstore.MaxPayload)
}

// A server that goes away ends the connection, wherever it was.
func TestClientSurvivesADeadServer(t *testing.T) {
	closes := map[string]func(t *testing.T) connection{"pipe": dialers["pipe"], "unix": dialers["unix"]} // which tell of it
	breaks(t, closes, map[string]breakage{
		"death": {func(s *xenstoretest.Script, _ xenstoretest.Message) { s.Close() }, "EOF", io.EOF},
		"death in the header": {func(s *xenstoretest.Script, m xenstoretest.Message) {
			s.Raw(header(m.Type, m.ReqID, 4)[:7])
			s.Close()
		}, "after 7 bytes", io.ErrUnexpectedEOF},
		"death in the payload": {func(s *xenstoretest.Script, m xenstoretest.Message) {
			s.Raw(append(header(m.Type, m.ReqID, 4), 'x'))
			s.Close()
		}, "after 17 bytes", io.ErrUnexpectedEOF},
	})
}

// A kernel before Linux 4.18 answers WATCH and UNWATCH itself, with request id 0, and leaves that of events undefined.
func TestClientTakesWhatOldKernelsMakeUp(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	ctx := t.Context()
	wait := results(1, func(int) string {
		w, err := c.Watch(ctx, "/a", nil)
		if err != nil {
			return err.Error()
		}
		e, err := w.Next(ctx)
		if err != nil {
			return err.Error()
		}
		if err := w.Close(); err != nil {
			return err.Error()
		}
		return e.Path
	})
	m := s.Next()
	s.Send(xenstore.Header{Type: xenstore.MsgWatch}, "OK\x00")
	s.Send(xenstore.Header{Type: xenstore.MsgWatchEvent, ReqID: 0xdeadbeef, TxID: 5}, "/a\x00"+m.Token()+"\x00")
	require.Equal(t, xenstore.MsgUnwatch, s.Next().Type)
	s.Send(xenstore.Header{Type: xenstore.MsgUnwatch}, "OK\x00")
	require.Equal(t, "/a", wait()[0])
}

func TestClientEndsACallWithItsContext(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() {
		_, err := c.Read(ctx, "/slow")
		errs <- err
	}()
	slow := s.Next()
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled)
	require.Equal(t, 1, c.Stats().Outstanding, "the server has yet to answer")

	wait := results(1, func(int) string { return readString(c, "/next") })
	next := s.Next()
	require.NotEqual(t, slow.ReqID, next.ReqID)
	s.Reply(slow, "too late")
	s.Reply(next, "in time")
	require.Equal(t, "in time", wait()[0])
	require.EqualValues(t, 1, c.Stats().Late)
	require.Zero(t, c.Stats().Outstanding)

	_, err := c.Read(ctx, "/never")
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 2, c.Stats().Requests, "a context that has ended sends nothing")
}

func TestClientBoundsWhatIsOutstanding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := xenstoretest.NewScript(t, &xenstore.Config{MaxOutstanding: 3})
		wait := results(5, func(i int) string { return readString(c, fmt.Sprintf("/%d", i)) })
		first := []xenstoretest.Message{s.Next(), s.Next(), s.Next()}
		synctest.Wait()
		require.EqualValues(t, 3, c.Stats().Requests)

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		err := c.Mkdir(ctx, "/sixth") // waits for a place, with its context
		require.ErrorIs(t, err, context.DeadlineExceeded)
		oe, ok := errors.AsType[*xenstore.OpError](err)
		require.True(t, ok && oe.Timeout())

		for _, m := range first {
			s.Reply(m, "x")
		}
		s.Reply(s.Next(), "x")
		s.Reply(s.Next(), "x")
		require.Equal(t, []string{"x", "x", "x", "x", "x"}, wait())
		require.EqualValues(t, 5, c.Stats().Requests)
	})
}

// A server that reads nothing makes nobody wait beyond their context, on no kind of connection.
func TestClientDoesNotWaitForAServerThatDoesNotRead(t *testing.T) {
	for name, conn := range connections(t) {
		t.Run(name, func(t *testing.T) {
			c := xenstore.NewClient(conn.client, nil)
			ctx, cancel := context.WithCancel(context.Background())
			wait := results(40, func(i int) string {
				return fmt.Sprint(errors.Is(c.Write(ctx, "/a", make([]byte, 4000)), context.Canceled))
			})
			full := func() bool { return c.Stats().Outstanding == xenstore.DefaultOutstanding }
			require.Eventually(t, full, 5*time.Second, time.Millisecond)
			cancel()
			for _, got := range wait() {
				require.Equal(t, "true", got)
			}
			require.NoError(t, c.Close())
			require.NoError(t, conn.server.Close())
		})
	}
}

type connection struct{ client, server io.ReadWriteCloser }

// dialers make connections of every kind.
var dialers = map[string]func(t *testing.T) connection{
	"pipe": func(*testing.T) connection {
		a, b := net.Pipe()
		return connection{a, b}
	},
	"unix": func(t *testing.T) connection {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		a, err := net.Dial("unix", l.Addr().String())
		require.NoError(t, err)
		b, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, l.Close())
		return connection{a, b}
	},
	"ring": func(t *testing.T) connection {
		sleep := &xenstore.RingConfig{Spin: -1}
		a, b := xenstoretest.NewRings(t, sleep, sleep)
		return connection{a, b}
	},
	"spinning ring": func(t *testing.T) connection {
		a, b := xenstoretest.NewRings(t, nil, nil)
		return connection{a, b}
	},
}

// connections returns a connection of every kind.
func connections(t *testing.T) map[string]connection {
	all := map[string]connection{}
	for name, dial := range dialers {
		all[name] = dial(t)
	}
	return all
}

// Many callers at once, large and small messages, over every kind of connection: every caller gets its own answer.
func TestClientHammer(t *testing.T) {
	for name, conn := range connections(t) {
		t.Run(name, func(t *testing.T) {
			s := xenstoretest.NewScriptOver(conn.server)
			served := make(chan struct{})
			go func() {
				defer close(served)
				s.Serve(func(m xenstoretest.Message) (string, string) { return m.Payload, "" })
			}()
			c := xenstore.NewClient(conn.client, nil)
			wait := results(32, func(i int) string {
				for j := range 50 {
					path := "/" + strings.Repeat(fmt.Sprintf("%d-%d/", i, j), (i*j)%300)[:(i*j)%300] + "x"
					got, err := c.Read(context.Background(), path)
					if err != nil || !bytes.Equal(got, []byte(path+"\x00")) {
						return fmt.Sprintf("%s: %q %v", path, got, err)
					}
				}
				return ""
			})
			for _, got := range wait() {
				require.Empty(t, got)
			}
			require.EqualValues(t, 32*50, c.Stats().Replies)
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
			<-served
		})
	}
}

func TestClientClose(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	wait := results(1, func(int) string { return readString(c, "/a") })
	s.Next()
	require.NoError(t, c.Close())
	require.Contains(t, wait()[0], "use of closed network connection")
	require.NoError(t, c.Close())
	_, err := c.Read(t.Context(), "/a")
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, c.Transaction(t.Context(), func(*xenstore.Tx) error { return nil }), net.ErrClosed)
	_, err = c.Watch(t.Context(), "/a", nil)
	require.ErrorIs(t, err, net.ErrClosed)
}

// A reader that always brings nothing does not keep the client busy for ever.
func TestClientGivesUpOnAConnectionWithoutProgress(t *testing.T) {
	c := xenstore.NewClient(idle{}, nil)
	<-c.Done()
	require.ErrorIs(t, c.Err(), io.ErrNoProgress)
	require.NoError(t, c.Close())
}

type idle struct{}

func (idle) Read([]byte) (int, error)    { return 0, nil }
func (idle) Write(p []byte) (int, error) { return len(p), nil }
func (idle) Close() error                { return nil }

func TestListInParts(t *testing.T) {
	part := func(gen string, names ...string) string {
		return gen + "\x00" + strings.Join(append(names, ""), "\x00")
	}
	for name, x := range map[string]struct {
		replies []string // to DIRECTORY_PART
		want    string
		offsets []string
	}{
		"two parts": {[]string{part("5", "a", "bb"), part("5", "c") + "\x00"}, "[a bb c] <nil>", []string{"0", "5"}},
		"one part":  {[]string{part("5", "a") + "\x00"}, "[a] <nil>", []string{"0"}},
		"end alone": {[]string{part("5", "a"), "5\x00\x00"}, "[a] <nil>", []string{"0", "2"}},
		"nothing":   {[]string{"5\x00\x00"}, "[] <nil>", []string{"0"}},
		"it changed": {[]string{part("5", "a", "b"), part("6", "c"), part("6", "x"), part("6", "y") + "\x00"},
			"[x y] <nil>", []string{"0", "4", "0", "2"}},
		"no generation": {[]string{"5"}, "malformed", []string{"0"}},
		"no progress":   {[]string{"5\x00"}, "malformed", []string{"0"}},
		"cut name":      {[]string{"5\x00ab"}, "malformed", []string{"0"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := xenstoretest.NewScript(t, nil)
			wait := results(1, func(int) string {
				names, err := c.List(context.Background(), "/a")
				return fmt.Sprintf("%v %v", names, err)
			})
			s.Fail(s.Next(), "E2BIG")
			for i, r := range x.replies {
				m := s.Next()
				require.Equal(t, xenstore.MsgDirectoryPart, m.Type)
				require.Equal(t, "/a\x00"+x.offsets[i]+"\x00", m.Payload)
				s.Reply(m, r)
			}
			require.Contains(t, wait()[0], x.want)
		})
	}
}

// A server whose node never stays the same, or never ends, is not followed for ever.
func TestListIsBounded(t *testing.T) {
	for name, x := range map[string]struct {
		part func(n int) string
		is   error
	}{
		"ever changing": {func(n int) string { return fmt.Sprintf("%d\x00a\x00", n) }, xenstore.ErrConflict},
		"endless":       {func(int) string { return "5\x00" + strings.Repeat(strings.Repeat("n", 999)+"\x00", 4) }, xenstore.E2BIG},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := xenstoretest.NewScript(t, nil)
			n := 0
			go s.Serve(func(m xenstoretest.Message) (string, string) {
				if m.Type == xenstore.MsgDirectory {
					return "", "E2BIG"
				}
				n++
				return x.part(n), ""
			})
			_, err := c.List(t.Context(), "/a")
			require.ErrorIs(t, err, x.is)
		})
	}
}

// A read allocates its value, a write nothing.
func TestClientAllocates(t *testing.T) {
	for name, conn := range connections(t) {
		t.Run(name, func(t *testing.T) {
			served := make(chan struct{})
			go func() {
				defer close(served)
				answer(conn.server)
			}()
			c := xenstore.NewClient(conn.client, nil)
			ctx, value := context.Background(), make([]byte, 100)
			write := func() {
				if err := c.Write(ctx, "/a/b/c", value); err != nil {
					t.Error(err)
				}
			}
			read := func() {
				if v, err := c.Read(ctx, "/a/b/c"); err != nil || len(v) == 0 {
					t.Error(err)
				}
			}
			write()
			// The collector may empty the pool in between, and AllocsPerRun rounds down.
			require.LessOrEqual(t, testing.AllocsPerRun(300, write), 0.0+poolLoss)
			require.LessOrEqual(t, testing.AllocsPerRun(300, read), 1.0+poolLoss)
			require.NoError(t, c.Close())
			require.NoError(t, conn.server.Close())
			<-served
		})
	}
}

var okReply = []byte("OK\x00")

// answer sends every message back, or OK to a WRITE, without allocating anything.
func answer(rw io.ReadWriter) {
	var dec xenstore.Decoder
	buf := make([]byte, 0, xenstore.MaxMessage)
	for {
		h, payload, ok, err := dec.Next()
		if err != nil {
			return
		}
		if ok {
			if h.Type == xenstore.MsgWrite {
				h.Len, payload = 3, okReply
			}
			buf = append(h.Append(buf[:0]), payload...)
			if _, err := rw.Write(buf); err != nil {
				return
			}
			continue
		}
		n, err := rw.Read(dec.Space())
		if err != nil {
			return
		}
		dec.Filled(n)
	}
}

// A server that breaks the ring breaks the client's connection, whatever it does.
func TestXC08_BrokenRing(t *testing.T) {
	for name, breakIt := range map[string]func(page *shm.Region){
		"rsp_prod": func(page *shm.Region) { page.Store32(xenstore.OffRspProd, 5000) },
		"error":    func(page *shm.Region) { page.Store32(xenstore.OffError, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			page := shm.New(1)
			page.Store32(xenstore.OffServerFeatures, xenstore.FeatureError)
			a, b := xenstoretest.NewChannels()
			conn, err := xenstore.NewRingConn(page, a, xenstore.RoleClient, nil)
			require.NoError(t, err)
			c := xenstore.NewClient(conn, nil)
			wait := results(1, func(int) string { return readString(c, "/a") })
			require.Eventually(t, func() bool { return c.Stats().Outstanding == 1 }, 5*time.Second, time.Millisecond)
			breakIt(page)
			require.NoError(t, b.Notify())
			require.Contains(t, wait()[0], "xenstore: ring: "+name)
			_, ok := errors.AsType[*xenstore.RingError](c.Err())
			require.True(t, ok)
			require.NoError(t, c.Close())
		})
	}
}

// A channel that does not work any more, as after the domain was resumed, ends the connection.
func TestClientOverAStaleChannel(t *testing.T) {
	conn, err := xenstore.NewRingConn(shm.New(1), staleChannel{}, xenstore.RoleClient, nil)
	require.NoError(t, err)
	c := xenstore.NewClient(conn, nil)
	_, err = c.Read(t.Context(), "/a")
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.NoError(t, c.Close())
}

type staleChannel struct{}

func (staleChannel) Notify() error { return hypercall.ErrStale }
func (staleChannel) Handle(func()) {}
func (staleChannel) Close() error  { return nil }

// A reply that the protocol does not allow is no answer of the server's: the caller gets EIO, whatever the call.
func TestMalformedReplies(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	go s.Serve(func(xenstoretest.Message) (string, string) { return "garbage", "" })
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"write":  func() error { return c.Write(ctx, "/a", nil) },
		"mkdir":  func() error { return c.Mkdir(ctx, "/a") },
		"remove": func() error { return c.Remove(ctx, "/a") },
		"list": func() error {
			_, err := c.List(ctx, "/a")
			return err
		},
		"perms": func() error {
			_, err := c.Perms(ctx, "/a")
			return err
		},
		"set perms": func() error { return c.SetPerms(ctx, "/a", xenstore.Perm{}) },
		"watch": func() error {
			_, err := c.Watch(ctx, "/a", nil)
			return err
		},
		"transaction":   func() error { return c.Transaction(ctx, func(*xenstore.Tx) error { return nil }) },
		"reset watches": func() error { return c.ResetWatches(ctx) },
		"introduce":     func() error { return c.Introduce(ctx, 1, 1, 1) },
		"release":       func() error { return c.Release(ctx, 1) },
		"resume":        func() error { return c.Resume(ctx, 1) },
		"set target":    func() error { return c.SetTarget(ctx, 1, 2) },
		"domain path": func() error {
			_, err := c.DomainPath(ctx, 1)
			return err
		},
		"is introduced": func() error {
			_, err := c.IsIntroduced(ctx, 1)
			return err
		},
	} {
		err := call()
		require.ErrorIs(t, err, xenstore.EIO, name)
		require.NotErrorIs(t, err, xenstore.EINVAL, name)
		_, ok := err.(*xenstore.OpError)
		require.True(t, ok, name)
	}
}
