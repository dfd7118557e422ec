package vchan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// DefaultMaxConns is how many connections a listener has at a time with one client, by default.
const DefaultMaxConns = 128

// ListenConfig says how a listener behaves and whom it serves. A nil *ListenConfig serves nobody, so Listen refuses it.
type ListenConfig struct {
	// Config is that of the connections.
	Config
	// Clients are the domains that are served, by number or by name. A name need not exist yet if this domain may watch for new domains.
	Clients []string
	// Any serves every domain. It needs the right to list the domains and to watch for new ones.
	Any bool
	// MaxConns is how many connections there may be at a time with one client; while there are so many, nothing is offered to it. 0 is
	// DefaultMaxConns. Where there are several clients it is fewer if the grant table has no room for as many with each of them.
	MaxConns int
}

// Listener offers a port to clients, a [net.Listener]. For each client there is one offer at a time, and a fresh one, with fresh zeroed
// pages, as soon as it is taken. A client that does not come, or breaks the protocol, does not hold up the others. It is safe for
// concurrent use.
type Listener struct {
	d      *xen.Domain
	addr   Addr
	cfg    ListenConfig
	conn   Config // with defaults
	layout Layout
	log    *slog.Logger
	port   string // where a client finds its offer, unless path is set
	path   string

	ctx    context.Context // ends with Close, or with the domain; its cause is what Accept says then
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	conns  chan *Conn
	until  acceptDeadline

	offers, accepted, rejected, failed atomic.Uint64
	open                               atomic.Int64
	clients                            atomic.Int64 // that are served
}

var _ net.Listener = (*Listener)(nil)

// Listen offers port to the clients of cfg, each at data/vchan/<client>/<port> below this domain's home in Xenstore. When it returns,
// the offers for clients given by number are being made. ctx is for Listen itself; the listener goes on until Close.
func Listen(ctx context.Context, d *xen.Domain, port string, cfg *ListenConfig) (*Listener, error) {
	if err := checkPort(port); err != nil {
		return nil, listenError(Addr{}, err)
	}
	if cfg == nil || !cfg.Any && len(cfg.Clients) == 0 {
		return nil, listenError(Addr{}, errors.New("no client is given"))
	}
	self := d.ID()
	at := Addr{self, fmt.Sprintf("%s/data/vchan/*/%s", xenstore.DomainPath(self), port)}
	return listen(ctx, &Listener{d: d, addr: at, cfg: *cfg, port: port})
}

// ListenPath offers one path in Xenstore, absolute, to one client, a number or a name, as libxenvchan_server_init does. The path is the
// listener's own: Close removes it, unless somebody has put other things below it. A name is served whatever number it has. Clients and
// Any in cfg are not looked at; cfg may be nil.
func ListenPath(ctx context.Context, d *xen.Domain, client, path string, cfg *ListenConfig) (*Listener, error) {
	if cfg == nil {
		cfg = new(ListenConfig)
	}
	if err := checkPath(path); err != nil {
		return nil, listenError(Addr{}, err)
	}
	l := &Listener{d: d, addr: Addr{d.ID(), path}, cfg: *cfg, path: path}
	l.cfg.Clients, l.cfg.Any = []string{client}, false
	return listen(ctx, l)
}

// listen starts a listener of which the caller has set what it listens at.
func listen(ctx context.Context, l *Listener) (*Listener, error) {
	if err := l.init(); err != nil {
		return nil, listenError(l.addr, err)
	}
	dir, err := newDirectory(ctx, l)
	if err == nil {
		err = listening.claim(l.place())
	}
	if err != nil {
		l.cancel(err)
		return nil, listenError(l.addr, err)
	}
	l.wg.Go(func() {
		defer listening.release(l.place())
		l.run(dir.run)
	})
	return l, nil
}

// listening is where the listeners of this process listen. Two at one place would take each other's offers away.
var listening = placeSet{taken: make(map[place]bool)}

type placeSet struct {
	mu sync.Mutex
	// +checklocks:mu
	taken map[place]bool
}

// place is a domain, and a port or a path.
type place struct {
	d          *xen.Domain
	port, path string
}

func (l *Listener) place() place { return place{l.d, l.port, l.path} }

func (s *placeSet) claim(p place) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[p] {
		return syscall.EADDRINUSE
	}
	s.taken[p] = true
	return nil
}

func (s *placeSet) release(p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, p)
}

func listenError(at Addr, err error) error {
	e := &net.OpError{Op: "listen", Net: Network, Err: err}
	if at.Path != "" {
		e.Addr = at
	}
	return e
}

