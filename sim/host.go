package sim

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// HostConfig configures a [Host]. Zero fields are defaults.
type HostConfig struct {
	// Shared has the memory of domains be files that other processes can map. It is needed where domains of other processes join
	// ([Host.Serve]); without it memory is Go heap, in which the race detector sees races. It needs Linux.
	Shared bool
	// Store configures the host's Xenstore server.
	Store *xenstored.Config
	// Limits are those of domains whose configuration has none.
	Limits Limits
	// Logger takes what goes wrong. The default is silence.
	Logger *slog.Logger
	// Console takes what domains write to Xen's emergency console (console_io), a write a line, on the goroutine that writes. The default
	// is nowhere.
	Console func(dom hypercall.DomID, text string)
}

// Host is a simulated machine: a hypervisor, its Xenstore server and its toolstack, in this process. It is safe for concurrent use.
type Host struct {
	cfg   HostConfig
	log   *slog.Logger
	store *xenstored.Server
	tools *toolstack
	trace *trace

	remote     remote
	background sync.WaitGroup // grows while the lock is held and the host is open
	stopped    chan struct{}  // closed when Close is done

	// mu guards the hypervisor and all that is of it. No call that could wait for a domain is made with it held.
	mu sync.Mutex
	// +checklocks:mu
	hv *hypervisor
}

// ErrHostClosed is what a host answers after Close. It is a net.ErrClosed.
var ErrHostClosed = fmt.Errorf("sim: the host is closed: %w", net.ErrClosed)

// NewHost starts a host. Close it after use.
func NewHost(cfg *HostConfig) *Host {
	h := &Host{trace: new(trace), stopped: make(chan struct{})}
	if cfg != nil {
		h.cfg = *cfg
	}
	h.cfg.Limits = h.cfg.Limits.or(defaultLimits)
	h.log = h.cfg.Logger
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.hv = &hypervisor{
		cfg: &h.cfg, trace: h.trace, wiring: newWiring(h), started: time.Now(),
		domains: make(map[hypercall.DomID]*guest), names: make(map[string]*Domain), zombies: make(map[*guest]bool),
		reserved: make(map[hypercall.DomID]int),
	}
	h.store = xenstored.New(h.cfg.Store)
	h.tools = newToolstack(h.store)
	return h
}

// Store returns the host's Xenstore server.
func (h *Host) Store() *xenstored.Server { return h.store }

// unlock lets go of the lock, and then does what became due under it: upcalls, and wakes of the host's own ends of channels.
//
// +checklocksrelease:h.mu
func (h *Host) unlock() {
	owed := h.hv.settle()
	h.mu.Unlock()
	owed.pay()
}

// Domain returns the live domain with the number, or nil.
func (h *Host) Domain(id hypercall.DomID) *Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.hv.domains[id]; g != nil {
		return g.shell
	}
	return nil
}

// Domains returns the live domains in the order of their numbers.
func (h *Host) Domains() []*Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*Domain
	for _, g := range h.hv.sorted() {
		list = append(list, g.shell)
	}
	return list
}

// spawn runs f on a goroutine that Close waits for, unless the host is closed.
func (h *Host) spawn(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.hv.closed {
		h.background.Go(f)
	}
}

// Close destroys every domain and stops the host. It waits for the host's goroutines, and so must not be called by what runs on one of
// them: a function that the host calls, or an upcall. A second Close waits for the first and returns nil.
func (h *Host) Close() error {
	if !h.beginClose() {
		<-h.stopped
		return nil
	}
	defer close(h.stopped)
	h.remote.stop()
	for _, d := range h.Domains() {
		if err := d.destroy("the host was closed"); err != nil {
			h.log.Warn("sim: a domain could not be destroyed", "domain", d.name, "err", err)
		}
	}
	h.background.Wait()
	h.remote.wait()
	return errors.Join(h.closeWiring(), h.tools.close())
}

func (h *Host) beginClose() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hv.closed {
		return false
	}
	h.hv.closed = true
	return true
}

func (h *Host) closeWiring() error {
	h.mu.Lock()
	w := h.hv.wiring
	h.mu.Unlock()
	return w.close()
}

// Stats counts what a host did and holds.
type Stats struct {
	Domains    int    // that are alive
	Hypercalls uint64 // answered by the host; sends between domains of other processes do not come here
	Store      xenstored.Stats
}

// Stats returns the host's counters.
func (h *Host) Stats() Stats {
	h.mu.Lock()
	s := Stats{Domains: len(h.hv.domains), Hypercalls: h.hv.calls}
	h.mu.Unlock()
	s.Store = h.store.Stats()
	return s
}

func errNewDomain(name string, err error) error {
	return fmt.Errorf("sim: new domain %q: %w", name, err)
}
