package vchan

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// PeerError says that the peer broke the protocol: the field of the control page (or the key in Xenstore) and the value found there.
// The vchan is unusable from then on, and every later operation returns the same error.
type PeerError struct {
	Field string // as io/libxenvchan.h spells it ("left.prod"), or the key
	Value uint64 // what was found
	Err   error  // what is wrong with it; often a [*shm.RangeError]
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("vchan: the peer wrote %d (%#x) as %s: %v", e.Value, e.Value, e.Field, e.Err)
}

// Unwrap returns what is wrong with the value.
func (e *PeerError) Unwrap() error { return e.Err }

var (
	errSamePlace = errors.New("both rings would lie in the same place of the control page")
	errLiveByte  = errors.New("not a state that this end can be in now")
	errTaken     = errors.New("the offer is taken or withdrawn")
)

// TooLargeError says that a packet can never be sent or received, because the ring is smaller.
type TooLargeError struct {
	Size, Max int // in bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("vchan: a packet of %d bytes: at most %d are possible", e.Size, e.Max)
}

// Role is one of the two ends of a vchan.
type Role uint8

// The roles.
const (
	Server Role = iota // offers the memory; reads the left ring and writes the right one
	Client             // maps it; writes the left ring and reads the right one
)

func (r Role) String() string {
	switch r {
	case Server:
		return "server"
	case Client:
		return "client"
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// Core is the protocol of one end of a vchan and nothing else: bytes in and out of the rings, what the peer may have done wrong, and
// when to tell it. It has no lock, clock, goroutine or wait, and allocates nothing after it was made.
//
// In and Out share no state, so that one goroutine may drive In while another drives Out. Each of the two is for one goroutine at a
// time.
//
// Where a method says notify, the caller sends an event to the peer; until it does, the peer may sleep. An end that wants to sleep
// calls Arm first and sleeps only if that says that there is nothing to do.
type Core struct {
	In  Receiver
	Out Sender

	ctl     *shm.Region
	role    Role
	ownLive int // the offset of this end's live byte
	ownAsk  int // the offset of the notify byte in which this end sets bits
}

// NewServer writes the header of a fresh vchan into the zeroed page ctl and returns the server's end. left and right are the rings'
// own pages and are nil for rings inside the control page; refs are their grants, the left ring's first. start is where all indices
// begin: 0 is what every other implementation does, and peers must take any.
func NewServer(ctl, left, right *shm.Region, l Layout, refs []hypercall.GrantRef, start uint32) (*Core, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if want := l.LeftPages() + l.RightPages(); len(refs) != want {
		return nil, fmt.Errorf("vchan: %d grants for rings of %d pages", len(refs), want)
	}
	for _, off := range []int{offLeftCons, offLeftProd, offRightCons, offRightProd} {
		ctl.Store32(off, start)
	}
	ctl.Store16(offLeftOrder, uint16(l.LeftOrder))
	ctl.Store16(offRightOrder, uint16(l.RightOrder))
	ctl.Store8(offCliLive, liveWaiting)
	ctl.Store8(offSrvLive, liveConnected)
	// Programs that wait before they look the first time must be woken by the first write.
	ctl.Store8(offCliNotify, notifyWrite|marksClose)
	for i, ref := range refs {
		ctl.Store32(offGrants+4*i, uint32(ref))
	}
	h := &Header{Layout: l, leftProd: start, leftCons: start, rightProd: start, rightCons: start}
	return newCore(Server, ctl, left, right, h)
}

// NewClient returns the client's end of the vchan whose control page had header h. left and right are the rings' own pages, mapped;
// they are nil for rings inside the control page. The page is not written before [Core.Connect].
func NewClient(ctl, left, right *shm.Region, h *Header) (*Core, error) {
	return newCore(Client, ctl, left, right, h)
}

func newCore(role Role, ctl, left, right *shm.Region, h *Header) (*Core, error) {
	l, err := placeRing(ctl, left, h.LeftOrder)
	if err != nil {
		return nil, fmt.Errorf("vchan: left ring: %w", err)
	}
	r, err := placeRing(ctl, right, h.RightOrder)
	if err != nil {
		return nil, fmt.Errorf("vchan: right ring: %w", err)
	}
	c := &Core{ctl: ctl, role: role}
	if role == Server {
		c.ownLive, c.ownAsk = offSrvLive, offCliNotify
		p := peer{ctl: ctl, liveOff: offCliLive, liveField: "cli_live", askOff: offCliNotify, tellOff: offSrvNotify, mayWait: true}
		l.own, l.seen, l.ownOff, l.peerOff, l.peerField = h.leftCons, h.leftProd, offLeftCons, offLeftProd, "left.prod"
		r.own, r.seen, r.ownOff, r.peerOff, r.peerField = h.rightProd, h.rightCons, offRightProd, offRightCons, "right.cons"
		c.In, c.Out = Receiver{ring: l, peer: p}, Sender{ring: r, peer: p}
		return c, nil
	}
	c.ownLive, c.ownAsk = offCliLive, offSrvNotify
	p := peer{ctl: ctl, liveOff: offSrvLive, liveField: "srv_live", askOff: offSrvNotify, tellOff: offCliNotify}
	l.own, l.seen, l.ownOff, l.peerOff, l.peerField = h.leftProd, h.leftCons, offLeftProd, offLeftCons, "left.cons"
	r.own, r.seen, r.ownOff, r.peerOff, r.peerField = h.rightCons, h.rightProd, offRightCons, offRightProd, "right.prod"
	c.In, c.Out = Receiver{ring: r, peer: p}, Sender{ring: l, peer: p}
	return c, nil
}

// placeRing says where a ring of the order lies: in the control page, or in pages of its own.
func placeRing(ctl, pages *shm.Region, order int) (ring, error) {
	size := uint32(1) << order
	g := ring{mem: pages, size: size, chunk: max(size/4, min(size, shm.PageSize))}
	if at := inPage(order); at != 0 {
		g.mem, g.base = ctl, at
		return g, nil
	}
	if pages == nil || pages.Size() != int(size) {
		return g, fmt.Errorf("order %d needs %d bytes of pages", order, size)
	}
	return g, nil
}

// Role returns which end this is.
func (c *Core) Role() Role { return c.role }

// Connect is the client's last step: it takes the offer, if nobody else did and the server still stands by it, and asks to be told of
// the server's writes, as libxenvchan does. The caller sends an event to the server after it.
func (c *Core) Connect() error {
	if !c.claim() {
		return errTaken
	}
	c.ctl.And8(offSrvNotify, ^uint8(closedWell)) // of an earlier client
	c.ctl.Or8(offSrvNotify, notifyWrite|marksClose)
	return nil
}

// claim sets the client's live byte. Both live bytes are compared in one step, so that of two clients with the same page only one comes in.
//
// A client of libxenvchan does not look what was there. So a server that uses it with server_persist goes on when its client has left,
// and waits for the next one with cli_live 0. A server of ours is known by its mark: what a client of its own has left is used up.
func (c *Core) claim() bool {
	const free, taken, left = liveConnected<<8 | liveWaiting, liveConnected<<8 | liveConnected, liveConnected<<8 | liveExited
	if c.ctl.CompareAndSwap16(offCliLive, free, taken) {
		return true
	}
	ours := c.ctl.Load8(offCliNotify).Bits(marksClose) != 0
	return !ours && c.ctl.CompareAndSwap16(offCliLive, left, taken)
}

// Arrival says what a server found of its client.
type Arrival uint8

// The arrivals.
const (
	NotYet  Arrival = iota // no client has connected
	Arrived                // a client is connected
	Left                   // a client came and went; what it wrote can still be read
)

// Arrival looks whether a client has come. One that has left has left for good: what is written after it was found gone does not count,
// and the offer cannot be taken again. The error is a [*PeerError], or hypercall.ErrStale as for TryRead.
func (c *Core) Arrival() (Arrival, error) {
	v := c.ctl.Load8(offCliLive)
	switch {
	case v.Is(liveWaiting):
		return NotYet, nil
	case v.Is(liveConnected):
		return Arrived, nil
	case v.Is(liveExited):
		if c.ctl.Closed() {
			return NotYet, hypercall.ErrStale
		}
		return Left, c.settleLeft()
	}
	return NotYet, &PeerError{Field: "cli_live", Value: uint64(v.Unchecked()), Err: errLiveByte}
}

// settleLeft has both halves know that the client has gone, and takes the final look at what it wrote.
func (c *Core) settleLeft() error {
	c.In.leave()
	c.Out.leave()
	_, err := c.In.look()
	c.In.final = true
	return err
}

// Close says that this end is gone. The caller sends an event after it, asked for or not. What the peer wrote can still be read, and
// the peer can still read what this end wrote.
func (c *Core) Close() {
	c.ctl.Or8(c.ownAsk, closedWell)
	c.ctl.Store8(c.ownLive, liveExited)
}

// Abort says that this end is gone and does not say that it closed: to a peer of ours that is as if it had died. The caller sends an event
// after it.
func (c *Core) Abort() { c.ctl.Store8(c.ownLive, liveExited) }