func (l *Listener) init() (err error) {
	l.conn, l.conns = l.cfg.Config.withDefaults(), make(chan *Conn)
	l.cfg.Clients = append([]string(nil), l.cfg.Clients...)
	if l.cfg.MaxConns <= 0 {
		l.cfg.MaxConns = DefaultMaxConns
	}
	l.log = l.conn.Logger.With("listener", l.addr.String())
	l.until.init()
	if l.layout, err = LayoutFor(l.conn.ReadRing, l.conn.WriteRing); err != nil {
		return err
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return nil
}

// root returns the node below which all offers are, or the only one is.
func (l *Listener) root(self hypercall.DomID) string {
	if l.path != "" {
		return l.path
	}
	return xenstore.DomainPath(self) + "/data/vchan"
}

// newClient returns a client that nothing is offered to yet.
func (l *Listener) newClient(id hypercall.DomID, wanted func(context.Context, hypercall.DomID) bool) *client {
	base := l.path
	if base == "" {
		base = portPath(l.d.ID(), id, l.port)
	}
	return &client{l: l, id: id, base: base, wanted: wanted, look: make(chan struct{}, 1), slots: make(chan struct{}, l.cfg.MaxConns)}
}

// tidy removes the node above a client's offers when the last port there has gone. One client at a time is tidied up, so that of the few
// transactions that a domain may have this takes one.
func (l *Listener) tidy(c *client) {
	if l.path != "" || !c.touched {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
	defer cancel()
	err := l.d.Store().Transaction(ctx, func(tx *xenstore.Tx) error { return removeEmpty(ctx, tx, path.Dir(c.base)) })
	if err != nil {
		l.log.Debug("vchan: removing the client's directory", "client", c.id, "err", err)
	}
}

// Accept waits for a client and returns the connection, a *Conn. After Close it returns net.ErrClosed, and when this domain has ended
// ErrEnded.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.AcceptVchan()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// AcceptVchan is Accept with the connection's own type.
func (l *Listener) AcceptVchan() (*Conn, error) {
	for {
		over, changed := l.until.state()
		switch {
		case l.ctx.Err() != nil:
			return nil, l.opError(context.Cause(l.ctx))
		case over:
			return nil, l.opError(os.ErrDeadlineExceeded)
		}
		select {
		case c := <-l.conns:
			l.accepted.Add(1)
			return c, nil
		case <-changed:
		case <-l.ctx.Done():
		}
	}
}

func (l *Listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: Network, Addr: l.addr, Err: err}
}

// SetDeadline sets the deadline of Accepts; the zero time is none.
func (l *Listener) SetDeadline(t time.Time) error {
	if l.ctx.Err() != nil {
		return &net.OpError{Op: "set", Net: Network, Addr: l.addr, Err: context.Cause(l.ctx)}
	}
	l.until.set(t)
	return nil
}

// Close withdraws the offers and removes them from Xenstore. Connections that were accepted go on. A second Close returns nil.
func (l *Listener) Close() error {
	l.cancel(net.ErrClosed)
	l.wg.Wait()
	l.until.set(time.Time{})
	return nil
}

// Addr returns this domain and the path of the offers, with "*" in the place of the client's number where there are several.
func (l *Listener) Addr() net.Addr { return l.addr }

// ListenerStats counts what a Listener did and holds.
type ListenerStats struct {
	Offers   uint64 // made
	Accepted uint64 // returned by Accept
	Rejected uint64 // clients that broke the protocol before they were connected
	Failed   uint64 // offers that could not be made
	Open     int    // connections that are not closed yet
}

// Stats returns the counters.
func (l *Listener) Stats() ListenerStats {
	return ListenerStats{
		Offers: l.offers.Load(), Accepted: l.accepted.Load(), Rejected: l.rejected.Load(), Failed: l.failed.Load(),
		Open: int(l.open.Load()),
	}
}

// run calls f, which makes offers until ctx is done, anew in each incarnation of the domain. It ends with the listener or the domain.
func (l *Listener) run(f func(ctx context.Context)) {
	for l.ctx.Err() == nil {
		_, next, _ := l.d.Incarnation()
		ctx, cancel := context.WithCancel(l.ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			select {
			case <-next:
				cancel()
			case <-l.d.Done():
				l.cancel(ErrEnded)
			case <-ctx.Done():
			}
		})
		f(ctx)
		cancel()
		wg.Wait()
	}
}

// newConn makes a connection of an offer that was taken.
func (l *Listener) newConn(h *home, o *offer, base string, done func()) *Conn {
	l.open.Add(1)
	var stop func()
	c := newConn(h, o.core, o.ctl.Region(), o.ch, Addr{l.d.ID(), base}, Addr{o.client, base}, &l.conn, func() {
		stop()
		o.free()
		l.open.Add(-1)
		done()
	})
	stop = c.follow(l.d, o.client)
	return c
}

// acceptDeadline is a deadline that can be waited for together with other things.
type acceptDeadline struct {
	mu sync.Mutex
	// +checklocks:mu
	when time.Time
	// +checklocks:mu
	changed chan struct{} // closed when the deadline passes or is set anew
	// +checklocks:mu
	timer *time.Timer
}

func (a *acceptDeadline) init() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed = make(chan struct{})
}

func (a *acceptDeadline) set(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.when = t
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if !t.IsZero() {
		a.timer = time.AfterFunc(time.Until(t), a.renew)
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

// renew makes whoever waits look again.
func (a *acceptDeadline) renew() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// state reports whether the deadline has passed, and what will tell of a change.
func (a *acceptDeadline) state() (over bool, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.when.IsZero() && !time.Now().Before(a.when), a.changed
}
