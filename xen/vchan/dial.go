package vchan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// Dial connects to the port of the domain remote, a number or a name, and waits until something is offered there or ctx is done. It
// fails at once if there is no such domain or if what is offered breaks the protocol.
func Dial(ctx context.Context, d *xen.Domain, remote, port string, cfg *Config) (*Conn, error) {
	server, err := d.Lookup(ctx, remote)
	if err == nil {
		err = checkPort(port)
	}
	if err != nil {
		return nil, dialError(Addr{}, err)
	}
	return dial(ctx, d, Addr{server, portPath(server, d.ID(), port)}, cfg)
}

// DialPath connects to what the domain remote, a number or a name, offers at an absolute path in Xenstore, as libxenvchan_client_init
// does. It waits as [Dial] does.
func DialPath(ctx context.Context, d *xen.Domain, remote, path string, cfg *Config) (*Conn, error) {
	server, err := d.Lookup(ctx, remote)
	if err == nil {
		err = checkPath(path)
	}
	if err != nil {
		return nil, dialError(Addr{}, err)
	}
	return dial(ctx, d, Addr{server, path}, cfg)
}

// Dialer dials by addresses, in the form that [net/http.Transport] wants for its DialContext.
type Dialer struct {
	Domain *xen.Domain // who dials
	Config *Config
}

// DialContext dials "domain:port" or "domain:/path", where domain is a number or a name. It does not look at network.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	domain, rest, err := splitAddr(addr)
	if err != nil {
		return nil, dialError(Addr{}, err)
	}
	connect := Dial
	if strings.HasPrefix(rest, "/") {
		connect = DialPath
	}
	c, err := connect(ctx, d.Domain, domain, rest, d.Config)
	if err != nil {
		return nil, err // not c, which would be a net.Conn that is not nil
	}
	return c, nil
}

func dialError(to Addr, err error) error {
	e := &net.OpError{Op: "dial", Net: Network, Err: err}
	if to.Path != "" {
		e.Addr = to
	}
	return e
}

// dialTurns lets one dial of this process at a time try a path: several would only take the same offer from each other, and wake each
// other for every new one.
var dialTurns = turnByTarget{of: make(map[dialTarget]*dialTurn)}

type turnByTarget struct {
	mu sync.Mutex
	// +checklocks:mu
	of map[dialTarget]*dialTurn
}

type dialTarget struct {
	d  *xen.Domain
	to Addr
}

type dialTurn struct {
	free chan struct{} // of capacity 1
	n    int           // who has it or waits for it; guarded by dialTurns.mu
}

// takeDialTurn waits for the turn to dial an address.
func takeDialTurn(ctx context.Context, target dialTarget) (leave func(), err error) {
	t := joinDialTurn(target)
	select {
	case <-t.free:
		return func() {
			t.free <- struct{}{}
			forgetDialTurn(target, t)
		}, nil
	case <-ctx.Done():
		forgetDialTurn(target, t)
		return nil, ctx.Err()
	}
}

func joinDialTurn(target dialTarget) *dialTurn {
	dialTurns.mu.Lock()
	defer dialTurns.mu.Unlock()
	t := dialTurns.of[target]
	if t == nil {
		t = &dialTurn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		dialTurns.of[target] = t
	}
	t.n++
	return t
}

func forgetDialTurn(target dialTarget, t *dialTurn) {
	dialTurns.mu.Lock()
	defer dialTurns.mu.Unlock()
	if t.n--; t.n == 0 {
		delete(dialTurns.of, target)
	}
}

// Between attempts to take an offer that is there but cannot be taken (another client of this domain has it, or its server has died),
// and where Xenstore allows no more watches, dialling looks again after these times.
const (
	firstRetry = 2 * time.Millisecond
	lastRetry  = 250 * time.Millisecond
)

