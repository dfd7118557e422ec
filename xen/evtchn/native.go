package evtchn

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// maxPasses bounds the scans that one Upcall makes for others that came while it scanned. A goroutine of its own carries on then, so
// that a sender on whose goroutine the events of a domain are taken in is not kept by other senders.
const maxPasses = 16

// Config is what a [Native] can be told. Zero fields, and a nil *Config, stand for the defaults.
type Config struct {
	// Spin is how long Wait looks for an arrival before it sleeps: none. It trades processor time for a few microseconds of latency.
	Spin time.Duration
	// VCPUs is how many vCPUs events are taken in for: 1. Channels are delivered on vCPU 0 but for VIRQs and IPIs, which say where.
	VCPUs int
	// Logger is told of ports that Xen should not have named: nobody.
	Logger *slog.Logger
}

func (c *Config) withDefaults() Config {
	var cfg Config
	if c != nil {
		cfg = *c
	}
	if cfg.VCPUs <= 0 {
		cfg.VCPUs = 1
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// OpError says what failed on which port.
type OpError struct {
	Op   string         // "wait", "notify", "bind" ...
	Port hypercall.Port // 0 where there is none yet
	Err  error          // [net.ErrClosed], [hypercall.ErrStale], or Xen's answer
}

func (e *OpError) Error() string {
	if e.Port == 0 {
		return fmt.Sprintf("evtchn: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("evtchn: %s port %d: %v", e.Op, e.Port, e.Err)
}

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// Native is a domain's 2-level event channels, worked on by the domain itself: it makes the hypercalls, and [Native.Upcall] takes in
// what Xen set in shared_info. It is a [Table], safe for concurrent use. It has no lock: whoever is stopped anywhere stops nobody
// else.
type Native struct {
	c   hypercall.Caller
	cfg Config

	start   time.Time
	now     atomic.Pointer[incarnation]
	closed  atomic.Bool
	scanner atomic.Uint32 // scanIdle, scanRunning or scanAgain
	passes  atomic.Uint64 // odd while a scan is under way

	open      atomic.Int64
	upcalls   atomic.Uint64
	arrivals  atomic.Uint64
	spurious  atomic.Uint64
	sent      atomic.Uint64
	throttled atomic.Uint64
}

var _ Table = (*Native)(nil)

// incarnation is the channels of a domain between two resumes.
type incarnation struct {
	c     hypercall.Caller // whose calls do nothing once Xen has the next one run
	core  *TwoLevel
	slots []atomic.Pointer[channel] // by port
}

const (
	scanIdle uint32 = iota
	scanRunning
	scanAgain // running, and something may have come that the scan does not see
)

// NewNative takes over the event channels of the domain that c makes hypercalls as. sharedInfo is the way to its shared_info, which
// stays the caller's and must stay open. Every port is masked until it is bound or adopted here; what is pending then arrives. The
// platform must call Upcall from now on whenever Xen injects the upcall.
func NewNative(c hypercall.Caller, sharedInfo *shm.Region, cfg *Config) (*Native, error) {
	n := &Native{c: c, cfg: cfg.withDefaults(), start: time.Now()}
	if err := n.setup(sharedInfo); err != nil {
		return nil, err
	}
	return n, nil
}

// setup begins an incarnation.
func (n *Native) setup(sharedInfo *shm.Region) error {
	core, err := NewTwoLevel(n.c.ABI(), sharedInfo, n.cfg.VCPUs)
	if err != nil {
		return err
	}
	core.MaskAll()
	n.now.Store(&incarnation{c: hypercall.Incarnation(n.c), core: core, slots: make([]atomic.Pointer[channel], core.Ports())})
	n.kick() // whatever was told of before is dealt with: Xen interrupts for what comes next
	return nil
}

// Upcall takes in the events that Xen tells of. The platform calls it, from any goroutine, when Xen injects the upcall; calls at the
// same time are fine, and calls for nothing do nothing. It runs handlers, wakes waiters, and never blocks: one call looks at each
// port at most once, and at most 16 times if more upcalls come meanwhile.
func (n *Native) Upcall() {
	n.upcalls.Add(1)
	n.kick()
}

// kick sees to it that a scan begins after now: one at a time, by the caller or whoever is at it.
func (n *Native) kick() {
	for {
		switch n.scanner.Load() {
		case scanIdle:
			if n.scanner.CompareAndSwap(scanIdle, scanRunning) {
				n.scanAll()
				return
			}
		case scanRunning:
			if n.scanner.CompareAndSwap(scanRunning, scanAgain) {
				return
			}
		case scanAgain:
			return
		}
	}
}

// scanAll scans until nobody asked for another scan during the last. The caller has made the scanner run.
func (n *Native) scanAll() {
	for range maxPasses {
		n.scan()
		if n.scanner.CompareAndSwap(scanRunning, scanIdle) {
			return
		}
		n.scanner.Store(scanRunning)
	}
	go n.scanAll()
}

func (n *Native) scan() {
	n.passes.Add(1)
	defer n.passes.Add(1)
	inc := n.now.Load()
	if !inc.core.Begin() {
		return
	}
	for {
		port, ok := inc.core.Next()
		if !ok {
			return
		}
		n.dispatch(inc, port)
	}
}

// dispatch hands one arrival to the channel of the port. An event for a port that nobody has open is counted and masked, so that
// whoever sends it cannot keep this side busy.
func (n *Native) dispatch(inc *incarnation, port hypercall.Port) {
	defer n.makeGood(inc, port)
	ch := inc.slots[port].Load()
	if ch == nil {
		n.spurious.Add(1)
		inc.core.Mask(port)
		if ch = inc.slots[port].Load(); ch == nil {
			return
		}
		ch.settle() // it was bound meanwhile: the mask may have come after its unmask
	}
	ch.arrive()
}

// makeGood is for whoever has changed what the page has of a port. Where the domain was resumed meanwhile, which it reports, the page may
// be the next incarnation's, and what was done was done to the channel that has the number there: that one may have lost an event, or its
// mask.
func (n *Native) makeGood(inc *incarnation, port hypercall.Port) (resumed bool) {
	now := n.now.Load()
	if now == inc {
		return false
	}
	if next := now.slots[port].Load(); next != nil {
		next.arrive()
		if err := next.settle(); err != nil && next.state.Load()&ended == 0 {
			n.cfg.Logger.Warn("evtchn: put a port right after a resume", "port", port, "error", err)
		}
	}
	return true
}

// bind makes a channel of the port that open gets from Xen.
func (n *Native) bind(op string, open func(hypercall.Caller) (hypercall.Port, error)) (Channel, error) {
	if n.closed.Load() {
		return nil, &OpError{Op: op, Err: net.ErrClosed}
	}
	inc, passes := n.now.Load(), n.passes.Load()
	port, err := open(inc.c)
	if err != nil {
		return nil, &OpError{Op: op, Err: err}
	}
	if port == 0 || uint64(port) >= uint64(len(inc.slots)) {
		n.cfg.Logger.Warn("evtchn: Xen named a port that 2-level event channels do not have", "op", op, "port", port)
		return nil, errors.Join(&OpError{Op: op, Port: port, Err: errors.New("no such port")}, hypercall.ClosePort(inc.c, port))
	}
	return n.enter(op, newChannel(n, inc, port), passes)
}

func newChannel(n *Native, inc *incarnation, port hypercall.Port) *channel {
	return &channel{n: n, inc: inc, port: port, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// enter makes the channel known, and lets events arrive.
func (n *Native) enter(op string, ch *channel, passes uint64) (Channel, error) {
	inc, port := ch.inc, ch.port
	if !inc.slots[port].CompareAndSwap(nil, ch) {
		err := errInUse
		if n.now.Load() != inc {
			err = hypercall.ErrStale
		}
		return nil, &OpError{Op: op, Port: port, Err: err}
	}
	n.open.Add(1)
	if err := ch.settle(); err != nil {
		return nil, errors.Join(&OpError{Op: op, Port: port, Err: err}, ch.Close())
	}
	if (passes&1 != 0 || n.passes.Load() != passes) && ch.state.Load()&arrived == 0 {
		// A scan that saw the port when it was another channel's may have taken the first event of this one. Waiters and
		// handlers bear an arrival too many, but not one too few.
		ch.arrive()
	}
	if n.now.Load() != inc {
		ch.abandon()
		return nil, &OpError{Op: op, Port: port, Err: hypercall.ErrStale}
	}
	if n.closed.Load() {
		return nil, errors.Join(&OpError{Op: op, Port: port, Err: net.ErrClosed}, ch.Close())
	}
	return ch, nil
}

var errInUse = errors.New("the port is open here already")

// AllocUnbound implements [Table].
func (n *Native) AllocUnbound(remote hypercall.DomID) (Channel, error) {
	return n.bind("allocate", func(c hypercall.Caller) (hypercall.Port, error) {
		return hypercall.AllocUnbound(c, hypercall.DomSelf, remote)
	})
}

// BindInterdomain implements [Table].
func (n *Native) BindInterdomain(remote hypercall.DomID, port hypercall.Port) (Channel, error) {
	return n.bind("bind", func(c hypercall.Caller) (hypercall.Port, error) { return hypercall.BindInterdomain(c, remote, port) })
}

// BindVIRQ implements [Table].
func (n *Native) BindVIRQ(virq hypercall.VIRQ, vcpu uint32) (Channel, error) {
	if err := n.checkVCPU("bind VIRQ", vcpu); err != nil {
		return nil, err
	}
	return n.bind("bind VIRQ", func(c hypercall.Caller) (hypercall.Port, error) { return hypercall.BindVIRQ(c, virq, vcpu) })
}

// BindIPI implements [Table].
func (n *Native) BindIPI(vcpu uint32) (Channel, error) {
	if err := n.checkVCPU("bind IPI", vcpu); err != nil {
		return nil, err
	}
	return n.bind("bind IPI", func(c hypercall.Caller) (hypercall.Port, error) { return hypercall.BindIPI(c, vcpu) })
}

// checkVCPU refuses vCPUs whose events nobody takes in.
func (n *Native) checkVCPU(op string, vcpu uint32) error {
	if uint64(vcpu) < uint64(n.cfg.VCPUs) {
		return nil
	}
	return &OpError{Op: op, Err: fmt.Errorf("events of vCPU %d are not taken in (of %d vCPUs they are): %w",
		vcpu, n.cfg.VCPUs, errors.ErrUnsupported)}
}

// Adopt implements [Table].
func (n *Native) Adopt(port hypercall.Port) (Channel, error) {
	if n.closed.Load() {
		return nil, &OpError{Op: "adopt", Port: port, Err: net.ErrClosed}
	}
	inc, passes := n.now.Load(), n.passes.Load()
	if port == 0 || uint64(port) >= uint64(len(inc.slots)) {
		return nil, &OpError{Op: "adopt", Port: port, Err: hypercall.EINVAL}
	}
	st, err := hypercall.PortStatus(inc.c, hypercall.DomSelf, port)
	if err != nil {
		return nil, &OpError{Op: "adopt", Port: port, Err: err}
	}
	if st.State == hypercall.EvtchnClosed {
		return nil, &OpError{Op: "adopt", Port: port, Err: fmt.Errorf("the port is closed: %w", hypercall.EINVAL)}
	}
	return n.enter("adopt", newChannel(n, inc, port), passes)
}

// Stats implements [Table].
func (n *Native) Stats() Stats {
	return Stats{
		Open: int(n.open.Load()), Upcalls: n.upcalls.Load(), Arrivals: n.arrivals.Load(),
		Spurious: n.spurious.Load(), Throttled: n.throttled.Load(), Sent: n.sent.Load(),
	}
}

// Resume is for the platform: the domain was suspended and runs again, with no event channel open and the shared_info that sharedInfo
// is the way to. Channels made before answer [hypercall.ErrStale] from now on, and their waiters wake with it. What they do
// between the resume and this call does too, if the table's Caller is a [hypercall.Incarnations].
func (n *Native) Resume(sharedInfo *shm.Region) error {
	old := n.now.Load()
	if err := n.setup(sharedInfo); err != nil {
		return err
	}
	for i := range old.slots {
		if ch := old.slots[i].Load(); ch != nil {
			ch.abandon()
		}
	}
	return nil
}

// Close implements [Table].
func (n *Native) Close() error {
	n.closed.Store(true)
	inc := n.now.Load()
	var errs []error
	for i := range inc.slots {
		if ch := inc.slots[i].Load(); ch != nil {
			errs = append(errs, ch.Close())
		}
	}
	return errors.Join(errs...)
}
