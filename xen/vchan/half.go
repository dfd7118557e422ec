package vchan

import (
	"syscall"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

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
