// Package shm is the only door to memory that a peer can write.
//
// A [Region] is a vector of 4096-byte pages (Xen's page, whatever the machine's page is). The pages are Go heap memory, as the
// simulator uses it, or mapped from a descriptor, as devices and other processes hand it over. They need not be contiguous, and one
// page may stand in a region twice: a peer that grants the same page twice makes it so.
//
//	            Region                          the program
//	   0 ┌──────────────────────┐
//	     │ page 0   (heap)      │ ── Load32 ───▶  Untrusted ── AtMost, Ahead, ... ──▶ a number
//	4096 ├──────────────────────┤
//	     │ page 1   (a memfd)   │ ── CopyOut ──▶  a []byte of its own
//	8192 ├──────────────────────┤ ◀─ CopyIn ───
//	     │ page 2 = page 0      │ ── CopyOutTo ─▶ a file or a socket, past the program
//	     └──────────────────────┘ ◀─ CopyInFrom ─
//
// # What it promises
//
//   - No method hands out a slice or a pointer into the memory. Words are loaded and stored atomically, bytes are copied out and in.
//     What has been copied out is the caller's own: check it, then use it, and the peer can no longer change it.
//
//   - Words that were loaded come as [Untrusted] values, which cannot be used as numbers before they have been checked.
//
//   - Offsets are checked on every access, without overflow. An offset outside the region, or one that is not aligned for its word, is
//     a mistake of the program (never of a peer, whose values are checked first), and panics with a [*BoundsError], as indexing a
//     slice does. [Region.ReadAt] and [Region.WriteAt] return it as an error instead.
//
//   - Closing a region never makes a late access fault. Reads find zeros, writes go nowhere, and [Region.LateAccesses] counts both.
//     A mapping that nobody closes is given back when nothing refers to its region any more.
//
// # Reading what a peer wrote
//
// A ring is read like this: load the peer's index once, check it, copy the slot out, check the copy, use the copy.
//
//	n, err := r.Load32(prodOff).Ahead(cons, slots) // how many the peer produced; an error where it cannot be
//	if err != nil {
//		return fmt.Errorf("producer index: %w", err)
//	}
//	if n > 0 {
//		r.CopyOut(slot[:], slotOff(cons))
//	}
//
// # Where the memory comes from
//
// [New] takes Go heap memory. [NewFile] makes a sealed memfd to hand to another process, which checks it with [VerifySealed]; both
// sides [Map] it. Drivers get their regions from packages grant and hypercall. [Join] puts regions one after the other, [Region.Slice]
// takes a part.
//
// # Memory order
//
// Loads, stores, [Region.Or8], [Region.CompareAndSwap32] and the like are sequentially consistent, as package sync/atomic's
// operations are. Copies are plain memory moves: they are ordered by the atomics around them, as ring protocols need (write the
// data, then store the producer index; load the producer index, then read the data). Words are little-endian, as the machines are that
// hypervisors run on.
//
// Stores of 8 and 16 bits are one instruction on amd64 and arm64. The other operations of 8 and 16 bits work on the aligned 32-bit word
// around the bytes, and so do these stores under the race detector, which knows no narrower atomics: it takes a copy over bytes beside
// a narrow word, in the same 32 bits and at the same time, for a race. No operation writes neighbouring bytes back stale. The detector
// sees heap regions only: mapped memory is invisible to it.
//
// # Observing accesses
//
// [Region.Observe] installs an [Observer], which is told of each access before it happens. Explorers switch tasks there and fault
// injectors change the memory there. In production the observer is nil and costs one test of a pointer.
//
// # Concurrency
//
// A Region may be used by many goroutines at once, Close included.
package shm
