package grant

import (
	"encoding/binary"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// A version 1 entry (grant_entry_v1 in public grant_table.h) is 8 bytes: flags and domid of 16 bits each, then frame of 32 bits. Its
// first word, flags and domid together, is aligned, and so are the flags alone.
const (
	entrySize     = 8
	entryDomain   = 2
	entryFrame    = 4
	maxEntryFrame = 1<<32 - 1
	entryInUse    = hypercall.EntryReading | hypercall.EntryWriting
)

// endTries bounds the compare-and-swaps with which one reference is ended. A swap fails only because Xen changed the flags, as a
// peer maps or unmaps; a peer that does so without end is told from one that maps by nothing, so its reference is busy.
const endTries = 4

// V1 is the core of a native grant table of version 1: which references are free, the entries themselves, and what was ended but is
// still mapped. It has no lock and makes no hypercall, and its only shared accesses are those of Survey, Permit and End.
//
// Methods must not run at the same time, except Permit and End, which touch nothing but the entry of one reference: whoever took the
// reference may call them at any time. [Native] is the shell around it, for programs; explorers drive it as it is.
//
// A reference goes round like this:
//
//	        Take                 Permit                  End: true              Put
//	free ─────────▶ taken ─────────────────▶ granted ─────────────────▶ taken ─────────▶ free (last in the queue)
//	                                            │
//	                                            │ End: false
//	                                            ▼
//	                                     in a Batch (Quarantine) ── End again, until it is true
type V1 struct {
	frames []*shm.Region // as many as the table can have; those from grown on are nil
	grown  int

	// The free list is first in, first out, so that a reference is used again as late as can be: a peer's late message that names it
	// then most likely names nothing.
	next       []Ref // next[r] follows r in the free list; or a mark
	head, tail Ref
	free       int

	oldest, newest *Batch
	batches        int
	held           int // pages in the batches
	heldBy         map[hypercall.DomID]int
}

// Marks in V1.next. No reference is as large: a table of so many entries would have 8 million frames.
const (
	markEnd      Ref = 1<<32 - 1 - iota // the last of the free list
	markTaken                           // taken by somebody
	markReserved                        // never handed out
)

// maxV1Frames bounds the frames of a table (2 million references in 16 MiB), whatever Xen says its limit is.
const maxV1Frames = 4096

// Batch is what is left of a share that was ended while a peer had some of it mapped.
type Batch struct {
	Peer  hypercall.DomID // whom the pages were shared with, if there are any
	Refs  []Ref           // the references that a peer holds yet
	First hypercall.GFN   // the share's pages, which go back together when the last reference is free
	Pages int             // how many; 0 for entries in use from before the table was set up, which have no page of ours
	next  *Batch
}

func (b *Batch) weight() int { return max(b.Pages, len(b.Refs)) }

// NewV1 returns the core of a table that can grow to the given number of frames, of 512 references each. It has none yet.
func NewV1(limit int) *V1 {
	frames := make([]*shm.Region, min(max(limit, 0), maxV1Frames))
	return &V1{frames: frames, head: markEnd, tail: markEnd, heldBy: make(map[hypercall.DomID]int)}
}

// Survey prepares a frame that Xen just put behind region for Grow: it ends what is granted there already, by whoever ran in this
// domain before, and returns the entries (counted from the start of the frame) that are in use and cannot be ended. It does not touch
// the reserved references of the table's first frame.
func Survey(region *shm.Region, first bool) (busy []int) {
	i := 0
	if first {
		i = hypercall.NumReservedGrants
	}
	var entries [hypercall.GrantsPerFrame * entrySize]byte
	region.CopyOut(entries[:], 0)
	for ; i < hypercall.GrantsPerFrame; i++ {
		granted := binary.LittleEndian.Uint16(entries[i*entrySize:]) != 0 // Xen leaves an entry alone that grants nothing
		if granted && !endEntry(region, i*entrySize) {
			busy = append(busy, i)
		}
	}
	return busy
}

// Grow adds the table's next frame. Its references become free, but for the reserved ones (the first 8 of the table) and the busy
// ones that Survey found, which go into quarantine.
func (v *V1) Grow(region *shm.Region, busy []int) {
	base := Ref(v.grown * hypercall.GrantsPerFrame)
	v.frames[v.grown] = region
	v.grown++
	for i := range hypercall.GrantsPerFrame {
		r := base + Ref(i)
		switch {
		case r < hypercall.NumReservedGrants:
			v.next = append(v.next, markReserved)
		case len(busy) > 0 && busy[0] == i:
			busy = busy[1:]
			v.next = append(v.next, markTaken)
			v.Quarantine(&Batch{Refs: []Ref{r}})
		default:
			v.next = append(v.next, markTaken)
			v.put(r)
		}
	}
}

// Frames returns how many frames the table has.
func (v *V1) Frames() int { return v.grown }

// Limit returns how many frames it can have.
func (v *V1) Limit() int { return len(v.frames) }

// Free returns how many references are free.
func (v *V1) Free() int { return v.free }

// Size returns how many references the table has now, reserved ones included.
func (v *V1) Size() int { return len(v.next) }

// Capacity returns how many references it can ever hand out.
func (v *V1) Capacity() int {
	return max(0, len(v.frames)*hypercall.GrantsPerFrame-hypercall.NumReservedGrants)
}

// Take fills refs with free references, those that have been free longest, or takes none and returns false.
func (v *V1) Take(refs []Ref) bool {
	if len(refs) > v.free {
		return false
	}
	for i := range refs {
		r := v.head
		v.head = v.next[r]
		v.next[r] = markTaken
		refs[i] = r
	}
	v.free -= len(refs)
	if v.free == 0 {
		v.tail = markEnd
	}
	return true
}

// Put gives references back that were taken, in that order. It panics for one that was not: using a reference twice would grant a
// peer the wrong page.
func (v *V1) Put(refs []Ref) {
	for _, r := range refs {
		v.put(r)
	}
}

func (v *V1) put(r Ref) {
	if int64(r) >= int64(len(v.next)) || v.next[r] != markTaken {
		panic(fmt.Sprintf("grant: reference %d is given back but was not taken", r))
	}
	v.next[r] = markEnd
	if v.free == 0 {
		v.head = r
	} else {
		v.next[v.tail] = r
	}
	v.tail = r
	v.free++
}

// entry returns where the entry of a reference that was taken is.
func (v *V1) entry(r Ref) (*shm.Region, int) {
	return v.frames[r/hypercall.GrantsPerFrame], int(r%hypercall.GrantsPerFrame) * entrySize
}

// Permit lets peer map the frame under r, which the caller took. The frame number must fit 32 bits, as the entry's field does.
func (v *V1) Permit(r Ref, peer hypercall.DomID, frame hypercall.GFN, access Access) {
	region, off := v.entry(r)
	flags := uint16(hypercall.EntryPermitAccess)
	if access == ReadOnly {
		flags |= hypercall.EntryReadOnly
	}
	// The flags come last: with them the entry is valid, and Xen reads all of it (public grant_table.h, "introducing a valid entry").
	region.Store16(off+entryDomain, uint16(peer))
	region.Store32(off+entryFrame, uint32(frame))
	region.Store16(off, flags)
}

// End takes back what was permitted under r, and reports whether it could: false means that the peer has it mapped, and changed
// nothing. It is one compare-and-swap, never a look at the flags followed by a store, because a peer may map in between.
func (v *V1) End(r Ref) bool {
	region, off := v.entry(r)
	return endEntry(region, off)
}

func endEntry(region *shm.Region, off int) bool {
	for range endTries {
		flags := region.Load16(off).Unchecked() // any value is harmless: it is only put back or compared
		if flags&entryInUse != 0 {
			return false
		}
		if flags == 0 || region.CompareAndSwap16(off, flags, 0) {
			return true
		}
	}
	return false
}

// EndAll ends each of refs, which it does not change, and returns those that came free and those that are busy.
func (v *V1) EndAll(refs []Ref) (freed, busy []Ref) {
	for i, r := range refs {
		switch {
		case !v.End(r):
			if busy == nil {
				freed = append(make([]Ref, 0, len(refs)-1), refs[:i]...)
			}
			busy = append(busy, r)
		case busy != nil:
			freed = append(freed, r)
		}
	}
	if busy == nil {
		return refs, nil
	}
	return freed, busy
}

// Quarantine keeps a batch until its references come free.
func (v *V1) Quarantine(b *Batch) {
	b.next = nil
	if v.newest == nil {
		v.oldest = b
	} else {
		v.newest.next = b
	}
	v.newest = b
	v.batches++
	v.held += b.weight()
	if b.Pages > 0 {
		v.heldBy[b.Peer] += b.Pages
	}
}

// Release takes the oldest batch out of quarantine, for another try at its references; nil when there is none. A batch of which
// something is busy still goes back with Quarantine.
func (v *V1) Release() *Batch {
	b := v.oldest
	if b == nil {
		return nil
	}
	v.oldest = b.next
	if v.oldest == nil {
		v.newest = nil
	}
	b.next = nil
	v.batches--
	v.held -= b.weight()
	if v.heldBy[b.Peer] -= b.Pages; v.heldBy[b.Peer] <= 0 {
		delete(v.heldBy, b.Peer)
	}
	return b
}

// Batches returns how many batches are in quarantine.
func (v *V1) Batches() int { return v.batches }

// Held returns how many pages are in quarantine.
func (v *V1) Held() int { return v.held }

// HeldBy returns how many pages are in quarantine that were shared with peer.
func (v *V1) HeldBy(peer hypercall.DomID) int { return v.heldBy[peer] }
