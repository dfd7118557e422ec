package attach

import (
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// EventBits is Xen's half of 2-level event channels: what Xen does to a domain's shared_info when an event arrives
// (xen/common/event_2l.c). It is safe for concurrent use.
type EventBits struct {
	page   *shm.Region
	layout hypercall.SharedInfo
}

// NewEventBits returns the event bits of a zeroed shared_info page, laid out as abi has it.
func NewEventBits(abi hypercall.ABI) *EventBits {
	return &EventBits{page: shm.New(1), layout: abi.SharedInfo()}
}

// Page is the shared_info page.
func (e *EventBits) Page() *shm.Region { return e.page }

// Reset zeroes the page.
func (e *EventBits) Reset() { e.page.Zero(0, e.layout.Size) }

// Pend makes an event pending on the port. It reports whether the domain must be told: its upcall-pending byte was clear.
func (e *EventBits) Pend(n hypercall.Port) (kick bool) {
	word, bit := e.bit(n)
	if e.or(e.layout.EvtchnPending+word, bit)&bit != 0 {
		return false
	}
	if e.load(e.layout.EvtchnMask+word)&bit != 0 {
		return false
	}
	return e.selectWord(n)
}

// Unmask clears the port's mask bit, and has an event that is pending delivered. It reports as Pend does.
func (e *EventBits) Unmask(n hypercall.Port) (kick bool) {
	word, bit := e.bit(n)
	if e.and(e.layout.EvtchnMask+word, ^bit)&bit == 0 {
		return false
	}
	if e.load(e.layout.EvtchnPending+word)&bit == 0 {
		return false
	}
	return e.selectWord(n)
}

// ClearPending drops an event that is pending on the port, as Xen does when the port is closed (evtchn_2l_clear_pending).
func (e *EventBits) ClearPending(n hypercall.Port) {
	word, bit := e.bit(n)
	e.and(e.layout.EvtchnPending+word, ^bit)
}

// Outstanding reports whether the domain was told of events that it has not looked at yet.
func (e *EventBits) Outstanding() bool { return e.page.Load8(e.layout.UpcallPending).Unchecked() != 0 }

// selectWord tells the vCPU which word of the pending bits to look at, and that there is something to look at.
func (e *EventBits) selectWord(n hypercall.Port) bool {
	sel := uint64(1) << (int(n) / (e.layout.WordBytes * 8))
	if e.or(e.layout.PendingSel, sel)&sel != 0 {
		return false
	}
	return e.page.Or8(e.layout.UpcallPending, 1).Unchecked() == 0
}

// bit returns the byte offset of the port's word in a bitmap, and its bit there.
func (e *EventBits) bit(n hypercall.Port) (word int, bit uint64) {
	per := e.layout.WordBytes * 8
	return int(n) / per * e.layout.WordBytes, 1 << (int(n) % per)
}

func (e *EventBits) or(off int, mask uint64) uint64 {
	if e.layout.WordBytes == 4 {
		return uint64(e.page.Or32(off, uint32(mask)).Unchecked())
	}
	return e.page.Or64(off, mask).Unchecked()
}

func (e *EventBits) and(off int, mask uint64) uint64 {
	if e.layout.WordBytes == 4 {
		return uint64(e.page.And32(off, uint32(mask)).Unchecked())
	}
	return e.page.And64(off, mask).Unchecked()
}

func (e *EventBits) load(off int) uint64 {
	if e.layout.WordBytes == 4 {
		return uint64(e.page.Load32(off).Unchecked())
	}
	return e.page.Load64(off).Unchecked()
}
