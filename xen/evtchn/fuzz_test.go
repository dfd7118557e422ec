package evtchn

import (
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// FuzzTwoLevel drives the bitmaps' core beside a Xen that sends events, and somebody who writes any bits into shared_info. The input is a
// program: an operation, and an offset or port in two bytes. A scan always ends, names ports that there are, each at most once; and as long
// as nobody wrote bits, no event is lost.
func FuzzTwoLevel(f *testing.F) {
	f.Add(byte(0), []byte{0, 5, 0, 1, 0, 0})
	f.Add(byte(1), []byte{0, 5, 0, 2, 5, 0, 0, 200, 0, 3, 5, 0, 1, 0, 0})
	f.Add(byte(2), []byte{4, 0, 8, 4, 1, 0, 1, 0, 0, 0, 9, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, kind byte, program []byte) {
		abi := [...]hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64}[kind%3]
		x := newFakeXen(abi)
		c, err := NewTwoLevel(abi, x.info, 1)
		if err != nil {
			t.Fatal(err)
		}
		owed, honest := make(map[hypercall.Port]bool), true
		for ; len(program) >= 3 && len(program) < 3000; program = program[3:] {
			arg := int(program[1]) | int(program[2])<<8
			port := hypercall.Port(arg%(c.Ports()-1)) + 1
			switch program[0] % 5 {
			case 0:
				x.pend(port)
				owed[port] = true
			case 1:
				scanOnce(t, c, owed)
			case 2:
				c.Mask(port)
			case 3:
				if c.Unmask(port) && x.unmask(port) {
					scanOnce(t, c, owed)
				}
			case 4:
				x.info.Store8(arg%x.layout.Size, program[0])
				honest = false
			}
		}
		if !honest {
			return
		}
		for range 2 {
			scanOnce(t, c, owed)
		}
		for port := range owed {
			if !c.Masked(port) {
				t.Fatalf("%v: the event at port %d was lost", abi, port)
			}
		}
	})
}

// scanOnce scans, and takes what is found off owed.
func scanOnce(t *testing.T, c *TwoLevel, owed map[hypercall.Port]bool) {
	if !c.Begin() {
		return
	}
	seen := make(map[hypercall.Port]bool)
	for port, ok := c.Next(); ok; port, ok = c.Next() {
		if int(port) >= c.Ports() || seen[port] {
			t.Fatalf("a scan names port %d of %d, seen before: %v", port, c.Ports(), seen[port])
		}
		seen[port] = true
		delete(owed, port)
	}
}
