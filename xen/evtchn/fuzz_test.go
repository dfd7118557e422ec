package evtchn

import (
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// maxProgram bounds a program, so that an input takes microseconds.
const maxProgram = 600

// FuzzTwoLevel drives the bitmaps' core beside a Xen that sends events, and somebody who writes any bits into shared_info, both at any
// time: also between two accesses of one operation. The input is a program: each three bytes are an operation, and what it is done to.
// Whatever it says, a scan ends, and names only ports that there are, each at most once. As long as nobody wrote bits, no event is lost,
// and none arrives that was not sent.
func FuzzTwoLevel(f *testing.F) {
	f.Add(byte(0), []byte{opEvent, 5, 0, opScan, 0, 0})
	f.Add(byte(1), []byte{opEvent, 5, 0, opMask, 5, 0, opEvent, 200, 0, opUnmask, 5, 0, opScan, 0, 0})
	f.Add(byte(2), []byte{opWrite, 0, 8, opWrite, 1, 0, opScan, 0, 0, opEvent, 9, 0, opScan, 0, 0})
	f.Add(byte(0), []byte{opEvent, 5, 0, opLater, 1, 5, opLater, 3, 6, opScan, 0, 0, opDrop, 6, 0})
	f.Add(byte(1), []byte{opMask, 40, 0, opEvent, 40, 0, opLater, 2, 40, opUnmask, 40, 0, opScanSome, 1, 0, opEvent, 41, 0})
	f.Add(byte(2), []byte{opEvent, 1, 0, opHostile, 2, 255, opHostile, 5, 254, opScan, 0, 0, opScan, 0, 0})
	for kind := range abis {
		f.Add(byte(kind), []byte{opEvent, 5, 0, opLater, 2, 200, opScan, 0, 0})
		f.Add(byte(kind), []byte{opEvent, 3, 0, opEvent, 9, 0, opEvent, 20, 0, opEvent, 90, 0, opScanSome, 1, 0})
	}
	f.Fuzz(func(t *testing.T, kind byte, program []byte) {
		g := newEventModel(t, abis[int(kind)%len(abis)])
		for program = program[:min(len(program), maxProgram)]; len(program) >= 3; program = program[3:] {
			g.step(program[0]%opCount, program[1], program[2])
		}
		g.finish()
	})
}

// Operations of a program.
const (
	opEvent    = iota // Xen makes an event arrive at a port
	opScan            // a scan, to its end
	opScanSome        // a scan that is given up after some ports
	opMask
	opUnmask
	opDrop    // what is pending at a port is dropped
	opWrite   // somebody writes a byte of shared_info
	opLater   // Xen makes an event arrive before the access of that number in the operation that comes next
	opHostile // somebody writes a byte of the bitmaps before that access
	opCount
)

// eventModel is what there is beside the core: what was sent and has not arrived.
type eventModel struct {
	t       *testing.T
	x       *fakeXen
	c       *TwoLevel
	owed    map[hypercall.Port]bool
	masked  map[hypercall.Port]bool // at some time
	hostile bool                    // whether somebody wrote bits
	plan    []planned
}

// planned happens before a certain access.
type planned struct {
	in, arg int
	write   bool
}

func newEventModel(t *testing.T, abi hypercall.ABI) *eventModel {
	x := newFakeXen(abi)
	return &eventModel{t: t, x: x, c: newCore(t, x), owed: make(map[hypercall.Port]bool), masked: make(map[hypercall.Port]bool)}
}

func (g *eventModel) step(op, low, high byte) {
	arg := int(low) | int(high)<<8
	port := g.port(arg)
	if op != opLater && op != opHostile && len(g.plan) > 0 {
		g.x.info.Observe(g)
		defer func() {
			g.x.info.Observe(nil)
			g.plan = nil
		}()
	}
	switch op {
	case opEvent:
		g.event(port)
	case opScan:
		g.scan(g.c.Ports())
	case opScanSome:
		g.scan(arg % 8)
	case opMask:
		g.c.Mask(port)
		g.masked[port] = true
	case opUnmask:
		g.unmask(port)
	case opDrop:
		g.c.ClearPending(port)
		delete(g.owed, port)
	case opWrite:
		g.write(arg, high)
	case opLater, opHostile:
		g.plan = append(g.plan, planned{in: int(low) % 32, arg: int(high), write: op == opHostile})
	}
}

// port spreads arguments over the ports, with neighbours near to each other and in all words.
func (g *eventModel) port(arg int) hypercall.Port { return hypercall.Port(arg%(g.c.Ports()-1)) + 1 }

// BeforeAccess does what is planned before the next access.
func (g *eventModel) BeforeAccess(shm.Access) {
	for i := range g.plan {
		p := &g.plan[i]
		if p.in--; p.in != -1 {
			continue
		}
		g.x.info.Observe(nil)
		if p.write {
			g.write(p.arg*16+p.arg, byte(p.arg))
		} else {
			g.event(g.port(p.arg))
		}
		g.x.info.Observe(g)
	}
}

// event is Xen's half. It is never interrupted itself, as it is not by this domain.
func (g *eventModel) event(port hypercall.Port) {
	g.x.pend(port)
	g.owed[port] = true
}

func (g *eventModel) write(off int, b byte) {
	g.hostile = true
	g.x.info.Store8(off%g.x.layout.Size, b)
}

func (g *eventModel) unmask(port hypercall.Port) {
	if g.c.Unmask(port) {
		g.x.info.Observe(nil)
		g.x.unmask(port)
	}
}

// scan takes in at most so many ports, if Xen told of any.
func (g *eventModel) scan(most int) {
	if !g.c.Begin() {
		return
	}
	seen := make(map[hypercall.Port]bool)
	for len(seen) < most {
		port, ok := g.c.Next()
		switch {
		case !ok:
			return
		case int(port) >= g.c.Ports() || seen[port]:
			g.t.Fatalf("a scan names port %d of %d, seen before: %v", port, g.c.Ports(), seen[port])
		case !g.owed[port] && !g.hostile:
			g.t.Fatalf("an event arrives at port %d that nobody sent", port)
		}
		seen[port] = true
		delete(g.owed, port)
	}
}

// finish unmasks all and takes in what Xen tells of: all that was sent arrives. Whatever was written, that comes to an end.
func (g *eventModel) finish() {
	for port := range g.masked {
		if g.c.Masked(port) {
			g.unmask(port)
		}
	}
	scans := 0
	for !g.x.info.Load8(g.x.layout.UpcallPending).Is(0) || g.c.word >= 0 || g.c.selector != 0 { // the others are a scan given up
		g.scan(g.c.Ports() + 1)
		if scans++; scans > 3 {
			g.t.Fatal("scans find something again and again, and nobody sends")
		}
	}
	if g.hostile {
		return
	}
	for port := range g.owed {
		g.t.Errorf("the event at port %d was lost", port)
	}
	if err := g.x.info.Close(); err != nil {
		g.t.Fatal(err)
	}
}