func dial(ctx context.Context, d *xen.Domain, to Addr, cfg *Config) (*Conn, error) {
	full := cfg.withDefaults()
	leave, err := takeDialTurn(ctx, dialTarget{d, to})
	if err != nil {
		return nil, dialError(to, err)
	}
	defer leave()
	c, err := attach(ctx, d, to, &full)
	if errors.Is(err, errNoOffer) {
		c, err = dialPatiently(ctx, d, to, &full, err)
	}
	if err != nil && ended(d) {
		err = fmt.Errorf("%w (%w)", ErrEnded, err)
	}
	if err != nil {
		return nil, dialError(to, err)
	}
	return c, nil
}

// dialPatiently tries whenever the offer may have changed. last is why there was nothing to take before.
func dialPatiently(ctx context.Context, d *xen.Domain, to Addr, cfg *Config, last error) (*Conn, error) {
	store := d.Store()
	if yes, known := exists(ctx, store, to.Dom); known && !yes {
		return nil, fmt.Errorf("domain %d: %w", to.Dom, fs.ErrNotExist)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := onRelease(d, to.Dom, func(introduced bool, err error) {
		if err == nil && !introduced {
			cancel(fmt.Errorf("domain %d has gone: %w", to.Dom, fs.ErrNotExist))
		}
	})
	defer stop()

	var changes <-chan xenstore.Event // blocks for ever where no watch is to be had
	w, err := store.Watch(ctx, to.Path+"/"+keyEventChannel, nil)
	if err == nil {
		defer w.Close()
		changes = w.C()
	}
	retry := time.NewTimer(firstRetry)
	defer retry.Stop()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		select {
		case _, ok := <-changes:
			if !ok {
				changes = nil // the connection to Xenstore has failed: the attempt will say how
			}
		case <-retry.C:
		case <-ctx.Done():
			return nil, &waitError{context.Cause(ctx), last}
		}
		c, err := attach(ctx, d, to, cfg)
		if !errors.Is(err, errNoOffer) {
			return c, err
		}
		if yes, known := exists(ctx, store, to.Dom); known && !yes {
			return nil, fmt.Errorf("domain %d has gone: %w", to.Dom, fs.ErrNotExist)
		}
		last = err
		retry.Reset(pause)
	}
}

// waitError says why dialling was given up, and what was in its way until then.
type waitError struct{ cause, last error }

func (e *waitError) Error() string { return fmt.Sprintf("%v (%v)", e.cause, e.last) }
func (e *waitError) Unwrap() error { return e.cause }

// Timeout has net.OpError say that it was a timeout.
func (e *waitError) Timeout() bool { return errors.Is(e.cause, context.DeadlineExceeded) }

// exists reports whether a domain exists, and whether this one can tell. Guests may not be allowed to ask, nor to list the domains.
func exists(ctx context.Context, store *xenstore.Client, dom hypercall.DomID) (yes, known bool) {
	if yes, err := store.IsIntroduced(ctx, dom); err == nil {
		return yes, true
	}
	names, err := store.List(ctx, "/local/domain")
	return slices.Contains(names, strconv.Itoa(int(dom))), err == nil
}

// attachment is what a client holds of a vchan.
type attachment struct {
	maps []grant.Mapping // the control page first
	ch   evtchn.Channel
}

// free gives everything back. The control page goes while the channel is still open: the platform may have to send the last event.
func (a *attachment) free() {
	for i := len(a.maps) - 1; i >= 0; i-- {
		_ = a.maps[i].Close() // what could not be unmapped the table keeps and counts
	}
	if a.ch != nil {
		_ = a.ch.Close()
	}
}

// attach takes the offer at an address. The error wraps errNoOffer where there is none, or none that is still good.
func attach(ctx context.Context, d *xen.Domain, to Addr, cfg *Config) (*Conn, error) {
	h := homeOf(d)
	ref, port, err := readOffer(ctx, d.Store(), to.Path, to.Dom)
	if err != nil {
		return nil, err
	}
	a := new(attachment)
	core, err := a.connect(ctx, d, to, ref, port)
	if err != nil {
		a.free()
		return nil, err
	}
	var stop func()
	c := newConn(h, core, a.maps[0].Region(), a.ch, Addr{d.ID(), to.Path}, to, cfg, func() {
		stop()
		a.free()
	})
	stop = c.follow(d, to.Dom)
	return c, nil
}

