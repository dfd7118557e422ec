package vchan

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// The control page, struct vchan_interface of io/libxenvchan.h: offsets in bytes, all words little-endian.
const (
	offLeftCons   = 0  // u32: the server has read up to here
	offLeftProd   = 4  // u32: the client has written up to here
	offRightCons  = 8  // u32: the client has read up to here
	offRightProd  = 12 // u32: the server has written up to here
	offLeftOrder  = 16 // u16: log2 of the size of the ring that the client writes
	offRightOrder = 18 // u16: log2 of the size of the ring that the server writes
	offCliLive    = 20 // u8
	offSrvLive    = 21 // u8
	offCliNotify  = 22 // u8: what the client shall tell the server of
	offSrvNotify  = 23 // u8: what the server shall tell the client of
	offGrants     = 24 // u32 each: the left ring's pages, then the right ring's

	offSmallRing = 1024 // where a ring of order 10 lies in the control page
	offLargeRing = 2048 // where a ring of order 11 lies in the control page
)

// The values of the live bytes.
const (
	liveExited    = 0
	liveConnected = 1
	liveWaiting   = 2 // of cli_live only: no client has come yet
)

// The bits of the notify bytes (VCHAN_NOTIFY_WRITE and VCHAN_NOTIFY_READ).
const (
	notifyWrite = 1 // tell me when you have written
	notifyRead  = 2 // tell me when you have read
)

// Two more bits of the notify bytes, which are hvkit's own. A dead end looks like a closed one: whoever kills a process or a domain has
// its live byte cleared by the platform. So an end says that it marks its closes, and does: a peer that finds it gone without the mark
// knows that the stream was cut off. libxenvchan tests and clears single bits of these bytes and leaves others alone, so it neither sets
// the bits nor is disturbed by them.
const (
	marksClose = 1 << 7 // this end sets closedWell before it closes
	closedWell = 1 << 6 // this end has closed
)

// The orders that a ring can have. A ring of order n has 2^n bytes.
const (
	SmallOrder    = 10 // inside the control page, at offset 1024
	LargeOrder    = 11 // inside the control page, at offset 2048
	ExternalOrder = 12 // from here on in pages of its own
	MaxOrder      = 20 // 1 MiB, the most whose grants fit in the control page
)

// MaxRing is the size of the largest ring, in bytes.
const MaxRing = 1 << MaxOrder

// Layout says how large the two rings of a vchan are and, by that, where they lie. Left is the ring that the client writes and the
// server reads, Right the other one.
type Layout struct {
	LeftOrder, RightOrder int
}

// LayoutFor returns the layout that libxenvchan's server chooses for rings of at least left and right bytes (libxenvchan_server_init
// in tools/libs/vchan/init.c). Rings that fit go into the control page; others are a power of two of at least a page.
func LayoutFor(left, right int) (Layout, error) {
	if left < 0 || left > MaxRing || right < 0 || right > MaxRing {
		return Layout{}, fmt.Errorf("vchan: rings of %d and %d bytes: a ring has at most %d", left, right, MaxRing)
	}
	const small, large = 1 << SmallOrder, 1 << LargeOrder
	l := Layout{externalOrder(left), externalOrder(right)}
	switch {
	case left <= small && right <= large:
		l = Layout{SmallOrder, LargeOrder}
	case left <= large && right <= small:
		l = Layout{LargeOrder, SmallOrder}
	case left <= large:
		l.LeftOrder = LargeOrder
	case right <= large:
		l.RightOrder = LargeOrder
	}
	return l, nil
}

// externalOrder returns the order of the smallest ring in pages of its own that has size bytes.
func externalOrder(size int) int {
	order := ExternalOrder
	for 1<<order < size {
		order++
	}
	return order
}

// LeftSize returns the size in bytes of the ring that the client writes.
func (l Layout) LeftSize() int { return 1 << l.LeftOrder }

// RightSize returns the size in bytes of the ring that the server writes.
func (l Layout) RightSize() int { return 1 << l.RightOrder }

// LeftPages returns how many pages of its own the left ring has: none when it lies in the control page.
func (l Layout) LeftPages() int { return ringPages(l.LeftOrder) }

