package evtchn

import (
	"context"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Table is a domain's event channels. It is safe for concurrent use.
type Table interface {
	// AllocUnbound makes a channel that the domain remote may bind to.
	AllocUnbound(remote hypercall.DomID) (Channel, error)
	// BindInterdomain makes a channel that is connected to the remote domain's port, which must be unbound and meant for this domain.
	BindInterdomain(remote hypercall.DomID, port hypercall.Port) (Channel, error)
	// BindVIRQ makes a channel on which a virtual interrupt of the given vCPU arrives.
	BindVIRQ(virq hypercall.VIRQ, vcpu uint32) (Channel, error)
	// BindIPI makes a channel of the domain to itself, delivered on the given vCPU.
	BindIPI(vcpu uint32) (Channel, error)
	// Adopt takes over a port that was made for this domain before it ran: the store's and the console's. An event that came before
	// arrives.
	Adopt(port hypercall.Port) (Channel, error)
	// Stats returns the table's counters.
	Stats() Stats
	// Close closes every channel; their waiters return.
	Close() error
}

// Channel is one end of an event channel. It is safe for concurrent use.
//
// Events carry nothing and coalesce: many notifications may be one arrival. An arrival is never lost: one that comes while nobody
// waits is found by the next Wait. Spurious arrivals are possible, so a waiter checks what it waits for.
type Channel interface {
	// Port is the local number of the channel.
	Port() hypercall.Port
	// Notify sends an event to the other end. Where nobody is bound, or the other end has closed, it does nothing and returns nil.
	Notify() error
	// Wait returns nil when an event has arrived since the last Wait returned, and an error when ctx is done, the channel closed, or
	// the domain was resumed as another incarnation. One goroutine waits at a time.
	Wait(ctx context.Context) error
	// Handle has f called for each arrival in place of Wait, once now if one is outstanding. f runs on the goroutine that takes events
	// in for the whole domain, on a sender's, or on the one that calls Handle or Unmask, and so perhaps on two at once: it must be
	// short, and must not block, send or close. Where arrivals come very fast several are made one, and may be late by a millisecond;
	// the package's documentation says when. nil ends it. After Handle or Close returns, the old f may still be running once.
	Handle(f func())
	// Mask holds arrivals back until Unmask, which delivers one if any came.
	Mask() error
	Unmask() error
	// Status asks Xen for the state of the channel.
	Status() (Status, error)
	// Close frees the port. A waiter returns [net.ErrClosed]. A second Close returns nil.
	Close() error
}

// State is the state of a channel, as EVTCHNOP_status says it.
type State = hypercall.ChannelState

// The states of a channel.
const (
	Closed      = hypercall.EvtchnClosed
	Unbound     = hypercall.EvtchnUnbound
	Interdomain = hypercall.EvtchnInterdomain
	PIRQ        = hypercall.EvtchnPIRQ
	VirtualIRQ  = hypercall.EvtchnVIRQ
	IPI         = hypercall.EvtchnIPI
)

// Status is what Xen says of a channel.
type Status struct {
	State  State
	VCPU   uint32          // where arrivals are delivered
	Remote hypercall.DomID // who may bind (Unbound) or is bound (Interdomain)
	Port   hypercall.Port  // the other end's number (Interdomain)
	VIRQ   hypercall.VIRQ  // which (VirtualIRQ)
}

// Stats counts what a Table did and holds.
type Stats struct {
	Open     int    // channels open now
	Upcalls  uint64 // times that Xen told of events
	Arrivals uint64 // arrivals handed to waiters and handlers
	Spurious uint64 // events for ports that nobody here has open
	Sent     uint64 // notifications sent
	// Throttled counts how often a port was masked because events came too fast: until its waiter came back, or, where there is a
	// handler, for a millisecond at most.
	Throttled uint64
	// Overflows counts how often events were lost because the platform had no room for them; each port had one then. Linux only, where it
	// should not happen.
	Overflows uint64
}
