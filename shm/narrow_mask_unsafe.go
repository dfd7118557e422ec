//go:build race || !(amd64 || arm64)

package shm

import (
	"sync/atomic"
	"unsafe"
)

// The race detector knows the atomics of sync/atomic, which have no 8 and 16-bit stores, and knows nothing of assembly. So under it
// narrow stores change the 32-bit word around them.

func store8(p unsafe.Pointer, off int, v uint8) {
	word, shift := around(p, off)
	storeMasked(word, uint32(v)<<shift, 0xff<<shift)
}

func store16(p unsafe.Pointer, off int, v uint16) {
	word, shift := around(p, off)
	storeMasked(word, uint32(v)<<shift, 0xffff<<shift)
}

// storeMasked stores the bits of v that are in mask and leaves the others as they are.
func storeMasked(word *uint32, v, mask uint32) {
	for {
		was := atomic.LoadUint32(word)
		if atomic.CompareAndSwapUint32(word, was, was&^mask|v) {
			return
		}
	}
}
