package vchan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
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
	// DefaultMaxConns.
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
	base   func(self, client hypercall.DomID) string // where a client finds its offer

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	conns  chan *Conn
	until  acceptDeadline

	offers, accepted, rejected, failed atomic.Uint64
	open                               atomic.Int64
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
	l, err := newListener(d, Addr{self, fmt.Sprintf("%s/data/vchan/*/%s", xenstore.DomainPath(self), port)}, cfg,
		func(self, client hypercall.DomID) string { return portPath(self, client, port) })
	if err != nil {
		return nil, listenError(Addr{}, err)
	}
	dir, err := newDirectory(ctx, l)
	if err != nil {
		l.cancel()
		return nil, listenError(l.addr, err)
	}
	l.wg.Go(func() { l.run(dir.run) })
	return l, nil
}

// ListenPath offers one path in Xenstore, absolute, to one client, a number or a name, as libxenvchan_server_init does. The path is the
// listener's own: it is removed by Close with all below it. Clients and Any in cfg are not looked at; cfg may be nil.
func ListenPath(ctx context.Context, d *xen.Domain, client, path string, cfg *ListenConfig) (*Listener, error) {
	if cfg == nil {
		cfg = new(ListenConfig)
	}
	id, err := d.Lookup(ctx, client)
	if err == nil {
		err = checkPath(path)
	}
	if err != nil {
		return nil, listenError(Addr{}, err)
	}
	l, err := newListener(d, Addr{d.ID(), path}, cfg, func(_, _ hypercall.DomID) string { return path })
	if err != nil {
		return nil, listenError(Addr{}, err)
	}
	l.wg.Go(func() { l.run(func(ctx context.Context) { l.serve(ctx, id) }) })
	return l, nil
}

func listenError(at Addr, err error) error {
	e := &net.OpError{Op: "listen", Net: Network, Err: err}
	if at.Path != "" {
		e.Addr = at
	}
	return e
}

func newListener(d *xen.Domain, addr Addr, cfg *ListenConfig, base func(self, client hypercall.DomID) string) (*Listener, error) {
	l := &Listener{d: d, addr: addr, cfg: *cfg, conn: cfg.Config.withDefaults(), base: base, conns: make(chan *Conn)}
	l.cfg.Clients = append([]string(nil), cfg.Clients...)
	if l.cfg.MaxConns <= 0 {
		l.cfg.MaxConns = DefaultMaxConns
	}
	l.log = l.conn.Logger.With("listener", addr.String())
	l.until.init()
	var err error
	if l.layout, err = LayoutFor(l.conn.ReadRing, l.conn.WriteRing); err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

// Accept waits for a client and returns the connection, a *Conn.
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
			return nil, l.opError(net.ErrClosed)
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
		return &net.OpError{Op: "set", Net: Network, Addr: l.addr, Err: net.ErrClosed}
	}
	l.until.set(t)
	return nil
}

// Close withdraws the offers and removes them from Xenstore. Connections that were accepted go on. A second Close returns nil.
func (l *Listener) Close() error {
	l.cancel()
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

// After an offer could not be made or a client broke the protocol, the next offer to that client waits, at first so long and then twice
// as long each time.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// cleanupPatience bounds how long the end of an offer waits for Xenstore.
const cleanupPatience = 5 * time.Second

// run calls f, which makes offers until ctx is done, anew in each incarnation of the domain.
func (l *Listener) run(f func(ctx context.Context)) {
	for l.ctx.Err() == nil {
		_, next, _ := l.d.Incarnation()
		ctx, cancel := context.WithCancel(l.ctx)
		var wg sync.WaitGroup
		wg.Go(func() {
			select {
			case <-next:
				cancel()
			case <-ctx.Done():
			}
		})
		f(ctx)
		cancel()
		wg.Wait()
	}
}

// serve makes offers to one client, one after the other, until ctx is done.
func (l *Listener) serve(ctx context.Context, client hypercall.DomID) {
	base := l.base(l.d.ID(), client)
	slots := make(chan struct{}, l.cfg.MaxConns)
	opened := false
	defer func() {
		if !opened {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
		defer cancel()
		if err := l.d.Store().Remove(ctx, base); err != nil {
			l.log.Debug("vchan: removing the offer", "client", client, "err", err)
		}
	}()
	for pause := firstPause; takeSlot(ctx, slots); {
		c, err := l.next(ctx, client, base, &opened, func() { <-slots })
		if c == nil {
			<-slots
		}
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.abort()
			}
			return
		case err != nil:
			l.log.Warn("vchan: offer", "client", client, "err", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		if c == nil {
			continue
		}
		select {
		case l.conns <- c:
		case <-ctx.Done():
			c.abort()
			return
		}
	}
}

// takeSlot waits until the client may have one more connection.
func takeSlot(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// next makes an offer and waits until it is taken. It returns nil and no error where a client came and left without a byte. done is
// called when the connection is closed.
func (l *Listener) next(ctx context.Context, client hypercall.DomID, base string, opened *bool, done func()) (*Conn, error) {
	store := l.d.Store()
	if !*opened {
		if err := openBase(ctx, store, base, l.d.ID(), client); err != nil {
			l.failed.Add(1)
			return nil, err
		}
		*opened = true
	}
	o, err := newOffer(l.d, client, l.layout)
	if err != nil {
		l.failed.Add(1)
		return nil, err
	}
	if err := publish(ctx, store, base, o.ctl.Refs()[0], o.ch.Port()); err != nil {
		*opened = false // perhaps somebody removed the directory: make it anew
		l.failed.Add(1)
		l.conceal(base)
		o.withdraw()
		return nil, err
	}
	l.offers.Add(1)
	arrival, err := o.await(ctx)
	l.conceal(base)
	switch {
	case errors.As(err, new(*PeerError)):
		l.rejected.Add(1)
	case err == nil && arrival == Left:
		if n, e := o.core.In.Buffered(); n == 0 {
			o.withdraw()
			return nil, e
		}
	}
	if err != nil {
		o.withdraw()
		return nil, err
	}
	return l.newConn(o, base, done), nil
}

// conceal takes an offer out of Xenstore before its numbers can come to mean something else.
func (l *Listener) conceal(base string) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
	defer cancel()
	if err := unpublish(ctx, l.d.Store(), base); err != nil {
		l.log.Debug("vchan: taking back an offer", "path", base, "err", err)
	}
}

// newConn makes a connection of an offer that was taken.
func (l *Listener) newConn(o *offer, base string, done func()) *Conn {
	l.open.Add(1)
	var stop func()
	c := newConn(o.core, o.ctl.Region(), o.ch, Addr{l.d.ID(), base}, Addr{o.client, base}, &l.conn, func() {
		stop()
		o.free()
		l.open.Add(-1)
		done()
	})
	stop = c.follow(l.d, o.client)
	return c
}

// sleep waits for a time, and reports false if ctx was done before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
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
