package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	"github.com/stretchr/testify/require"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}` + "\r\n"

// fake is QEMU's end.
type fake struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (f *fake) say(format string, args ...any) {
	_, err := fmt.Fprintf(f.conn, format+"\r\n", args...)
	require.NoError(f.t, err)
}

type command struct {
	Execute string          `json:"execute"`
	ID      json.RawMessage `json:"id"`
}

func (f *fake) next() command {
	line, err := f.r.ReadBytes('\n')
	require.NoError(f.t, err)
	var c command
	require.NoError(f.t, json.Unmarshal(line, &c))
	return c
}

// connect returns a monitor that has connected, and QEMU's end.
func connect(t *testing.T, cfg *Config) (*Monitor, *fake) {
	t.Helper()
	a, b := net.Pipe()
	f := &fake{t, b, bufio.NewReader(b)}
	done := make(chan *Monitor)
	go func() {
		m, err := New(t.Context(), a, cfg)
		if err != nil {
			t.Error(err)
		}
		done <- m
	}()
	f.say("%s", strings.TrimSpace(greeting))
	c := f.next()
	require.Equal(t, "qmp_capabilities", c.Execute)
	f.say(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}`) // between a command and its reply
	f.say(`{"return": {}, "id": %s}`, c.ID)
	m := <-done
	require.NotNil(t, m)
	t.Cleanup(func() {
		require.NoError(t, m.Disconnect())
		require.NoError(t, m.Disconnect())
		require.NoError(t, b.Close())
	})
	return m, f
}

// run runs a command beside the test.
func run(m *Monitor, text string) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := m.Run([]byte(text))
		done <- err
	}()
	return done
}

func TestGeneratedCommands(t *testing.T) {
	m, f := connect(t, nil)
	go func() {
		c := f.next()
		f.say(`{"event": "STOP", "data": {"x": 1}, "timestamp": {"seconds": 3, "microseconds": 4}}`)
		f.say(`{"return": {"status": "paused", "singlestep": false, "running": false}, "id": %s}`, c.ID)
	}()
	events, err := m.Events(t.Context())
	require.NoError(t, err)
	status, err := raw.NewMonitor(m).QueryStatus()
	require.NoError(t, err)
	require.Equal(t, raw.RunStatePaused, status.Status)
	e := <-events
	require.Equal(t, "STOP", e.Event)
	require.Equal(t, map[string]any{"x": 1.0}, e.Data)
	require.EqualValues(t, 3, e.Timestamp.Seconds)
}

// A reply may be longer than any line, and it is the caller's: the next one does not change it.
func TestLongReplies(t *testing.T) {
	m, f := connect(t, nil)
	go func() {
		for _, fill := range []string{"a", "b"} {
			c := f.next()
			f.say(`{"return": %q, "id": %s}`, strings.Repeat(fill, 3<<20), c.ID)
		}
	}()
	first, err := m.Run([]byte(`{"execute":"query-qmp-schema"}`))
	require.NoError(t, err)
	second, err := m.Run([]byte(`{"execute":"query-qmp-schema"}`))
	require.NoError(t, err)
	require.Equal(t, 3<<20, strings.Count(string(first), "a"))
	require.Equal(t, 3<<20, strings.Count(string(second), "b"))
}

func TestTooLongReply(t *testing.T) {
	m, f := connect(t, &Config{MaxMessage: 4096})
	done := run(m, `{"execute":"query"}`)
	c := f.next()
	go func() { _, _ = fmt.Fprintf(f.conn, `{"return": %q, "id": %s}`, strings.Repeat("a", 8192), c.ID) }()
	require.ErrorIs(t, <-done, ErrProtocol)
}

// Replies find their calls in any order, and one that is too late finds nobody.
func TestRepliesInAnyOrder(t *testing.T) {
	m, f := connect(t, nil)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			got, err := m.Run(fmt.Appendf(nil, `{"execute":"c%d"}`, i))
			if err != nil || !strings.Contains(string(got), fmt.Sprintf(`"c%d"`, i)) {
				t.Errorf("c%d: %s %v", i, got, err)
			}
		})
	}
	var all []command
	for range n {
		all = append(all, f.next())
	}
	for i := len(all) - 1; i >= 0; i-- {
		f.say(`{"return": %q, "id": %s}`, all[i].Execute, all[i].ID)
	}
	wg.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := m.RunContext(ctx, []byte(`{"execute":"slow"}`))
		ended <- err
	}()
	late := f.next()
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	f.say(`{"return": "late", "id": %s}`, late.ID)
	go func() { f.say(`{"return": "in time", "id": %s}`, f.next().ID) }()
	got, err := m.Run([]byte(`{"execute":"next"}`))
	require.NoError(t, err)
	require.Contains(t, string(got), "in time")
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Empty(t, m.calls)
}

