package xenstore_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/stretchr/testify/require"
)

// watch makes a watch on a scripted server.
func watch(t *testing.T, s *xenstoretest.Script, c *xenstore.Client, path string) *xenstore.Watch {
	t.Helper()
	type result struct {
		w   *xenstore.Watch
		err error
	}
	done := make(chan result, 1)
	go func() {
		w, err := c.Watch(context.Background(), path, nil)
		done <- result{w, err}
	}()
	s.Reply(s.Next(), "OK\x00")
	r := <-done
	require.NoError(t, r.err)
	return r.w
}

// The C server sends the first event before the reply, the OCaml server after it.
func TestWatchEventBeforeAndAfterTheReply(t *testing.T) {
	for _, before := range []bool{true, false} {
		s, c := xenstoretest.NewScript(t, nil)
		wait := results(1, func(int) string {
			w, err := c.Watch(t.Context(), "/a", nil)
			if err != nil {
				return err.Error()
			}
			e, err := w.Next(t.Context())
			return fmt.Sprint(e, err)
		})
		m := s.Next()
		require.Equal(t, xenstore.MsgWatch, m.Type)
		require.Equal(t, "/a\x00"+m.Token()+"\x00", m.Payload)
		if before {
			s.Event("/a", m.Token())
		}
		s.Reply(m, "OK\x00")
		if !before {
			s.Event("/a", m.Token())
		}
		require.Equal(t, "{/a 0 0}<nil>", strings.ReplaceAll(wait()[0], " <nil>", "<nil>"))
	}
}

// One goroutine watches a node and writes it: the event that comes before the reply to its own write does not hold up the reply.
func TestWatcherMayWrite(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	token := make(chan string, 1)
	go s.Serve(func(m xenstoretest.Message) (string, string) {
		switch m.Type {
		case xenstore.MsgWatch:
			token <- m.Token()
			s.Event("/a", m.Token())
		case xenstore.MsgWrite:
			tok := <-token
			for range 10 {
				s.Event("/a", tok)
			}
			token <- tok
		}
		return "OK\x00", ""
	})
	n := 0
	for e, err := range c.Events(t.Context(), "/a") {
		require.NoError(t, err)
		require.Equal(t, "/a", e.Path)
		require.NoError(t, c.Write(t.Context(), "/a", nil))
		if n++; n == 100 {
			break
		}
	}
	require.Equal(t, 0, c.Stats().Watches, "leaving the loop ended the watch")
}

func TestWatchClose(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	w := watch(t, s, c, "/a")
	wait := results(3, func(i int) string {
		switch i {
		case 0:
			return fmt.Sprint(w.Next(context.Background()))
		case 1:
			for range w.Events() {
				return "an event"
			}
			return "end"
		default:
			_, ok := <-w.C()
			return fmt.Sprint(ok)
		}
	})
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	m := s.Next()
	require.Equal(t, xenstore.MsgUnwatch, m.Type)
	s.Event("/a", m.Token()) // it was on its way
	s.Reply(m, "OK\x00")
	require.NoError(t, <-closed)
	require.NoError(t, w.Close())
	require.Equal(t, []string{"{ 0 0} xenstore: watch /a: use of closed network connection", "end", "false"}, wait())
	require.ErrorIs(t, w.Err(), net.ErrClosed)
	require.EqualValues(t, 1, c.Stats().Stray)
	require.Zero(t, c.Stats().Watches)
}

// A watch whose caller has left before the server answered is taken back.
func TestWatchAbandoned(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() {
		_, err := c.Watch(ctx, "/a", nil)
		errs <- err
	}()
	m := s.Next()
	cancel()
	un := s.Next()
	require.Equal(t, xenstore.MsgUnwatch, un.Type)
	require.Equal(t, m.Payload, un.Payload)
	s.Reply(m, "OK\x00")
	s.Reply(un, "OK\x00")
	require.ErrorIs(t, <-errs, context.Canceled)
}

// A server that never answers an UNWATCH does not hold up who closes the watch.
func TestWatchCloseWithADeafServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := xenstoretest.NewScript(t, nil)
		w := watch(t, s, c, "/a")
		go s.Next()
		start := time.Now()
		require.NoError(t, w.Close())
		require.Less(t, time.Since(start), time.Minute)
		require.NoError(t, c.Close())
	})
}

func TestEventsEndWithTheContext(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	unwatched := make(chan struct{})
	go s.Serve(func(m xenstoretest.Message) (string, string) {
		switch m.Type {
		case xenstore.MsgWatch:
			s.Event("/a", m.Token())
		case xenstore.MsgUnwatch:
			close(unwatched)
		}
		return "OK\x00", ""
	})
	var last error
	for _, err := range c.Events(ctx, "/a") {
		last = err
		cancel() // not before: nothing would be watched then, nor unwatched
	}
	require.ErrorIs(t, last, context.Canceled)
	<-unwatched
}

func TestWait(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	n, token := 0, ""
	go s.Serve(func(m xenstoretest.Message) (string, string) {
		switch m.Type {
		case xenstore.MsgWatch:
			token = m.Token()
			s.Event("/a", token)
		case xenstore.MsgRead:
			if n++; n < 3 {
				s.Event("/a", token)
				return "", "ENOENT"
			}
			return "4", ""
		}
		return "OK\x00", ""
	})
	err := c.Wait(t.Context(), "/a", func(ctx context.Context) (bool, error) {
		v, err := c.Read(ctx, "/a")
		return err == nil && string(v) == "4", nil
	})
	require.NoError(t, err)
	boom := fmt.Errorf("boom")
	require.ErrorIs(t, c.Wait(t.Context(), "/a", func(context.Context) (bool, error) { return false, boom }), boom)
}

