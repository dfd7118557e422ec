package evtchn

import (
	"fmt"
	"math/bits"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// TwoLevel is the core of 2-level event channels: the bitmaps in shared_info (public xen.h), which Xen sets bits in and this side
// clears. It has no lock, makes no hypercall and keeps nothing but where to go on scanning, so that no port is favoured. [Native] is
// the shell around it, for programs; explorers drive it as it is.
//
// Begin and Next belong to one scanner at a time. The other methods may be called at any time: each is a few atomic accesses.
//
// Xen makes an event arrive at a port so: it sets the port's bit in evtchn_pending, and goes on only where that was clear and the
// port's bit in evtchn_mask is clear; it sets the word's bit in the vCPU's evtchn_pending_sel, and goes on only where that was clear;
// it sets the vCPU's evtchn_upcall_pending and interrupts it. A scan takes these away in the opposite order:
//
//	evtchn_upcall_pending   1 byte a vCPU     Begin stores 0: what comes from now on interrupts anew
//	evtchn_pending_sel      1 word a vCPU     Begin swaps it for 0
//	evtchn_pending          1 bit a port      Next clears the bit of each port that it returns
//	evtchn_mask             1 bit a port      Next leaves pending what is masked; Unmask looks there
type TwoLevel struct {
	info   *shm.Region
	layout hypercall.SharedInfo
	vcpus  int
	bits   int // in a word

	// The scan under way: the words of selector that are left, and the unmasked pending bits that are left of word.
	selector uint64
	word     int
	pending  uint64
	// from is the port at which the next scan begins: the one after the last that was returned.
	from int
	// first is the word where the scan under way began, and tail those bits of it that were below from: they come last.
	first int
	tail  uint64
}

// NewTwoLevel returns the core for a shared_info of the ABI, as the way to it is info. It looks for the events of the first vcpus
// vCPUs (at least one). It touches nothing yet.
func NewTwoLevel(abi hypercall.ABI, info *shm.Region, vcpus int) (*TwoLevel, error) {
	layout := abi.SharedInfo()
	if info == nil || info.Size() < layout.Size || !info.Writable() {
		return nil, fmt.Errorf("evtchn: shared_info of %v needs a writable region of %d bytes", abi, layout.Size)
	}
	if vcpus < 1 || vcpus > layout.VCPUs {
		return nil, fmt.Errorf("evtchn: %d vCPUs: shared_info of %v has room for 1 to %d", vcpus, abi, layout.VCPUs)
	}
	return &TwoLevel{info: info, layout: layout, vcpus: vcpus, bits: layout.WordBytes * 8, word: -1}, nil
}

// Ports returns how many ports there are. Port 0 is never used.
func (c *TwoLevel) Ports() int { return c.layout.Ports() }

// MaskAll masks every port. What is pending stays pending, and arrives when its port is unmasked.
func (c *TwoLevel) MaskAll() {
	for i := range c.bits {
		c.or(c.layout.EvtchnMask+i*c.layout.WordBytes, ^uint64(0))
	}
}

// Mask holds back what arrives at the port from now on.
func (c *TwoLevel) Mask(port hypercall.Port) {
	off, bit := c.locate(port)
	c.or(c.layout.EvtchnMask+off, bit)
}

// Unmask ends Mask. Where an event came meanwhile Xen has told nobody, so the port is masked again and the result is true: the caller
// must then have Xen unmask it (EVTCHNOP_unmask), which delivers the event.
func (c *TwoLevel) Unmask(port hypercall.Port) (askXen bool) {
	off, bit := c.locate(port)
	c.and(c.layout.EvtchnMask+off, ^bit)
	if c.load(c.layout.EvtchnPending+off)&bit == 0 {
		return false // an event from now on finds the port unmasked
	}
	// The event may have come before the mask was cleared, or after. In the first case Xen did not tell; EVTCHNOP_unmask does
	// nothing for a port that is not masked, hence the mask again. In the second case there may be one scan too many.
	c.or(c.layout.EvtchnMask+off, bit)
	return true
}

// Masked reports whether the port is masked.
func (c *TwoLevel) Masked(port hypercall.Port) bool {
	off, bit := c.locate(port)
	return c.load(c.layout.EvtchnMask+off)&bit != 0
}

// Pending reports whether an event is pending at the port.
func (c *TwoLevel) Pending(port hypercall.Port) bool {
	off, bit := c.locate(port)
	return c.load(c.layout.EvtchnPending+off)&bit != 0
}

// ClearPending drops an event that is pending at the port, and reports whether one was.
func (c *TwoLevel) ClearPending(port hypercall.Port) bool {
	off, bit := c.locate(port)
	return c.and(c.layout.EvtchnPending+off, ^bit)&bit != 0
}

// Begin begins a scan: it takes over what Xen has told of so far, and reports whether there is anything to scan. What is left of a
// scan that was not carried on until Next returned false is part of the new one.
func (c *TwoLevel) Begin() bool {
	if c.word >= 0 {
		c.selector |= 1<<c.word | 1<<c.first
	}
	for v := range c.vcpus {
		base := v * c.layout.VCPUSize
		if c.info.Load8(base+c.layout.UpcallPending).Is(0) && c.load(base+c.layout.PendingSel) == 0 {
			continue
		}
		// First the byte, then the selector: an event between the two interrupts once more than it must, never less.
		c.info.Store8(base+c.layout.UpcallPending, 0)
		c.selector |= c.swap(base + c.layout.PendingSel)
	}
	c.word, c.pending, c.tail = -1, 0, 0
	return c.selector != 0
}

// Next takes the next arrival of a scan: it clears the pending bit and returns the port. Each port comes at most once in a scan, so a
// scan ends after at most Ports ports, however fast the other side sends.
func (c *TwoLevel) Next() (hypercall.Port, bool) {
	for {
		for c.pending != 0 {
			bit := bits.TrailingZeros64(c.pending)
			c.pending &= c.pending - 1
			port := c.word*c.bits + bit
			off, mask := c.locate(hypercall.Port(port))
			if c.and(c.layout.EvtchnPending+off, ^mask)&mask == 0 {
				continue // somebody else dropped it
			}
			c.from = (port + 1) % c.Ports()
			return hypercall.Port(port), true
		}
		if !c.nextWord() {
			return 0, false
		}
	}
}

// nextWord goes on to the next word that is selected, counted from where the last scan ended and round. The word where it begins is
// scanned in two parts: its bits from there on first, those below last.
func (c *TwoLevel) nextWord() bool {
	if c.word < 0 {
		c.first = c.from / c.bits
		c.word = c.first
		if c.selector>>c.first&1 != 0 {
			c.selector &^= 1 << c.first
			all := c.unmasked(c.first)
			low := uint64(1)<<(c.from%c.bits) - 1
			c.pending, c.tail = all&^low, all&low
			return true
		}
	}
	if c.selector != 0 {
		at := c.word
		above := c.selector >> (at + 1) << (at + 1)
		if above == 0 {
			above = c.selector
		}
		c.word = bits.TrailingZeros64(above)
		c.selector &^= 1 << c.word
		c.pending = c.unmasked(c.word)
		return true
	}
	if c.tail != 0 {
		c.word, c.pending, c.tail = c.first, c.tail, 0
		return true
	}
	c.word = -1
	return false
}

// unmasked returns the bits of a word that are pending and not masked.
func (c *TwoLevel) unmasked(word int) uint64 {
	off := word * c.layout.WordBytes
	return c.load(c.layout.EvtchnPending+off) &^ c.load(c.layout.EvtchnMask+off)
}

// locate returns the byte offset of the port's word in a bitmap, and its bit in it.
func (c *TwoLevel) locate(port hypercall.Port) (off int, bit uint64) {
	return int(port) / c.bits * c.layout.WordBytes, 1 << (int(port) % c.bits)
}

func (c *TwoLevel) load(off int) uint64 {
	if c.bits == 32 {
		return uint64(c.info.Load32(off).Unchecked())
	}
	return c.info.Load64(off).Unchecked()
}

func (c *TwoLevel) or(off int, mask uint64) uint64 {
	if c.bits == 32 {
		return uint64(c.info.Or32(off, uint32(mask)).Unchecked())
	}
	return c.info.Or64(off, mask).Unchecked()
}

func (c *TwoLevel) and(off int, mask uint64) uint64 {
	if c.bits == 32 {
		return uint64(c.info.And32(off, uint32(mask)).Unchecked())
	}
	return c.info.And64(off, mask).Unchecked()
}

func (c *TwoLevel) swap(off int) uint64 {
	if c.bits == 32 {
		return uint64(c.info.Swap32(off, 0).Unchecked())
	}
	return c.info.Swap64(off, 0).Unchecked()
}