func TestRefusedCommand(t *testing.T) {
	m, f := connect(t, nil)
	done := run(m, `{"execute":"nonsense"}`)
	f.say(`{"error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}, "id": %s}`, f.next().ID)
	var refused *CommandError
	require.ErrorAs(t, <-done, &refused)
	require.Equal(t, CommandError{"nonsense", "CommandNotFound", "The command nonsense has not been found"}, *refused)
	require.NoError(t, m.Err(), "the connection goes on")
	_, err := m.Run([]byte("no JSON"))
	require.Error(t, err)
	require.NoError(t, m.Err())
}

// What is no QMP ends the connection, with words that say so, and everybody who waits.
func TestGarbage(t *testing.T) {
	for _, text := range []string{
		"hello\n", "{\"return\": {]\n", "[1]\n", "{}\n", "17\n", "{\"event\": 3}\n", "{\"event\": \"X\", \"data\": 5}\n",
	} {
		m, f := connect(t, nil)
		events, err := m.Events(t.Context())
		require.NoError(t, err)
		done := run(m, `{"execute":"query"}`)
		f.next()
		_, err = io.WriteString(f.conn, text)
		require.NoError(t, err)
		require.ErrorIs(t, <-done, ErrProtocol, text)
		_, open := <-events
		require.False(t, open)
		_, err = m.Events(t.Context())
		require.ErrorIs(t, err, ErrProtocol)
		_, err = m.Run([]byte(`{"execute":"query"}`))
		require.ErrorIs(t, err, ErrProtocol)
	}
}

func TestNoGreeting(t *testing.T) {
	for _, text := range []string{"SSH-2.0\r\n", `{"return": {}}`, `{"event": "STOP"}`} {
		a, b := net.Pipe()
		go func() { _, _ = io.WriteString(b, text) }()
		_, err := New(t.Context(), a, nil)
		require.ErrorIs(t, err, ErrProtocol, text)
		require.NoError(t, b.Close())
	}
	a, b := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(ctx, a, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, b.Close())
}

func TestClosedSocket(t *testing.T) {
	m, f := connect(t, nil)
	done := run(m, `{"execute":"query"}`)
	f.next()
	require.NoError(t, f.conn.Close())
	require.ErrorIs(t, <-done, io.ErrUnexpectedEOF)

	m, f = connect(t, nil)
	done = run(m, `{"execute":"query"}`)
	f.next()
	require.NoError(t, m.Disconnect())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.ErrorIs(t, m.Connect(), net.ErrClosed)
}

// A command waits for its reply, or to be taken at all, as long as it may, and no longer.
func TestDeadlines(t *testing.T) {
	m, f := connect(t, &Config{Timeout: 10 * time.Millisecond})
	done := run(m, `{"execute":"query"}`)
	f.next()
	require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
	require.NoError(t, m.Err(), "the connection goes on")
	require.ErrorIs(t, <-run(m, `{"execute":"query"}`), os.ErrDeadlineExceeded, "nobody takes it")
	require.Error(t, m.Err(), "half a command may have been written")
}

// Who does not read events misses some, and holds up nobody.
func TestEventsThatNobodyReads(t *testing.T) {
	m, f := connect(t, &Config{Events: 3})
	events, err := m.Events(t.Context())
	require.NoError(t, err)
	for range 10 {
		f.say(`{"event": "STOP"}`)
	}
	done := run(m, `{"execute":"query"}`)
	f.say(`{"return": {}, "id": %s}`, f.next().ID)
	require.NoError(t, <-done)
	require.EqualValues(t, 7, m.Missed())
	for range 3 {
		<-events
	}
	require.Empty(t, events)
}

func TestEventsEndWithTheirContext(t *testing.T) {
	m, f := connect(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	events, err := m.Events(ctx)
	require.NoError(t, err)
	cancel()
	_, open := <-events
	require.False(t, open)
	f.say(`{"event": "STOP"}`) // for nobody
	done := run(m, `{"execute":"query"}`)
	f.say(`{"return": {}, "id": %s}`, f.next().ID)
	require.NoError(t, <-done)
	require.Zero(t, m.Missed())
}