// connect maps the memory, binds the channel, and takes the offer.
func (a *attachment) connect(ctx context.Context, d *xen.Domain, to Addr, ref hypercall.GrantRef, port hypercall.Port) (*Core, error) {
	server := to.Dom
	ctl, err := a.mapPages(d, server, []hypercall.GrantRef{ref}, grant.ReadWrite)
	if err != nil {
		return nil, err
	}
	h, err := ReadHeader(ctl)
	if err != nil {
		return nil, err
	}
	// Xen lets one client bind a port: another that came at the same time has lost here.
	if a.ch, err = d.Events().BindInterdomain(server, port); err != nil {
		return nil, stale(fmt.Errorf("event channel: %w", err))
	}
	if err := stillOffered(ctx, d.Store(), to.Path, ref, port); err != nil {
		return nil, err
	}
	left, err := a.mapPages(d, server, h.LeftRefs, grant.ReadWrite)
	if err != nil {
		return nil, err
	}
	right, err := a.mapPages(d, server, h.RightRefs, grant.ReadOnly)
	if err != nil {
		return nil, err
	}
	core, err := NewClient(ctl, left, right, h)
	if err != nil {
		return nil, err
	}
	return core, a.claim(core)
}

// claim takes the offer. The platform is told before what to do if this domain dies, so that there is no moment in which the server
// would not learn of it.
func (a *attachment) claim(core *Core) error {
	ctl := a.maps[0]
	if err := notifyDeath(ctl, offCliLive, a.ch.Port()); err != nil {
		return fmt.Errorf("notification of this domain's death: %w", err)
	}
	if err := core.Connect(); err != nil {
		// The live byte is another client's: letting go of the page must not clear it.
		return errors.Join(fmt.Errorf("%w: %w", errNoOffer, err), forgetDeath(ctl))
	}
	if err := a.ch.Notify(); err != nil {
		core.Close()
		return err
	}
	return nil
}

// mapPages maps pages of the server. It returns nil for no page.
func (a *attachment) mapPages(d *xen.Domain, server hypercall.DomID, refs []hypercall.GrantRef, access grant.Access) (*shm.Region, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	m, err := d.Grants().Map(server, refs, access)
	if err != nil {
		return nil, stale(err)
	}
	a.maps = append(a.maps, m)
	return m.Region(), nil
}

// stale marks the refusals by which Xen says that a reference or a port is not, or no longer, meant for this domain, as errNoOffer: a
// server that has renewed its offer or died explains them. Others, such as that this domain has no port or frame number left, do not
// pass by waiting for another offer.
func stale(err error) error {
	var m *grant.MapError
	if errors.As(err, &m) && !slices.ContainsFunc(m.Statuses, notOfOffer) || isOneOf(err, refusals) {
		return fmt.Errorf("%w: %w", errNoOffer, err)
	}
	return err
}

// refusals are what EVTCHNOP_bind_interdomain answers for a port that is not unbound or not for this domain, and for a domain that is no
// more (evtchn_bind_interdomain in xen/common/event_channel.c).
var refusals = []error{hypercall.EINVAL, hypercall.ESRCH, hypercall.EPERM, hypercall.EACCES}

func isOneOf(err error, of []error) bool {
	return slices.ContainsFunc(of, func(e error) bool { return errors.Is(err, e) })
}

// notOfOffer reports whether a status of GNTTABOP_map_grant_ref says something else than that the reference is no good.
func notOfOffer(s hypercall.GrantStatus) bool {
	switch s {
	case hypercall.StatusOkay, hypercall.StatusGeneralError, hypercall.StatusBadDomain, hypercall.StatusBadGntRef,
		hypercall.StatusPermissionDenied, hypercall.StatusBadPage, hypercall.StatusEagain:
		return false
	}
	return true
}
