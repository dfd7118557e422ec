package sim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// DomainConfig configures a domain. Zero fields are defaults.
type DomainConfig struct {
	// Name is what others can call it in place of its number: no number, and no other domain's. The default is "domain-N".
	Name string
	// ID is the domain's number; 0 has the host choose the next one. Dom0 makes it domain 0.
	ID         hypercall.DomID
	Dom0       bool
	Privileged bool // may act for other domains, as domain 0 may; Dom0 implies it
	// ABI is that of the domain's shared_info and hypercalls. The default is X86_64.
	ABI    hypercall.ABI
	Limits Limits
	// External has the domain be joined by another process, which claims it by its token: [Domain.Xen] returns nil.
	External bool
	// Xen configures the domain's half, which runs in this process unless External is set.
	Xen *xen.Config
}

// Domain is a domain of a simulated host, seen from outside: by Xen and the toolstack. What runs in it sees its [Domain.Xen].
// It is safe for concurrent use.
type Domain struct {
	host     *Host
	name     string
	token    string
	external *external // the process that is the domain; nil for a domain of this process
	vcpu     vcpu
	gen      atomic.Uint32 // guest.gen, to be read without the lock
	gone     chan struct{} // closed when the domain has been destroyed and taken out of Xenstore

	// life is held while the toolstack does something to the domain that takes more than one step. No call of the domain, and nothing
	// that the domain can hold up, is waited for with it held.
	life sync.Mutex

	// +checklocks:host.mu
	guest *guest
	// +checklocks:host.mu
	onResume func()
	// +checklocks:host.mu
	unheard bool // a resume that nobody was told of
	// +checklocks:host.mu
	onEnd func()

	mu sync.Mutex
	// +checklocks:mu
	xen *xen.Domain
	// +checklocks:mu
	storeConn *storeConn
}

// ErrDestroyed is what a domain's hypercalls answer after it was destroyed. It is a net.ErrClosed.
var ErrDestroyed = fmt.Errorf("sim: the domain was destroyed: %w", net.ErrClosed)

// NewDomain makes a domain and starts it: its memory, grant table, event channels and Xenstore connection are there, and its
// [Domain.Xen] is ready to use.
func (h *Host) NewDomain(cfg *DomainConfig) (*Domain, error) {
	var c DomainConfig
	if cfg != nil {
		c = *cfg
	}
	d, err := h.create(c)
	if err != nil {
		return nil, errNewDomain(c.Name, err)
	}
	if err := d.start(c); err != nil {
		return nil, errNewDomain(d.name, errors.Join(err, d.Destroy()))
	}
	return d, nil
}

// NewBare makes a domain of this process in which nothing runs: what a domain's program would do, the caller does on the machine, one
// hypercall after the other. It is for tests and explorers of native code.
func (h *Host) NewBare(cfg *DomainConfig) (*Domain, xen.Machine, error) {
	var c DomainConfig
	if cfg != nil {
		c = *cfg
	}
	d, err := h.create(c)
	if err != nil {
		return nil, nil, errNewDomain(c.Name, err)
	}
	if err := d.introduce(true); err != nil {
		return nil, nil, errNewDomain(d.name, errors.Join(err, d.Destroy()))
	}
	return d, &machine{d}, nil
}

// create builds what Xen's toolstack builds before it starts a domain. Where its name is that of a domain whose process has gone, it waits
// until the host knows that, too.
func (h *Host) create(c DomainConfig) (*Domain, error) {
	for {
		d, err := h.tryCreate(c)
		taken, ok := errors.AsType[*nameTakenError](err)
		if !ok || taken.by.external == nil || !taken.by.external.hungUp() {
			return d, err
		}
		<-taken.by.gone
	}
}

// nameTakenError says that another domain has the name.
type nameTakenError struct{ by *Domain }

func (e *nameTakenError) Error() string {
	return fmt.Sprintf("domain %d has this name: %v", e.by.ID(), hypercall.EEXIST)
}

func (e *nameTakenError) Unwrap() error { return hypercall.EEXIST }

