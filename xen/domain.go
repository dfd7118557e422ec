package xen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/shm"
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
	m      Machine
	life   context.Context // done when the domain was closed, or has ended
	end    context.CancelFunc
	log    *slog.Logger
	cfg    Config
	grants *grant.Native
	events *evtchn.Native
	info   hypercall.GFN // where shared_info is

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
	shared *shm.Region // shared_info
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
	d := &Domain{m: m, changed: make(chan struct{}), number: 1}
	d.life, d.end = context.WithCancel(context.Background())
	if cfg != nil {
		d.cfg = *cfg
	}
	d.log = d.cfg.Logger
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if err := d.begin(ctx); err != nil {
		d.Close()
		return nil, fmt.Errorf("xen: start the domain: %w", err)
	}
	m.SetResume(d.resume)
	m.SetEnd(func() { d.Close() })
	return d, nil
}

// begin is start with a context that also ends when the domain does.
func (d *Domain) begin(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.m.SetEnd(cancel)
	// A machine in another process may be paused: then its calls wait, and closing it is what ends them.
	defer context.AfterFunc(ctx, func() { d.m.Close() })()
	err := d.start(ctx)
	if err != nil && ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

func (d *Domain) start(ctx context.Context) error {
	var err error
	if d.info, err = d.m.Reserve(1); err != nil {
		return fmt.Errorf("shared_info: %w", err)
	}
	shared, err := d.mapSharedInfo()
	if err != nil {
		return err
	}
	if d.events, err = evtchn.NewNative(d.m, shared, d.cfg.Events); err != nil {
		return err
	}
	d.m.SetUpcall(d.events.Upcall)
	if d.grants, err = grant.NewNative(d.m, d.m, d.cfg.Grants); err != nil {
		return err
	}
	return d.connect(ctx)
}

// mapSharedInfo has Xen put shared_info into the domain's address space.
func (d *Domain) mapSharedInfo() (*shm.Region, error) {
	if err := hypercall.AddToPhysmap(d.m, hypercall.DomSelf, hypercall.SpaceSharedInfo, 0, d.info); err != nil {
		return nil, fmt.Errorf("shared_info: %w", err)
	}
	shared, err := d.m.View(d.info, 1, true)
	if err != nil {
		return nil, fmt.Errorf("shared_info: %w", err)
	}
	if !d.adoptSharedInfo(shared) {
		shared.Close()
		return nil, net.ErrClosed
	}
	return shared, nil
}

func (d *Domain) adoptSharedInfo(shared *shm.Region) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.shared = shared
	return true
}

// connect connects to Xenstore over the page and the port that the toolstack gave the domain, and reads who the domain is.
func (d *Domain) connect(ctx context.Context) error {
	client, err := d.dialStore()
	if err != nil {
		return fmt.Errorf("xenstore: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if !d.adoptStore(client) {
		client.Close()
		return net.ErrClosed
	}
	id, name, err := identity(ctx, client)
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

func (d *Domain) dialStore() (*xenstore.Client, error) {
	pfn, err := hypercall.GetParam(d.m, hypercall.DomSelf, hypercall.ParamStorePFN)
	if err != nil {
		return nil, err
	}
	port, err := hypercall.GetParam(d.m, hypercall.DomSelf, hypercall.ParamStoreEvtchn)
	if err != nil {
		return nil, err
	}
	if absent(pfn) || absent(port) || port > uint64(^uint32(0)) {
		return nil, fmt.Errorf("the toolstack gave the domain no page (frame %#x) or port (%d) for it", pfn, port)
	}
	page, err := d.m.View(hypercall.GFN(pfn), 1, true)
	if err != nil {
		return nil, err
	}
	ch, err := d.events.Adopt(hypercall.Port(port))
	if err != nil {
		page.Close()
		return nil, err
	}
	conn, err := xenstore.NewRingConn(page, ch, xenstore.RoleClient, d.cfg.Ring)
	if err != nil {
		ch.Close()
		page.Close()
		return nil, err
	}
	return xenstore.NewClient(&ringAndPage{conn, page}, d.cfg.Store), nil
}

// ringAndPage closes the page after the ring on it.
type ringAndPage struct {
	*xenstore.RingConn
	page *shm.Region
}

func (r *ringAndPage) Close() error { return errors.Join(r.RingConn.Close(), r.page.Close()) }

// absent reports whether an HVM parameter says that a thing is not there: 0 or all ones do.
func absent(v uint64) bool { return v == 0 || v == ^uint64(0) }

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
	old := d.sharedInfo()
	shared, err := d.mapSharedInfo()
	if err != nil {
		return err
	}
	if err := d.events.Resume(shared); err != nil {
		return err
	}
	d.closeStores() // not before: until then their port would be taken for one of the new incarnation
	old.Close()
	if err := d.grants.Resume(); err != nil {
		return err
	}
	return d.connect(ctx)
}

func (d *Domain) sharedInfo() *shm.Region {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shared
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
func (d *Domain) Grants() grant.Table { return d.grants }

// Events returns the domain's event channels.
func (d *Domain) Events() evtchn.Table { return d.events }

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
	shared := d.shared
	d.mu.Unlock()
	d.end()

	var errs []error
	add := func(err error) {
		// Where the domain has ended, or become another incarnation at this moment, what there was has gone with it.
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrStale) {
			errs = append(errs, err)
		}
	}
	add(d.closeStores())
	if d.grants != nil {
		add(d.grants.Close())
	}
	if d.events != nil {
		add(d.events.Close())
	}
	add(d.m.Close())
	if shared != nil {
		add(shared.Close())
	}
	return errors.Join(errs...)
}
