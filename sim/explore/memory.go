package explore

import (
	"encoding/binary"
	"fmt"

	"github.com/hvkit/hvkit/shm"
)

// memory is watched memory: one or several regions over the same pages.
type memory struct {
	name   string
	index  int         // in the order of Watch, for hashes
	region *shm.Region // the first that was watched
	field  func(off, n int) string
	// shadow is what the memory's words were when they were last looked at, and sum the sum of their hashes: the memory's part of the
	// state. A write changes the sum by what it changed.
	shadow []uint64
	sum    uint64
}

// watch is one region as its memory's observer.
type watch struct {
	w      *World
	mem    *memory
	region *shm.Region
}

// BeforeAccess implements shm.Observer: the access of a party is a step.
func (o *watch) BeforeAccess(a shm.Access) {
	if o.w.unwinding {
		panic(stopped{}) // of a deferred function
	}
	t := o.w.current
	if t == nil {
		return // of the set-up, a fault or an oracle
	}
	t.step(op{code: codes[a.Kind], mem: o.mem, region: a.Region, off: a.Off, n: a.Len})
}

// Watch makes every access that a party makes to the region a step. name stands for the memory in listings; regions over the same pages,
// at the same offsets, are watched under the same name. Where Config.Merge is set the first of them is looked at for what the memory holds:
// nothing may close it. field names what lies at an offset, for listings; it may be nil.
func (w *World) Watch(name string, r *shm.Region, field func(off, n int) string) {
	var m *memory
	for _, known := range w.memories {
		if known.name == name {
			m = known
		}
	}
	if m == nil {
		m = &memory{name: name, index: len(w.memories), region: r, field: field}
		w.memories = append(w.memories, m)
	}
	if m.field == nil {
		m.field = field
	}
	r.Observe(&watch{w: w, mem: m, region: r})
	if w.merge && m.shadow == nil {
		m.shadow = make([]uint64, r.Size()/8)
		m.look(0, r.Size())
	}
}

// look takes over what the words of a span are now.
func (m *memory) look(off, n int) {
	if m.region.Closed() {
		panic("explore: the first region that was watched as " + m.name + " was closed: what the memory holds cannot be seen")
	}
	first, end := off/8, min((off+n+7)/8, len(m.shadow))
	var buf [512]byte
	for first < end {
		some := buf[:min(len(buf), (end-first)*8)]
		m.region.CopyOut(some, first*8)
		for ; len(some) > 0; some = some[8:] {
			now := binary.LittleEndian.Uint64(some)
			if was := m.shadow[first]; was != now {
				m.sum += word(first, now) - word(first, was)
				m.shadow[first] = now
			}
			first++
		}
	}
}

// word is the hash of a word at its place. A word of zeros adds nothing, so that memory starts as a sum of 0.
func word(i int, v uint64) uint64 {
	if v == 0 {
		return 0
	}
	return mix(mix(0, uint64(i)), v)
}

// describe names a span of the memory.
func (m *memory) describe(off, n int) string {
	if m.field != nil {
		if s := m.field(off, n); s != "" {
			return s
		}
	}
	return fmt.Sprintf("%s[%d:%d]", m.name, off, off+n)
}

// peek returns what lies at a span, at most 64 bytes of it, without a step.
func peek(r *shm.Region, off, n int, into []byte) []byte {
	n = min(n, 64)
	if off < 0 || off > r.Size()-n {
		return into[:0]
	}
	b := into[:n]
	r.CopyOut(b, off)
	return b
}