// pages returns how many pages a vchan has, the control page among them.
func (l Layout) pages() int { return 1 + l.LeftPages() + l.RightPages() }

// RightPages returns how many pages of its own the right ring has: none when it lies in the control page.
func (l Layout) RightPages() int { return ringPages(l.RightOrder) }

func ringPages(order int) int {
	if order < ExternalOrder {
		return 0
	}
	return 1 << (order - ExternalOrder)
}

// Check returns a *PeerError if no vchan can have this layout: an order is out of range, both rings would lie in the same place of the
// control page, or the list of grants would run into a ring there.
func (l Layout) Check() error {
	for _, o := range []struct {
		field string
		order int
	}{{"left_order", l.LeftOrder}, {"right_order", l.RightOrder}} {
		if o.order < SmallOrder || o.order > MaxOrder {
			return &PeerError{Field: o.field, Value: uint64(o.order),
				Err: &shm.RangeError{Value: uint64(o.order), Min: SmallOrder, Max: MaxOrder}}
		}
	}
	if l.LeftOrder == l.RightOrder && l.LeftOrder < ExternalOrder {
		return &PeerError{Field: "right_order", Value: uint64(l.RightOrder), Err: errSamePlace}
	}
	if end := offGrants + 4*(l.LeftPages()+l.RightPages()); end > l.grantsEnd() {
		return &PeerError{Field: "right_order", Value: uint64(l.RightOrder),
			Err: fmt.Errorf("the list of grants ends at %d, the first ring in the page starts at %d", end, l.grantsEnd())}
	}
	return nil
}

// grantsEnd returns how far the list of grants may go in the control page.
func (l Layout) grantsEnd() int {
	switch {
	case l.LeftOrder == SmallOrder || l.RightOrder == SmallOrder:
		return offSmallRing
	case l.LeftOrder == LargeOrder || l.RightOrder == LargeOrder:
		return offLargeRing
	}
	return shm.PageSize
}

// inPage returns the offset of a ring of the order in the control page; it is 0 for a ring with pages of its own.
func inPage(order int) int {
	switch order {
	case SmallOrder:
		return offSmallRing
	case LargeOrder:
		return offLargeRing
	}
	return 0
}

// Header is what a client takes from the control page, once, before it maps the rings.
type Header struct {
	Layout
	LeftRefs, RightRefs []hypercall.GrantRef // of the rings' own pages

	leftProd, leftCons, rightProd, rightCons uint32
}

// ReadHeader reads the header of a control page that a server wrote, each word once, and checks it. Whatever the server does to the
// page later, the header stays as it was. The error is a [*PeerError].
func ReadHeader(ctl *shm.Region) (*Header, error) {
	h := &Header{Layout: Layout{
		LeftOrder:  int(ctl.Load16(offLeftOrder).Unchecked()),
		RightOrder: int(ctl.Load16(offRightOrder).Unchecked()),
	}}
	if err := h.Check(); err != nil {
		return nil, err
	}
	refs := make([]hypercall.GrantRef, h.LeftPages()+h.RightPages())
	for i := range refs {
		// Any number is harmless: Xen says whether it names a grant to this domain.
		refs[i] = hypercall.GrantRef(ctl.Load32(offGrants + 4*i).Unchecked())
	}
	h.LeftRefs, h.RightRefs = refs[:h.LeftPages():h.LeftPages()], refs[h.LeftPages():]

	var err error
	if h.leftCons, h.leftProd, err = startIndices(ctl, "left.prod", offLeftCons, offLeftProd, h.LeftSize()); err != nil {
		return nil, err
	}
	if h.rightCons, h.rightProd, err = startIndices(ctl, "right.prod", offRightCons, offRightProd, h.RightSize()); err != nil {
		return nil, err
	}
	return h, nil
}

// startIndices reads the indices that a ring starts with. They need not be zero.
func startIndices(ctl *shm.Region, field string, offCons, offProd, size int) (cons, prod uint32, err error) {
	cons = ctl.Load32(offCons).Unchecked() // any start is good
	p := ctl.Load32(offProd)
	ahead, err := p.Ahead(cons, uint32(size))
	if err != nil {
		return 0, 0, &PeerError{Field: field, Value: uint64(p.Unchecked()), Err: err}
	}
	return cons, cons + ahead, nil
}
