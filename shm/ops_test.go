package shm_test

import (
	"encoding/binary"

	"github.com/hvkit/hvkit/shm"
)

// wordOp is one of Region's word operations, with a model of it on a plain number. Tests run the whole table, so that no operation is
// forgotten.
type wordOp struct {
	name  string
	size  int // of the word, in bytes
	kind  shm.Kind
	real  func(r *shm.Region, off int, a, b uint64) uint64
	model func(old, a, b uint64) (now, result uint64)
}

var wordOps = []wordOp{
	{"Load8", 1, shm.Load, func(r *shm.Region, off int, _, _ uint64) uint64 { return num(r.Load8(off)) }, loadModel},
	{"Load16", 2, shm.Load, func(r *shm.Region, off int, _, _ uint64) uint64 { return num(r.Load16(off)) }, loadModel},
	{"Load32", 4, shm.Load, func(r *shm.Region, off int, _, _ uint64) uint64 { return num(r.Load32(off)) }, loadModel},
	{"Load64", 8, shm.Load, func(r *shm.Region, off int, _, _ uint64) uint64 { return num(r.Load64(off)) }, loadModel},

	{"Store8", 1, shm.Store, func(r *shm.Region, off int, a, _ uint64) uint64 { r.Store8(off, uint8(a)); return 0 }, storeModel},
	{"Store16", 2, shm.Store, func(r *shm.Region, off int, a, _ uint64) uint64 { r.Store16(off, uint16(a)); return 0 }, storeModel},
	{"Store32", 4, shm.Store, func(r *shm.Region, off int, a, _ uint64) uint64 { r.Store32(off, uint32(a)); return 0 }, storeModel},
	{"Store64", 8, shm.Store, func(r *shm.Region, off int, a, _ uint64) uint64 { r.Store64(off, a); return 0 }, storeModel},

	{"Or8", 1, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Or8(off, uint8(a))) }, orModel},
	{"Or16", 2, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Or16(off, uint16(a))) }, orModel},
	{"Or32", 4, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Or32(off, uint32(a))) }, orModel},
	{"Or64", 8, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Or64(off, a)) }, orModel},

	{"And8", 1, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.And8(off, uint8(a))) }, andModel},
	{"And16", 2, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.And16(off, uint16(a))) }, andModel},
	{"And32", 4, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.And32(off, uint32(a))) }, andModel},
	{"And64", 8, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.And64(off, a)) }, andModel},

	{"Swap32", 4, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Swap32(off, uint32(a))) }, swapModel},
	{"Swap64", 8, shm.Modify, func(r *shm.Region, off int, a, _ uint64) uint64 { return num(r.Swap64(off, a)) }, swapModel},

	{"CompareAndSwap16", 2, shm.Modify, func(r *shm.Region, off int, a, b uint64) uint64 {
		return bit(r.CompareAndSwap16(off, uint16(a), uint16(b)))
	}, casModel},
	{"CompareAndSwap32", 4, shm.Modify, func(r *shm.Region, off int, a, b uint64) uint64 {
		return bit(r.CompareAndSwap32(off, uint32(a), uint32(b)))
	}, casModel},
	{"CompareAndSwap64", 8, shm.Modify, func(r *shm.Region, off int, a, b uint64) uint64 {
		return bit(r.CompareAndSwap64(off, a, b))
	}, casModel},
}

func loadModel(old, _, _ uint64) (uint64, uint64) { return old, old }
func storeModel(_, a, _ uint64) (uint64, uint64)  { return a, 0 }
func orModel(old, a, _ uint64) (uint64, uint64)   { return old | a, old }
func andModel(old, a, _ uint64) (uint64, uint64)  { return old & a, old }
func swapModel(old, a, _ uint64) (uint64, uint64) { return a, old }
func casModel(old, a, b uint64) (now, done uint64) {
	if old == a {
		return b, 1
	}
	return old, 0
}

func num[T shm.Unsigned](u shm.Untrusted[T]) uint64 { return uint64(u.Unchecked()) }

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// word cuts v to the operation's word.
func (o *wordOp) word(v uint64) uint64 { return v << (64 - 8*o.size) >> (64 - 8*o.size) }

// runModel does the operation on plain bytes and returns what it should return.
func (o *wordOp) runModel(mem []byte, a, b uint64) uint64 {
	var le [8]byte
	copy(le[:], mem[:o.size])
	now, result := o.model(binary.LittleEndian.Uint64(le[:]), o.word(a), o.word(b))
	binary.LittleEndian.PutUint64(le[:], now)
	copy(mem[:o.size], le[:])
	return result
}

// contents copies the whole region out.
func contents(r *shm.Region) []byte {
	b := make([]byte, r.Size())
	r.CopyOut(b, 0)
	return b
}

// scattered returns n heap pages of which no two that follow each other in the region do so in memory.
func scattered(n int) *shm.Region {
	heap := shm.New(n)
	pages := make([]*shm.Region, n)
	for i := range pages {
		pages[i] = heap.Slice(n-1-i, 1)
	}
	return shm.Join(pages...)
}
