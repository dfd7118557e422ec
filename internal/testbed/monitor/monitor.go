// Package monitor speaks QMP, QEMU's machine protocol, over a connection.
//
// [Monitor] is a qmp.Monitor of github.com/digitalocean/go-qemu, so that module's generated commands work on it (raw.NewMonitor). Its own
// SocketMonitor is not used: it takes no reply longer than 64 KiB, and fails for ever after one; the replies that it returns lie in a
// buffer that it writes again; it takes an event for a reply when one comes between; and it has no deadlines.
//
//	mon, err := monitor.New(ctx, conn, nil)
//	status, err := raw.NewMonitor(mon).QueryStatus()
//
// Replies are told from each other by an id, so a late one disturbs nobody. Events never hold up replies: who does not read them misses
// some, and [Monitor.Missed] says how many.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// Defaults of [Config].
const (
	DefaultTimeout    = 30 * time.Second // of a command
	DefaultMaxMessage = 16 << 20         // the longest reply of QEMU 7.2, its schema, has 200 KB
	DefaultEvents     = 256              // that wait for a subscriber
)

// Config configures a [Monitor]. A field that is zero has its default.
type Config struct {
	Timeout    time.Duration // how long [Monitor.Run] waits for a reply. Default DefaultTimeout
	MaxMessage int64         // bytes of one message; a longer one ends the connection. Default DefaultMaxMessage
	Events     int           // events that wait for each subscriber. Default DefaultEvents
}

// ErrProtocol is the cause where the other end does not speak QMP.
var ErrProtocol = errors.New("not QMP")

