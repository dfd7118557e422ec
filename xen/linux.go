package xen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// OpenLinux returns the domain whose Linux kernel this program runs on, through the kernel's devices: evtchn, gntalloc and gntdev in
// /dev/xen, and Xenstore through the socket of a server in this domain or the device xenbus. It needs permission to open those, and no
// other privilege; `hvkit doctor` says what is missing. Where the program may open privcmd too, Xen is asked for the status of event
// channels.
//
// ctx bounds the opening only. Close the domain after use.
func OpenLinux(ctx context.Context, cfg *Config) (*Domain, error) {
	return open(ctx, newLinux(cfg, kernelDevices), cfg)
}

// resumable is what a table of a Linux kernel's domain does beside its interface.
type resumable interface{ Resume() error }

// forbidding is what a grant table of a Linux kernel's domain does beside its interface.
type forbidding interface {
	Forbid(peer hypercall.DomID, why error)
}

// devices open what a Linux kernel offers.
type devices struct {
	guestType func() string // PV, HVM or PVH on x86; else ""
	caller    func() (caller, error)
	events    func(hypercall.Caller, *evtchn.Config) (evtchn.Table, error)
	grants    func(*grant.Config) (grant.Table, error)
	store     func(context.Context, *xenstore.Config) (*xenstore.Client, error)
}

type caller interface {
	hypercall.Caller
	Close() error
}

var kernelDevices = devices{
	guestType: func() string {
		if runtime.GOARCH != "amd64" {
			return "" // whatever the kernel calls it there
		}
		text, _ := os.ReadFile("/sys/hypervisor/guest_type")
		return strings.TrimSpace(string(text))
	},
	caller: func() (caller, error) { return hypercall.OpenPrivcmd() },
	events: func(c hypercall.Caller, cfg *evtchn.Config) (evtchn.Table, error) { return evtchn.OpenLinux(c, cfg) },
	grants: func(cfg *grant.Config) (grant.Table, error) { return grant.OpenLinux(cfg) },
	store: func(ctx context.Context, cfg *xenstore.Config) (*xenstore.Client, error) {
		return xenstore.Dial(ctx, "", cfg)
	},
}

// linux is the platform of a program on a Linux kernel.
type linux struct {
	dev  devices
	cfg  Config
	life context.Context // done when the platform is closed
	end  context.CancelFunc
	c    caller // nil where the program may not make hypercalls
	gt   grant.Table
	ev   evtchn.Table

	mu sync.Mutex
	// +checklocks:mu
	resumed bool // before anybody wanted to know
	// +checklocks:mu
	resume func()
}

func newLinux(cfg *Config, dev devices) *linux {
	l := &linux{dev: dev}
	if cfg != nil {
		l.cfg = *cfg
	}
	l.life, l.end = context.WithCancel(context.Background())
	return l
}

func (l *linux) start(context.Context) (err error) {
	var asked hypercall.Caller
	if c, err := l.dev.caller(); err == nil { // it is a help only
		// A kernel may give everybody the device, and yet let only a control domain's programs make hypercalls.
		if _, _, err := hypercall.Version(c); err == nil {
			l.c, asked = c, c
		} else {
			c.Close()
		}
	}
	ev, err := l.dev.events(asked, l.cfg.Events)
	if err != nil {
		return mendable(err)
	}
	l.ev = ev
	gt, err := l.dev.grants(l.cfg.Grants)
	if err != nil {
		return mendable(err)
	}
	l.gt = gt
	return nil
}

// mendable says of a device that is not there, or may not be opened, who knows more.
func mendable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w ('hvkit doctor' says what is missing): %w", err, errors.ErrUnsupported)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w ('hvkit doctor' says how to get permission)", err)
	}
	return err
}

func (l *linux) dialStore(ctx context.Context) (*xenstore.Client, error) {
	client, err := l.dev.store(ctx, l.cfg.Store)
	return client, mendable(err)
}

// errOwnPages is why an x86 domain with a translated address space must not map what it granted to itself: a page is in that address space
// once, so Xen takes it from where the kernel has it (guest_physmap_add_entry), and it is not there again after it was unmapped. Xen on
// arm64 does not look for a page's other places.
var errOwnPages = fmt.Errorf("an x86 domain that is not PV loses pages of its own that it maps: %w", errors.ErrUnsupported)

// connected sees to it that the domain does itself no harm, and watches for a resume. Nobody tells a program of it, but the kernel
// registers its watches anew then, those of programs too, and an event comes of each. The toolstack writes domid before the domain runs
// and never again. The control domain is not suspended.
func (l *linux) connected(ctx context.Context, store *xenstore.Client, id hypercall.DomID) error {
	switch l.dev.guestType() {
	case "HVM", "PVH":
		l.gt.(forbidding).Forbid(id, errOwnPages)
	}
	if id == 0 {
		return nil
	}
	w, err := store.Watch(ctx, "domid", nil)
	if err != nil {
		return fmt.Errorf("watch for a resume: %w", err)
	}
	if _, err := w.Next(ctx); err != nil {
		return errors.Join(fmt.Errorf("watch for a resume: %w", err), w.Close())
	}
	go func() {
		defer w.Close()
		if _, err := w.Next(l.life); err == nil {
			l.wasResumed()
		}
	}()
	return nil
}

func (l *linux) wasResumed() {
	if f := l.noteResume(); f != nil {
		f()
	}
}

func (l *linux) noteResume() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resumed = l.resume == nil
	return l.resume
}

func (l *linux) onResume(f func()) {
	if l.setResume(f) {
		go f()
	}
}

func (l *linux) setResume(f func()) (already bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	already, l.resumed = l.resumed, false
	l.resume = f
	return already
}

func (l *linux) restart(closeStores func() error) error {
	err := errors.Join(l.ev.(resumable).Resume(), l.gt.(resumable).Resume())
	closeStores()
	return err
}

func (l *linux) onEnd(func())         {} // a program ends with its kernel
func (l *linux) grants() grant.Table  { return l.gt }
func (l *linux) events() evtchn.Table { return l.ev }
func (l *linux) abort()               { l.end() }

func (l *linux) close() []error {
	l.end()
	var errs []error
	if l.gt != nil {
		errs = append(errs, l.gt.Close())
	}
	if l.ev != nil {
		errs = append(errs, l.ev.Close())
	}
	if l.c != nil {
		errs = append(errs, l.c.Close())
	}
	return errs
}