func (h *Host) tryCreate(c DomainConfig) (*Domain, error) {
	if c.ABI > hypercall.ARM64 {
		return nil, fmt.Errorf("no such ABI: %d", c.ABI)
	}
	if _, err := strconv.ParseUint(c.Name, 10, 64); err == nil {
		return nil, fmt.Errorf("a name that is a number, as domains have one: %w", hypercall.EINVAL)
	}
	d := &Domain{host: h, name: c.Name, gone: make(chan struct{})}
	if c.External {
		if !h.cfg.Shared {
			return nil, errors.New("a domain of another process needs a host with HostConfig.Shared")
		}
		d.external = newExternal()
		d.token = newToken()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hv.closed {
		return nil, ErrHostClosed
	}
	if other := h.hv.names[c.Name]; other != nil {
		return nil, &nameTakenError{other}
	}
	g, err := h.hv.newGuest(c, d)
	if err != nil {
		return nil, err
	}
	d.guest, d.name = g, g.name
	d.gen.Store(g.gen)
	return d, nil
}

// newGuest makes a domain, as running.
func (x *hypervisor) newGuest(c DomainConfig, shell *Domain) (*guest, error) {
	if c.External {
		if err := x.wiring.start(); err != nil {
			return nil, err
		}
	}
	id, err := x.newID(c.ID, c.Dom0)
	if err != nil {
		return nil, err
	}
	g := &guest{
		xen: x, name: c.Name, abi: c.ABI, privileged: c.Privileged || c.Dom0, remote: c.External, limits: c.Limits.or(x.cfg.Limits),
		vcpu: &shell.vcpu, shell: shell, id: id, running: make(chan struct{}),
		space: make(physmap), xens: make(map[xensFrame]hypercall.GFN), alloc: gfn.New(),
	}
	close(g.running)
	if g.name == "" {
		g.name = fmt.Sprintf("domain-%d", id)
	}
	for x.names[g.name] != nil { // somebody has chosen the name that domains have who choose none
		g.name += "'"
	}
	if err := g.boot(); err != nil {
		return nil, err
	}
	x.domains[id] = g
	x.names[g.name] = shell
	g.note("domain %q created", g.name)
	return g, nil
}

// start introduces the domain to Xenstore and, where it runs in this process, starts what runs in it.
func (d *Domain) start(c DomainConfig) error {
	if err := d.introduce(true); err != nil {
		return err
	}
	if c.External {
		return nil
	}
	x, err := xen.NewDomain(context.Background(), &machine{d}, c.Xen)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.xen = x
	return nil
}

func newToken() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// ID returns the domain's number; it changes where the domain is resumed with a new one.
func (d *Domain) ID() hypercall.DomID {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.guest.id
}

// Name returns the domain's name.
func (d *Domain) Name() string { return d.name }

// Token returns what another process claims an External domain with.
func (d *Domain) Token() string { return d.token }

// State says what the domain is doing: "running", "paused", "suspended", "shut down" (it said so itself, and is about to be destroyed) or
// "dead".
func (d *Domain) State() string {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.guest.state.String()
}

// Xen returns the domain as what runs in it sees it, or nil where another process is the domain.
func (d *Domain) Xen() *xen.Domain {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.xen
}

// RaiseVIRQ sends the domain a virtual interrupt; nothing happens where it has not bound it.
func (d *Domain) RaiseVIRQ(v hypercall.VIRQ) {
	d.host.mu.Lock()
	d.guest.raise(v)
	d.host.unlock()
}

// onTimer is the end of the timer that the domain set in incarnation gen.
func (d *Domain) onTimer(gen uint32) {
	d.host.mu.Lock()
	if d.guest.gen == gen {
		d.guest.raise(hypercall.VIRQTimer)
	}
	d.host.unlock()
}

// enter has f act on the domain, in a call of the domain's that began in incarnation gen, once the domain runs. It fails where the domain
// is dead or another incarnation, or when stop is closed while it waits.
func (d *Domain) enter(gen uint32, stop <-chan struct{}, f func(*guest) error) error {
	for {
		d.host.mu.Lock()
		wait, err := d.guest.admit(gen)
		if wait == nil && err == nil {
			err = f(d.guest)
		}
		d.host.unlock()
		if wait == nil {
			return err
		}
		select {
		case <-wait:
		case <-stop:
			return errHungUp
		}
	}
}

var errHungUp = errors.New("sim: the process hung up")

// rest returns when the domain runs, in whichever incarnation, or is dead.
func (d *Domain) rest() error {
	for {
		d.host.mu.Lock()
		wait, err := d.guest.admit(d.guest.gen)
		d.host.mu.Unlock()
		if wait == nil {
			return err
		}
		<-wait
	}
}