// CommandError is a command that QEMU refused.
type CommandError struct {
	Command, Class, Desc string
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("qmp: %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Monitor is a connection to QEMU. It is safe for concurrent use.
type Monitor struct {
	conn net.Conn
	conf Config
	dead chan struct{}
	read sync.WaitGroup

	write sync.Mutex // held while a command is written

	mu sync.Mutex
	// +checklocks:mu
	last uint64 // id
	// +checklocks:mu
	calls map[string]chan *message
	// +checklocks:mu
	subscribers map[*subscriber]struct{}
	// +checklocks:mu
	missed uint64
	// +checklocks:mu
	err error // why the connection is over
}

var _ qmp.Monitor = (*Monitor)(nil)

// message is what QEMU sends.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       json.RawMessage `json:"id"`
	Event    string          `json:"event"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	raw []byte
}

// subscriber takes events.
type subscriber struct{ c chan qmp.Event }

// New takes QEMU's greeting from conn and makes it ready for commands. ctx bounds that. The monitor owns conn, also where New fails.
func New(ctx context.Context, conn net.Conn, cfg *Config) (*Monitor, error) {
	m := &Monitor{
		conn: conn, dead: make(chan struct{}), calls: make(map[string]chan *message), subscribers: make(map[*subscriber]struct{}),
	}
	if cfg != nil {
		m.conf = *cfg
	}
	if m.conf.Timeout <= 0 {
		m.conf.Timeout = DefaultTimeout
	}
	if m.conf.MaxMessage <= 0 {
		m.conf.MaxMessage = DefaultMaxMessage
	}
	if m.conf.Events <= 0 {
		m.conf.Events = DefaultEvents
	}
	greeted := make(chan struct{})
	m.read.Go(func() { m.fail(m.loop(greeted)) })
	select {
	case <-greeted:
	case <-m.dead:
		return nil, m.Err()
	case <-ctx.Done():
		m.fail(context.Cause(ctx))
		return nil, fmt.Errorf("qmp: wait for the greeting: %w", context.Cause(ctx))
	}
	if _, err := m.RunContext(ctx, []byte(`{"execute":"qmp_capabilities"}`)); err != nil {
		m.fail(err)
		return nil, err
	}
	return m, nil
}

// Connect does nothing: New has connected.
func (m *Monitor) Connect() error { return m.Err() }

// Disconnect ends the connection, and all that wait on it. It returns when nothing of the monitor runs any more.
func (m *Monitor) Disconnect() error {
	m.fail(net.ErrClosed)
	m.read.Wait()
	return nil
}

// Err returns why the connection is over, or nil.
func (m *Monitor) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Missed returns how many events subscribers were too slow to take.
func (m *Monitor) Missed() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.missed
}

// fail ends the connection, once.
func (m *Monitor) fail(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	m.err = fmt.Errorf("qmp: the connection is over: %w", cause)
	for s := range m.subscribers {
		close(s.c)
	}
	clear(m.subscribers)
	close(m.dead)
	_ = m.conn.Close()
}

// loop takes what QEMU sends, until something is wrong.
func (m *Monitor) loop(greeted chan<- struct{}) error {
	limit := &limiter{r: m.conn, max: m.conf.MaxMessage}
	dec := json.NewDecoder(limit)
	for first := true; ; first = false {
		limit.used = 0
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return readError(err)
		}
		msg := &message{raw: append([]byte(nil), raw...)}
		if err := json.Unmarshal(msg.raw, msg); err != nil {
			return fmt.Errorf("%w: %.60q: %w", ErrProtocol, msg.raw, err)
		}
		switch {
		case first && msg.Greeting == nil:
			return fmt.Errorf("%w: no greeting, but %.60q", ErrProtocol, msg.raw)
		case first:
			close(greeted)
		case msg.Event != "":
			if err := m.publish(msg.raw); err != nil {
				return err
			}
		case msg.Return != nil || msg.Error != nil:
			m.deliver(msg)
		default:
			return fmt.Errorf("%w: neither a reply nor an event: %.60q", ErrProtocol, msg.raw)
		}
	}
}

// readError tells garbage from a connection that has ended.
func readError(err error) error {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// limiter refuses to read more than max bytes for one message. A decoder reads ahead, so that a message may be counted with a part of
// the next one.
type limiter struct {
	r         io.Reader
	used, max int64
}

func (l *limiter) Read(p []byte) (int, error) {
	if l.used >= l.max {
		return 0, fmt.Errorf("%w: a message of more than %d bytes", ErrProtocol, l.max)
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.max-l.used)])
	l.used += int64(n)
	return n, err
}

// deliver gives a reply to its call. One that nobody waits for any more is dropped.
func (m *Monitor) deliver(msg *message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := string(msg.ID)
	if c := m.calls[id]; c != nil {
		delete(m.calls, id)
		c <- msg // has room for one
	}
}

// publish gives an event to who wants it.
func (m *Monitor) publish(raw []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subscribers {
		var e qmp.Event // each has its own map
		if err := json.Unmarshal(raw, &e); err != nil {
			return fmt.Errorf("%w: event %.60q: %w", ErrProtocol, raw, err)
		}
		select {
		case s.c <- e:
		default:
			m.missed++
		}
	}
	return nil
}

// Events returns the events that come from now on. The channel is closed when ctx ends or the connection does.
func (m *Monitor) Events(ctx context.Context) (<-chan qmp.Event, error) {
	s := &subscriber{c: make(chan qmp.Event, m.conf.Events)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	m.subscribers[s] = struct{}{}
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := m.subscribers[s]; ok {
			delete(m.subscribers, s)
			close(s.c)
		}
	})
	m.read.Go(func() {
		select {
		case <-m.dead:
			stop()
		case <-ctx.Done():
		}
	})
	return s.c, nil
}

// Run runs a command, a JSON object, and returns the whole reply, which is the caller's. It waits for as long as the configuration says.
func (m *Monitor) Run(command []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), m.conf.Timeout,
		fmt.Errorf("no reply in %v: %w", m.conf.Timeout, os.ErrDeadlineExceeded))
	defer cancel()
	return m.RunContext(ctx, command)
}

// RunContext is Run with a context. QEMU may have taken a command whose context has ended.
func (m *Monitor) RunContext(ctx context.Context, command []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(command, &fields); err != nil {
		return nil, fmt.Errorf("qmp: command %.60q: %w", command, err)
	}
	var name string
	_ = json.Unmarshal(fields["execute"], &name) // for messages
	reply, id, err := m.begin()
	if err != nil {
		return nil, err
	}
	defer m.forget(id)
	fields = maps.Clone(fields)
	fields["id"] = json.RawMessage(id)
	text, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if err := m.send(ctx, append(text, '\n')); err != nil {
		return nil, fmt.Errorf("qmp: %s: %w", name, err)
	}
	select {
	case msg := <-reply:
		if msg.Error != nil {
			return nil, &CommandError{name, msg.Error.Class, msg.Error.Desc}
		}
		return msg.raw, nil
	case <-m.dead:
		return nil, fmt.Errorf("%s: %w", name, m.Err())
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp: %s: %w", name, context.Cause(ctx))
	}
}

// begin makes a place for a reply.
func (m *Monitor) begin() (chan *message, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, "", m.err
	}
	m.last++
	id := strconv.FormatUint(m.last, 10)
	c := make(chan *message, 1)
	m.calls[id] = c
	return c, id, nil
}

func (m *Monitor) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.calls, id)
}

// send writes a command. One that was written in part ends the connection.
func (m *Monitor) send(ctx context.Context, text []byte) error {
	m.write.Lock()
	defer m.write.Unlock()
	if err := m.conn.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = m.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := m.conn.Write(text); err != nil {
		m.fail(err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}