func TestResetWatchesEndsWatches(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	w := watch(t, s, c, "/a")
	wait := results(1, func(int) string { return fmt.Sprint(c.ResetWatches(context.Background())) })
	s.Reply(s.Next(), "OK\x00")
	require.Equal(t, "<nil>", wait()[0])
	_, err := w.Next(t.Context())
	require.ErrorIs(t, err, xenstore.ErrReset)
	require.NoError(t, w.Close(), "the server knows nothing of it any more and is not asked")
}

// A million events that nobody takes cost no more memory than the queue has places for, hold up no reply, and are all accounted for.
func TestXC03_WatchFlood(t *testing.T) {
	const events, paths = 1_000_000, 5000
	client, server := xenstoretest.NewRings(t, nil, nil)
	s := xenstoretest.NewScriptOver(server)
	c := xenstore.NewClient(client, nil)
	w := watch(t, s, c, "/w")
	slow := watch(t, s, c, "/slow")
	token := "hv1"
	go func() {
		var batch []byte
		for i := range events {
			path := fmt.Appendf(nil, "/w/%d\x00%s\x00", i%paths, token)
			batch = xenstore.AppendMessage(batch, xenstore.Header{Type: xenstore.MsgWatchEvent}, path)
			if len(batch) > 4096 || i == events-1 {
				s.Raw(batch)
				batch = batch[:0]
			}
		}
		s.Serve(func(xenstoretest.Message) (string, string) { return "OK\x00", "" })
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	require.NoError(t, c.Mkdir(t.Context(), "/reply")) // it comes after all events
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(1<<20))
	st := c.Stats()
	require.EqualValues(t, events, st.Events)
	require.EqualValues(t, xenstore.DefaultWatchQueue*(events/paths-1), st.Merged)
	require.EqualValues(t, events-xenstore.DefaultWatchQueue, st.Merged+st.Missed)

	var seen, merged, missed uint64
	for seen < xenstore.DefaultWatchQueue+1 {
		e, err := w.Next(t.Context())
		require.NoError(t, err)
		seen++
		merged, missed = merged+e.Merged, missed+e.Missed
		require.Equal(t, e.Missed > 0, e.Path == "/w", "what did not fit is told as one event of the watched path")
	}
	require.EqualValues(t, events, seen-1+merged+missed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := slow.Next(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, w.Close())
	require.NoError(t, slow.Close())
	require.NoError(t, c.Close())
}

// A watch that is being made while the client resets its watches is made after the reset, and goes on.
func TestResetWatchesSparesAWatchUnderWay(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	old := watch(t, s, c, "/old")
	reset := results(1, func(int) string { return fmt.Sprint(c.ResetWatches(context.Background())) })
	r := s.Next()
	watched := make(chan *xenstore.Watch, 1)
	go func() {
		w, err := c.Watch(context.Background(), "/a", nil)
		if err != nil {
			t.Error(err)
		}
		watched <- w
	}()
	m := s.Next()
	s.Reply(r, "OK\x00")
	require.Equal(t, []string{"<nil>"}, reset())
	s.Reply(m, "OK\x00")
	s.Event("/a", m.Token())
	w := <-watched
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, "/a", e.Path)
	require.ErrorIs(t, old.Err(), xenstore.ErrReset)
	closed := make(chan error, 1)
	go func() { closed <- w.Close() }()
	un := s.Next()
	require.Equal(t, xenstore.MsgUnwatch, un.Type)
	s.Reply(un, "OK\x00")
	require.NoError(t, <-closed)
}

// A watch that was never asked for is not taken back, and its caller does not wait for anything.
func TestWatchThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := xenstoretest.NewScript(t, &xenstore.Config{MaxOutstanding: 1})
		wait := results(1, func(int) string { return readString(c, "/slow") })
		slow := s.Next()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range 2 { // the second one with a context that has ended
			_, err := c.Watch(ctx, "/a", nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Hour, time.Since(start))
		}
		require.Zero(t, c.Stats().Watches)
		s.Reply(slow, "v")
		require.Equal(t, []string{"v"}, wait())
		wait = results(1, func(int) string { return readString(c, "/next") })
		next := s.Next()
		require.Equal(t, xenstore.MsgRead, next.Type)
		s.Reply(next, "v")
		wait()
		require.NoError(t, c.Close())
	})
}

// Close returns when nothing of the client runs any more: neither who serves a channel nor who still has a watch or transaction to end.
func TestCloseWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := xenstoretest.NewScript(t, nil)
		w, other := watch(t, s, c, "/a"), watch(t, s, c, "/b")
		events := w.C()
		go s.Next() // and no answer
		require.NoError(t, other.Close())
		require.NoError(t, c.Close())
		select {
		case _, ok := <-events:
			require.False(t, ok)
		default:
			require.Fail(t, "the channel's goroutine is still there")
		}
		_, ok := <-other.C()
		require.False(t, ok)
	})
}

// Wait does not need the first event.
func TestWaitWithoutEvent(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	go s.Serve(func(xenstoretest.Message) (string, string) { return "OK\x00", "" })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.Wait(ctx, "/a", func(context.Context) (bool, error) { return true, nil }))
}

// What ends a watch comes as an error of the call.
func TestWatchErrors(t *testing.T) {
	s, c := xenstoretest.NewScript(t, nil)
	w := watch(t, s, c, "/a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, canceled := w.Next(ctx)
	require.NoError(t, s.Close())
	<-c.Done()
	_, over := w.Next(t.Context())
	for _, err := range w.Events() {
		over = err
	}
	for _, err := range []error{canceled, over} {
		e, ok := err.(*xenstore.OpError)
		require.True(t, ok, "%v", err)
		require.Equal(t, "/a", e.Path)
	}
}
