// Package gfn hands out guest frame numbers of a simulated domain: numbers for its memory, and numbers behind which there is nothing,
// so that Xen can be asked to put something there.
package gfn

import (
	"fmt"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// The two ranges that numbers come from. They only have to be apart and below 2^32, since a version 1 grant entry has 32 bits for one.
const (
	firstRAM      hypercall.GFN = 0x1000
	firstReserved hypercall.GFN = 0x8000_0000
	endRAM                      = firstReserved
	endReserved   hypercall.GFN = 0xffff_0000
)

// Store is the frame number of the Xenstore page, which the toolstack put there before the domain ran.
const Store hypercall.GFN = 0xfff

// MaxRun is how many consecutive frames one call hands out at most: 4 GiB of them.
const MaxRun = 1 << 20

// Allocator hands out runs of frame numbers, and takes whole runs back. It is not safe for concurrent use.
type Allocator struct {
	ram      span
	reserved span
}

type span struct {
	next, end hypercall.GFN
	runs      map[hypercall.GFN]int   // what is handed out: first number to length
	free      map[int][]hypercall.GFN // what came back, by length
}

// New returns an allocator that has handed nothing out.
func New() *Allocator {
	return &Allocator{ram: newSpan(firstRAM, endRAM), reserved: newSpan(firstReserved, endReserved)}
}

func newSpan(first, end hypercall.GFN) span {
	return span{next: first, end: end, runs: make(map[hypercall.GFN]int), free: make(map[int][]hypercall.GFN)}
}

// RAM hands out n numbers for memory.
func (a *Allocator) RAM(n int) (hypercall.GFN, error) { return a.ram.take(n) }

// Reserve hands out n numbers with nothing behind them.
func (a *Allocator) Reserve(n int) (hypercall.GFN, error) { return a.reserved.take(n) }

// FreeRAM takes back what one call of RAM handed out.
func (a *Allocator) FreeRAM(first hypercall.GFN, n int) error { return a.ram.put(first, n) }

// Unreserve takes back what one call of Reserve handed out.
func (a *Allocator) Unreserve(first hypercall.GFN, n int) error { return a.reserved.put(first, n) }

// Runs returns how many runs of memory and of reserved numbers are handed out.
func (a *Allocator) Runs() (ram, reserved int) { return len(a.ram.runs), len(a.reserved.runs) }

func (s *span) take(n int) (hypercall.GFN, error) {
	if n <= 0 || n > MaxRun {
		return 0, fmt.Errorf("%d frames: not between 1 and %d", n, MaxRun)
	}
	if list := s.free[n]; len(list) > 0 {
		first := list[len(list)-1]
		s.free[n] = list[:len(list)-1]
		s.runs[first] = n
		return first, nil
	}
	if s.end-s.next < hypercall.GFN(n) {
		return 0, fmt.Errorf("%d frames: no frame number is left", n)
	}
	first := s.next
	s.next += hypercall.GFN(n)
	s.runs[first] = n
	return first, nil
}

func (s *span) put(first hypercall.GFN, n int) error {
	if got, ok := s.runs[first]; !ok || got != n {
		return fmt.Errorf("%d frames from %#x: not handed out as one run", n, uint64(first))
	}
	delete(s.runs, first)
	s.free[n] = append(s.free[n], first)
	return nil
}

// IsRAM reports whether the number is of those that RAM hands out.
func IsRAM(n hypercall.GFN) bool { return n >= firstRAM && n < endRAM }
