package shm

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Every accessor here has the same shape. The address of the word comes from at, which is inlined and knows only the common case: in
// bounds, aligned, neither closed nor observed. Where it has no address, slow finds out why. A nil address after that is a late access.
//
// The region must be reachable until the memory was touched, because its mapping is given back when it is not: hence the KeepAlive.

// at returns the address of the word of size bytes (a power of two) at off, or nil where the slow path has to look at the access. An
// aligned word in a page is inside it as a whole.
func (r *Region) at(off, size int) unsafe.Pointer {
	page, pages := uint(off)>>pageShift, r.pages // a copy: the compiler then knows that page is in bounds after the atomic load too
	if page >= uint(len(pages)) || off&(size-1) != 0 || r.state.tap.Load() != nil {
		return nil
	}
	return unsafe.Add(pages[page], off&pageMask)
}

// slow is at for the uncommon cases: it panics on misuse, tells the observer, and returns nil where the region is closed.
//
//go:noinline
func (r *Region) slow(op string, kind Kind, off, size int) unsafe.Pointer {
	write := kind != Load
	if uint(off) >= uint(r.size) || off&(size-1) != 0 || write && !r.writable {
		panic(r.misuse(op, off, size, write))
	}
	if !r.admit(kind, off, size) {
		return nil
	}
	return unsafe.Add(r.pages[off>>pageShift], off&pageMask)
}

// around returns the aligned 32-bit word around p, and how far the little-endian value at p is from its low end.
func around(p unsafe.Pointer, off int) (word *uint32, shift int) {
	return (*uint32)(unsafe.Add(p, -(off & 3))), off & 3 * 8
}

// Load8 loads the byte at off.
func (r *Region) Load8(off int) Untrusted[uint8] {
	p := r.at(off, 1)
	if p == nil {
		if p = r.slow("load", Load, off, 1); p == nil {
			return Untrusted[uint8]{}
		}
	}
	word, shift := around(p, off)
	v := uint8(atomic.LoadUint32(word) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint8]{v}
}

// Load16 loads the little-endian 16-bit word at off, which must be even.
func (r *Region) Load16(off int) Untrusted[uint16] {
	p := r.at(off, 2)
	if p == nil {
		if p = r.slow("load", Load, off, 2); p == nil {
			return Untrusted[uint16]{}
		}
	}
	word, shift := around(p, off)
	v := uint16(atomic.LoadUint32(word) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint16]{v}
}

// Load32 loads the little-endian 32-bit word at off, a multiple of 4.
func (r *Region) Load32(off int) Untrusted[uint32] {
	p := r.at(off, 4)
	if p == nil {
		if p = r.slow("load", Load, off, 4); p == nil {
			return Untrusted[uint32]{}
		}
	}
	v := atomic.LoadUint32((*uint32)(p))
	runtime.KeepAlive(r)
	return Untrusted[uint32]{v}
}

// Load64 loads the little-endian 64-bit word at off, a multiple of 8.
func (r *Region) Load64(off int) Untrusted[uint64] {
	p := r.at(off, 8)
	if p == nil {
		if p = r.slow("load", Load, off, 8); p == nil {
			return Untrusted[uint64]{}
		}
	}
	v := atomic.LoadUint64((*uint64)(p))
	runtime.KeepAlive(r)
	return Untrusted[uint64]{v}
}

// Store8 stores the byte at off, and no other byte.
func (r *Region) Store8(off int, v uint8) {
	p := r.at(off, 1)
	if p == nil || !r.writable {
		if p = r.slow("store", Store, off, 1); p == nil {
			return
		}
	}
	store8(p, off, v)
	runtime.KeepAlive(r)
}

// Store16 stores the little-endian 16-bit word at off, which must be even, and no other byte.
func (r *Region) Store16(off int, v uint16) {
	p := r.at(off, 2)
	if p == nil || !r.writable {
		if p = r.slow("store", Store, off, 2); p == nil {
			return
		}
	}
	store16(p, off, v)
	runtime.KeepAlive(r)
}

// Store32 stores the little-endian 32-bit word at off, a multiple of 4.
func (r *Region) Store32(off int, v uint32) {
	p := r.at(off, 4)
	if p == nil || !r.writable {
		if p = r.slow("store", Store, off, 4); p == nil {
			return
		}
	}
	atomic.StoreUint32((*uint32)(p), v)
	runtime.KeepAlive(r)
}

// Store64 stores the little-endian 64-bit word at off, a multiple of 8.
func (r *Region) Store64(off int, v uint64) {
	p := r.at(off, 8)
	if p == nil || !r.writable {
		if p = r.slow("store", Store, off, 8); p == nil {
			return
		}
	}
	atomic.StoreUint64((*uint64)(p), v)
	runtime.KeepAlive(r)
}

// Or8 sets the bits of mask in the byte at off and returns what it was.
func (r *Region) Or8(off int, mask uint8) Untrusted[uint8] {
	p := r.at(off, 1)
	if p == nil || !r.writable {
		if p = r.slow("or", Modify, off, 1); p == nil {
			return Untrusted[uint8]{}
		}
	}
	word, shift := around(p, off)
	old := uint8(atomic.OrUint32(word, uint32(mask)<<shift) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint8]{old}
}

// And8 clears the bits that are not in mask in the byte at off and returns what it was.
func (r *Region) And8(off int, mask uint8) Untrusted[uint8] {
	p := r.at(off, 1)
	if p == nil || !r.writable {
		if p = r.slow("and", Modify, off, 1); p == nil {
			return Untrusted[uint8]{}
		}
	}
	word, shift := around(p, off)
	old := uint8(atomic.AndUint32(word, ^(uint32(^mask)<<shift)) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint8]{old}
}

