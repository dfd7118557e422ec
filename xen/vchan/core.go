package vchan

import (
	"errors"
	"fmt"
	"io"
	"syscall"

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

// ring is one direction, seen from one end.
type ring struct {
	mem   *shm.Region
	base  int // of the ring's bytes in mem
	size  uint32
	chunk uint32 // the most that is copied before the peer is shown it: the two ends copy at the same time

	// own is the index that this end advances. The copy in the page is for the peer only and never read back: the peer could have
	// changed it.
	own uint32
	// seen is the peer's index as last loaded and checked. It only ever moves forward, and own and seen are never more than size
	// apart.
	seen            uint32
	ownOff, peerOff int // of the two indices in the control page
	peerField       string
}

// at returns where in mem the byte with that index is, and how many bytes follow before the ring wraps.
func (g *ring) at(index uint32) (off int, contiguous int) {
	i := index & (g.size - 1)
	return g.base + int(i), int(g.size - i)
}

// copyOut copies the bytes from index on into p, which is at most a ring long.
func (g *ring) copyOut(p []byte, index uint32) {
	off, n := g.at(index)
	n = min(n, len(p))
	g.mem.CopyOut(p[:n], off)
	if n < len(p) {
		g.mem.CopyOut(p[n:], g.base)
	}
}

// copyIn copies p, which is at most a ring long, to index on.
func (g *ring) copyIn(index uint32, p []byte) {
	off, n := g.at(index)
	n = min(n, len(p))
	g.mem.CopyIn(off, p[:n])
	if n < len(p) {
		g.mem.CopyIn(g.base, p[n:])
	}
}

// peer is what one direction knows of the other end.
type peer struct {
	ctl       *shm.Region
	liveOff   int
	liveField string
	askOff    int  // the notify byte in which this end asks
	tellOff   int  // the notify byte in which the peer asks
	mayWait   bool // whether the peer may still be said not to have come: on the server, until it has
	closed    bool
	cutOff    bool  // the peer is gone, and without the close that it promised
	err       error // sticky
}

// open looks whether the peer is there. A peer that has closed stays closed, whatever it writes later.
func (p *peer) open() (bool, error) {
	if p.closed || p.err != nil {
		return false, p.err
	}
	v := p.ctl.Load8(p.liveOff)
	switch {
	case v.Is(liveConnected):
		p.mayWait = false
		return true, nil
	case v.Is(liveExited):
		p.leave()
		return false, p.lost(p.ctl)
	case v.Is(liveWaiting) && p.mayWait:
		return true, nil
	}
	return false, p.fail(p.liveField, uint32(v.Unchecked()), errLiveByte)
}

// leave records that the peer has gone, and how.
func (p *peer) leave() {
	p.closed = true
	p.cutOff = p.ctl.Load8(p.tellOff).Bits(marksClose|closedWell) == marksClose
}

// lost returns hypercall.ErrStale, from then on always, if the platform has closed the memory under this end. What was loaded before
// the call may then be the zeros of a closed region, which nobody wrote.
func (p *peer) lost(mem *shm.Region) error {
	if p.err == nil && (mem.Closed() || p.ctl.Closed()) {
		p.err = hypercall.ErrStale
	}
	return p.err
}

// end returns what the end of the stream is: orderly, or syscall.ECONNRESET where the peer died.
func (p *peer) end(orderly error) error {
	if p.cutOff {
		return syscall.ECONNRESET
	}
	return orderly
}

// told takes the peer's request for the event away and reports whether there was one.
func (p *peer) told(bit uint8) bool {
	// The index was stored before this load, and the peer sets the bit before it looks at the index again. So either the bit is seen
	// here or the peer sees the index; a look that finds no bit needs no locked instruction.
	if p.ctl.Load8(p.tellOff).Bits(bit) == 0 {
		return false
	}
	return p.ctl.And8(p.tellOff, ^bit).Bits(bit) != 0
}

// ask asks the peer for the event. The caller looks at the index again afterwards.
func (p *peer) ask(bit uint8) { p.ctl.Or8(p.askOff, bit) }

// fail records that what the peer wrote is wrong, if it was the peer.
func (p *peer) fail(field string, v uint32, err error) error {
	if err := p.lost(p.ctl); err != nil {
		return err
	}
	p.err = &PeerError{Field: field, Value: uint64(v), Err: err}
	return p.err
}

// Receiver is the reading half of a [Core].
type Receiver struct {
	ring
	peer
	final bool // the final look was made
}

// Size returns the size of the ring in bytes.
func (r *Receiver) Size() int { return int(r.size) }

// known returns how many bytes are known to be readable.
func (r *Receiver) known() int { return int(r.seen - r.own) }

// look loads the peer's index, once, and checks it. After the final look, which follows the peer's close, nothing new is taken.
func (r *Receiver) look() (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.final {
		return r.known(), nil
	}
	v := r.ctl.Load32(r.peerOff)
	ahead, err := v.Ahead(r.seen, r.size-(r.seen-r.own))
	if err != nil {
		return 0, r.fail(r.peerField, v.Unchecked(), err)
	}
	r.seen += ahead
	return r.known(), nil
}

// available returns how many bytes can be read, and the end of the stream when there are fewer than want and never will be more:
// io.EOF, or syscall.ECONNRESET where the peer died. It looks at the peer's index only if fewer than want are known of.
func (r *Receiver) available(want int) (int, error) {
	if n := r.known(); n >= want && r.err == nil {
		return n, nil
	}
	n, err := r.look()
	if n >= want || err != nil {
		return n, err
	}
	open, err := r.open()
	if open || err != nil {
		return n, err
	}
	// The peer may have written between the look at its index and its close: look once more, now that it has ended.
	n, err = r.look()
	r.final = true
	if n >= want || err != nil {
		return n, err
	}
	return n, r.end(io.EOF)
}

// TryRead reads what is there, at most len(p) bytes. It returns 0 and no error when there is nothing, io.EOF when the peer has closed
// and everything was read, and syscall.ECONNRESET then when it died without closing. It is hypercall.ErrStale when the memory was closed
// under this end, as when this domain was resumed or has ended; what p then holds is nothing that the peer sent.
func (r *Receiver) TryRead(p []byte) (n int, notify bool, err error) {
	if len(p) == 0 {
		return 0, false, r.err
	}
	avail, err := r.available(1)
	if avail == 0 {
		return 0, false, err
	}
	if avail < len(p) {
		if avail, err = r.look(); err != nil {
			return 0, false, err
		}
	}
	n = min(avail, len(p), int(r.chunk))
	if notify, err = r.take(p[:n]); err != nil {
		return 0, false, err
	}
	return n, notify, nil
}

// TryRecv reads exactly len(p) bytes, or none: it reports whether it did. The error is a [*TooLargeError] if the ring can never hold so
// many, io.EOF when the peer has closed and nothing is left, io.ErrUnexpectedEOF when something is left but too little, and
// syscall.ECONNRESET in both cases when it died without closing. It is hypercall.ErrStale as for TryRead.
func (r *Receiver) TryRecv(p []byte) (ok, notify bool, err error) {
	if len(p) > int(r.size) {
		return false, false, &TooLargeError{Size: len(p), Max: int(r.size)}
	}
	if len(p) == 0 {
		return r.err == nil, false, r.err
	}
	avail, err := r.available(len(p))
	if avail >= len(p) && err == nil {
		notify, err = r.take(p)
		return err == nil, notify, err
	}
	if err == io.EOF && avail > 0 {
		err = io.ErrUnexpectedEOF
	}
	return false, false, err
}

// TryDiscard reads all there is and throws it away.
func (r *Receiver) TryDiscard() (n int, notify bool, err error) {
	if n, err = r.look(); n == 0 || err != nil {
		return 0, false, err
	}
	r.own += uint32(n)
	r.ctl.Store32(r.ownOff, r.own)
	return n, r.told(notifyRead), nil
}

// take copies p out, which is known to be there, and gives the place back to the peer.
func (r *Receiver) take(p []byte) (notify bool, err error) {
	r.copyOut(p, r.own)
	if err := r.lost(r.mem); err != nil {
		return false, err
	}
	r.own += uint32(len(p))
	r.ctl.Store32(r.ownOff, r.own)
	return r.told(notifyRead), nil
}

// Arm asks the peer for an event at its next write and then reports whether there are want bytes already, or a reason not to sleep.
func (r *Receiver) Arm(want int) (ready bool, err error) {
	if r.err != nil || r.closed {
		return true, r.err
	}
	r.ask(notifyWrite)
	n, err := r.look()
	return n >= want, err
}

// Changed reports whether the peer's index has moved since it was last looked at. It is for loops that spin.
func (r *Receiver) Changed() bool { return !r.ctl.Load32(r.peerOff).Is(r.seen) }

// Buffered returns how many bytes can be read at once.
func (r *Receiver) Buffered() (int, error) { return r.look() }

// Sender is the writing half of a [Core].
type Sender struct {
	ring
	peer
}

// Size returns the size of the ring in bytes.
func (s *Sender) Size() int { return int(s.size) }

// space returns how many bytes can be written. It looks at the peer's index only if fewer than want are known of.
func (s *Sender) space(want int) (int, error) {
	if n := int(s.size - (s.own - s.seen)); n >= want {
		return n, nil
	}
	return s.look()
}

// look loads the peer's index, once, and checks it.
func (s *Sender) look() (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	v := s.ctl.Load32(s.peerOff)
	ahead, err := v.Ahead(s.seen, s.own-s.seen)
	if err != nil {
		return 0, s.fail(s.peerField, v.Unchecked(), err)
	}
	s.seen += ahead
	return int(s.size - (s.own - s.seen)), nil
}

// TryWrite writes what there is space for. It returns 0 and no error when the ring is full, syscall.EPIPE when the peer has closed, and
// syscall.ECONNRESET when it died without closing.
func (s *Sender) TryWrite(p []byte) (n int, notify bool, err error) {
	if err := s.writable(); err != nil || len(p) == 0 {
		return 0, false, err
	}
	free, err := s.space(min(len(p), int(s.chunk)))
	if free == 0 || err != nil {
		return 0, false, err
	}
	n = min(free, len(p), int(s.chunk))
	s.copyIn(s.own, p[:n])
	if err := s.lost(s.mem); err != nil {
		return 0, false, err
	}
	return n, s.publish(n), nil
}

// TrySend writes head and body, one after the other, or nothing: it reports whether it did. The error is a [*TooLargeError] if the ring
// can never hold so many, syscall.EPIPE when the peer has closed, and syscall.ECONNRESET when it died without closing.
func (s *Sender) TrySend(head, body []byte) (ok, notify bool, err error) {
	n := len(head) + len(body)
	if n > int(s.size) {
		return false, false, &TooLargeError{Size: n, Max: int(s.size)}
	}
	if err := s.writable(); err != nil || n == 0 {
		return err == nil, false, err
	}
	free, err := s.space(n)
	if free < n || err != nil {
		return false, false, err
	}
	if len(head) > 0 {
		s.copyIn(s.own, head)
	}
	s.copyIn(s.own+uint32(len(head)), body)
	if err := s.lost(s.mem); err != nil {
		return false, false, err
	}
	return true, s.publish(n), nil
}

// writable returns why nothing can be written any more, if so.
func (s *Sender) writable() error {
	open, err := s.open()
	if !open && err == nil {
		err = s.end(syscall.EPIPE)
	}
	return err
}

// publish shows n bytes to the peer.
func (s *Sender) publish(n int) (notify bool) {
	s.own += uint32(n)
	s.ctl.Store32(s.ownOff, s.own)
	return s.told(notifyWrite)
}

// Arm asks the peer for an event at its next read and then reports whether there is space for want bytes already, or a reason not to
// sleep.
func (s *Sender) Arm(want int) (ready bool, err error) {
	if s.err != nil || s.closed {
		return true, s.err
	}
	s.ask(notifyRead)
	n, err := s.look()
	return n >= want, err
}

// Changed reports whether the peer's index has moved since it was last looked at. It is for loops that spin.
func (s *Sender) Changed() bool { return !s.ctl.Load32(s.peerOff).Is(s.seen) }

// Unread returns how many bytes the peer has not read yet, and whether it ever can.
func (s *Sender) Unread() (n int, open bool, err error) {
	free, err := s.look()
	if err != nil {
		return 0, false, err
	}
	open, err = s.open()
	return int(s.size) - free, open, err
}
