package xen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// Config configures a [Domain]. Zero fields are defaults.
type Config struct {
	Grants *grant.Config
	Events *evtchn.Config
	Store  *xenstore.Config
	Ring   *xenstore.RingConfig // the ring to Xenstore, where the domain has one
	Logger *slog.Logger         // takes what goes wrong; the default is silence
}

// ErrStale is what a handle of an earlier incarnation of the domain answers.
var ErrStale = hypercall.ErrStale

// startTimeout bounds how long Xenstore may take to tell a domain who it is.
const startTimeout = 30 * time.Second

// Domain is the domain that this program is, or speaks for: its identity, its grants, its event channels and its connection to
// Xenstore. It is safe for concurrent use.
//
// A domain that is suspended and resumed (saved and restored, or migrated) goes on as another incarnation, perhaps with another
// number. What was made before then (shares, mappings, channels, connections, watches) answers [ErrStale], while Grants, Events and
// Store work on for the new one. [Domain.Incarnation] tells when that happens.
type Domain struct {
	p    platform
	life context.Context // done when the domain was closed, or has ended
	end  context.CancelFunc
	log  *slog.Logger

	resuming sync.Mutex // held while an incarnation is started; mu may be taken with it held

	mu sync.Mutex
	// +checklocks:mu
	id hypercall.DomID
	// +checklocks:mu
	name string
	// +checklocks:mu
	store *xenstore.Client
	// +checklocks:mu
	stores []*xenstore.Client // that are open: of the present incarnation, and of one whose start failed
	// +checklocks:mu
	number uint64
	// +checklocks:mu
	changed chan struct{}
	// +checklocks:mu
	giveUp context.CancelFunc // ends the last resume; nil before the first
	// +checklocks:mu
	broken error // why the last resume failed
	// +checklocks:mu
	closed bool
}

// NewDomain starts the native grant table, event channels and Xenstore client of the domain on m, and learns from Xenstore who it is.
// It takes m over, and Close closes it. ctx bounds the start only. Most programs call [Open]; simulators and bare guests call this.
func NewDomain(ctx context.Context, m Machine, cfg *Config) (*Domain, error) {
	n := &native{m: m}
	if cfg != nil {
		n.cfg = *cfg
	}
	return open(ctx, n, cfg)
}

// open starts the domain on p, which it takes over.
func open(ctx context.Context, p platform, cfg *Config) (*Domain, error) {
	d := &Domain{p: p, log: slog.New(slog.DiscardHandler), changed: make(chan struct{}), number: 1}
	d.life, d.end = context.WithCancel(context.Background())
	if cfg != nil && cfg.Logger != nil {
		d.log = cfg.Logger
	}
	if err := d.begin(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("xen: start the domain: %w", err)
	}
	p.onResume(d.resume)
	p.onEnd(func() { d.Close() })
	return d, nil
}

// begin starts the first incarnation, with a context that also ends when the domain does.
func (d *Domain) begin(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.p.onEnd(cancel)
	// A machine in another process may be paused: then its calls wait, and closing it is what ends them.
	defer context.AfterFunc(ctx, d.p.abort)()
	err := d.p.start(ctx)
	if err == nil {
		err = d.connect(ctx)
	}
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// connect connects to Xenstore, and reads who the domain is.
func (d *Domain) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := d.p.dialStore(ctx)
	if err != nil {
		return fmt.Errorf("xenstore: %w", err)
	}
	if !d.adoptStore(client) {
		client.Close()
		return net.ErrClosed
	}
	id, name, err := identity(ctx, client)
	if err == nil {
		err = d.p.connected(ctx, client, id)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id, d.name, d.store = id, name, client
	return nil
}

// adoptStore has the client be closed with its incarnation, or with the domain, unless that has happened already.
func (d *Domain) adoptStore(c *xenstore.Client) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.stores = append(d.stores, c)
	return true
}

// closeStores closes the connections to Xenstore of earlier incarnations.
func (d *Domain) closeStores() error {
	d.mu.Lock()
	stores := d.stores
	d.stores = nil
	d.mu.Unlock()
	var errs []error
	for _, s := range stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// identity reads the domain's number and name. A domain without a name is no error.
func identity(ctx context.Context, c *xenstore.Client) (hypercall.DomID, string, error) {
	text, err := c.Read(ctx, "domid")
	if err != nil {
		return 0, "", fmt.Errorf("which domain this is: %w", err)
	}
	id, err := xenstore.ParseDomID(string(text))
	if err != nil {
		return 0, "", fmt.Errorf("which domain this is: %w", err)
	}
	name, err := c.Read(ctx, "name")
	if err != nil {
		return id, "", nil
	}
	return id, string(name), nil
}

// resume starts the next incarnation. Where the domain becomes yet another one meanwhile, what the earlier call waits for will not come:
// the later call ends it, and then starts anew.
func (d *Domain) resume() {
	ctx, cancel := context.WithCancel(d.life)
	defer cancel()
	d.supersede(cancel)
	d.resuming.Lock()
	defer d.resuming.Unlock()
	err := d.restart(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.number++
	d.broken = err
	close(d.changed)
	d.changed = make(chan struct{})
	if err != nil {
		d.log.Error("xen: the domain could not be resumed", "err", err)
	}
}

// supersede ends the resume before this one, if it is under way, and has cancel end this one.
func (d *Domain) supersede(cancel context.CancelFunc) {
	d.mu.Lock()
	before := d.giveUp
	d.giveUp = cancel
	d.mu.Unlock()
	if before != nil {
		before()
	}
}

func (d *Domain) restart(ctx context.Context) error {
	if err := d.p.restart(d.closeStores); err != nil {
		return err
	}
	return d.connect(ctx)
}

// ID returns the domain's number in its present incarnation.
func (d *Domain) ID() hypercall.DomID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// Name returns the domain's name, or "" where it has none.
func (d *Domain) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.name
}

// Grants returns the domain's grant table.
func (d *Domain) Grants() grant.Table { return d.p.grants() }

// Events returns the domain's event channels.
func (d *Domain) Events() evtchn.Table { return d.p.events() }

// Store returns the domain's connection to Xenstore in its present incarnation.
func (d *Domain) Store() *xenstore.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.store
}

// Incarnation counts the domain's incarnations from 1. The channel is closed when the next one has begun; err says what, if anything,
// could not be started again in the present one.
func (d *Domain) Incarnation() (number uint64, next <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.number, d.changed, d.broken
}

// Done returns a channel that is closed when the domain has ended under its program (it was destroyed, or its host went away), or was
// closed.
func (d *Domain) Done() <-chan struct{} { return d.life.Done() }

// Close ends this program's use of the domain: what it shares is ended, what it has mapped is unmapped, its channels are closed. A
// second Close returns nil.
func (d *Domain) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.end()

	var errs []error
	for _, err := range append([]error{d.closeStores()}, d.p.close()...) {
		// Where the domain has ended, or become another incarnation at this moment, what there was has gone with it.
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrStale) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