// Or16 sets the bits of mask in the 16-bit word at off and returns what it was.
func (r *Region) Or16(off int, mask uint16) Untrusted[uint16] {
	p := r.at(off, 2)
	if p == nil || !r.writable {
		if p = r.slow("or", Modify, off, 2); p == nil {
			return Untrusted[uint16]{}
		}
	}
	word, shift := around(p, off)
	old := uint16(atomic.OrUint32(word, uint32(mask)<<shift) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint16]{old}
}

// And16 clears the bits that are not in mask in the 16-bit word at off and returns what it was.
func (r *Region) And16(off int, mask uint16) Untrusted[uint16] {
	p := r.at(off, 2)
	if p == nil || !r.writable {
		if p = r.slow("and", Modify, off, 2); p == nil {
			return Untrusted[uint16]{}
		}
	}
	word, shift := around(p, off)
	old := uint16(atomic.AndUint32(word, ^(uint32(^mask)<<shift)) >> shift)
	runtime.KeepAlive(r)
	return Untrusted[uint16]{old}
}

// Or32 sets the bits of mask in the 32-bit word at off and returns what it was.
func (r *Region) Or32(off int, mask uint32) Untrusted[uint32] {
	p := r.at(off, 4)
	if p == nil || !r.writable {
		if p = r.slow("or", Modify, off, 4); p == nil {
			return Untrusted[uint32]{}
		}
	}
	old := atomic.OrUint32((*uint32)(p), mask)
	runtime.KeepAlive(r)
	return Untrusted[uint32]{old}
}

// And32 clears the bits that are not in mask in the 32-bit word at off and returns what it was.
func (r *Region) And32(off int, mask uint32) Untrusted[uint32] {
	p := r.at(off, 4)
	if p == nil || !r.writable {
		if p = r.slow("and", Modify, off, 4); p == nil {
			return Untrusted[uint32]{}
		}
	}
	old := atomic.AndUint32((*uint32)(p), mask)
	runtime.KeepAlive(r)
	return Untrusted[uint32]{old}
}

// Or64 sets the bits of mask in the 64-bit word at off and returns what it was.
func (r *Region) Or64(off int, mask uint64) Untrusted[uint64] {
	p := r.at(off, 8)
	if p == nil || !r.writable {
		if p = r.slow("or", Modify, off, 8); p == nil {
			return Untrusted[uint64]{}
		}
	}
	old := atomic.OrUint64((*uint64)(p), mask)
	runtime.KeepAlive(r)
	return Untrusted[uint64]{old}
}

// And64 clears the bits that are not in mask in the 64-bit word at off and returns what it was.
func (r *Region) And64(off int, mask uint64) Untrusted[uint64] {
	p := r.at(off, 8)
	if p == nil || !r.writable {
		if p = r.slow("and", Modify, off, 8); p == nil {
			return Untrusted[uint64]{}
		}
	}
	old := atomic.AndUint64((*uint64)(p), mask)
	runtime.KeepAlive(r)
	return Untrusted[uint64]{old}
}

// Swap32 stores v in the 32-bit word at off and returns what it was.
func (r *Region) Swap32(off int, v uint32) Untrusted[uint32] {
	p := r.at(off, 4)
	if p == nil || !r.writable {
		if p = r.slow("swap", Modify, off, 4); p == nil {
			return Untrusted[uint32]{}
		}
	}
	old := atomic.SwapUint32((*uint32)(p), v)
	runtime.KeepAlive(r)
	return Untrusted[uint32]{old}
}

// Swap64 stores v in the 64-bit word at off and returns what it was.
func (r *Region) Swap64(off int, v uint64) Untrusted[uint64] {
	p := r.at(off, 8)
	if p == nil || !r.writable {
		if p = r.slow("swap", Modify, off, 8); p == nil {
			return Untrusted[uint64]{}
		}
	}
	old := atomic.SwapUint64((*uint64)(p), v)
	runtime.KeepAlive(r)
	return Untrusted[uint64]{old}
}

// CompareAndSwap16 stores v in the 16-bit word at off if it is old, and reports whether it did. It fails only where the word differs
// from old: a change of the bytes beside it does not make it fail.
func (r *Region) CompareAndSwap16(off int, old, v uint16) bool {
	p := r.at(off, 2)
	if p == nil || !r.writable {
		if p = r.slow("compare-and-swap", Modify, off, 2); p == nil {
			return false
		}
	}
	word, shift := around(p, off)
	swapped := false
	for !swapped {
		was := atomic.LoadUint32(word)
		if uint16(was>>shift) != old {
			break
		}
		swapped = atomic.CompareAndSwapUint32(word, was, was&^(0xffff<<shift)|uint32(v)<<shift)
	}
	runtime.KeepAlive(r)
	return swapped
}

// CompareAndSwap32 stores v in the 32-bit word at off if it is old, and reports whether it did.
func (r *Region) CompareAndSwap32(off int, old, v uint32) bool {
	p := r.at(off, 4)
	if p == nil || !r.writable {
		if p = r.slow("compare-and-swap", Modify, off, 4); p == nil {
			return false
		}
	}
	swapped := atomic.CompareAndSwapUint32((*uint32)(p), old, v)
	runtime.KeepAlive(r)
	return swapped
}

// CompareAndSwap64 stores v in the 64-bit word at off if it is old, and reports whether it did.
func (r *Region) CompareAndSwap64(off int, old, v uint64) bool {
	p := r.at(off, 8)
	if p == nil || !r.writable {
		if p = r.slow("compare-and-swap", Modify, off, 8); p == nil {
			return false
		}
	}
	swapped := atomic.CompareAndSwapUint64((*uint64)(p), old, v)
	runtime.KeepAlive(r)
	return swapped
}
