package grant

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// newV1 returns a core with one frame, and the frame.
func newV1(limit int) (*V1, *shm.Region) {
	v, r := NewV1(limit), shm.New(1)
	v.Grow(r, Survey(r, true))
	return v, r
}

// pin marks an entry as mapped, as Xen does; unpin is the opposite.
func pin(r *shm.Region, ref Ref)   { r.Or16(int(ref)*entrySize, hypercall.EntryReading) }
func unpin(r *shm.Region, ref Ref) { r.And16(int(ref)*entrySize, ^uint16(entryInUse)) }

func TestV1Entry(t *testing.T) {
	v, r := newV1(1)
	var refs [2]Ref
	require.True(t, v.Take(refs[:]))
	require.Equal(t, [2]Ref{8, 9}, refs, "after the reserved ones")
	v.Permit(8, 3, 0x12345, ReadWrite)
	v.Permit(9, 0x7FEF, 0xFFFFFFFF, ReadOnly)
	for ref, want := range map[Ref]hypercall.GrantEntry{
		8: {Flags: hypercall.EntryPermitAccess, Dom: 3, Frame: 0x12345},
		9: {Flags: hypercall.EntryPermitAccess | hypercall.EntryReadOnly, Dom: 0x7FEF, Frame: 0xFFFFFFFF},
	} {
		var b [8]byte
		r.CopyOut(b[:], int(ref)*8)
		require.Equal(t, []byte{
			byte(want.Flags), byte(want.Flags >> 8), byte(want.Dom), byte(want.Dom >> 8),
			byte(want.Frame), byte(want.Frame >> 8), byte(want.Frame >> 16), byte(want.Frame >> 24),
		}, b[:])
	}
	require.True(t, v.End(8))
	require.True(t, r.Load16(64).Is(0))
	require.True(t, v.End(8), "once more")
}

// The flags of an entry are written after the rest of it.
func TestV1PermitOrder(t *testing.T) {
	v, r := newV1(1)
	var offs []int
	r.Observe(observer(func(a shm.Access) { offs = append(offs, a.Off) }))
	v.Permit(8, 1, 1, ReadWrite)
	require.Equal(t, []int{66, 68, 64}, offs)
}

type observer func(shm.Access)

func (o observer) BeforeAccess(a shm.Access) { o(a) }

// G-02: a peer that maps between the look at the flags and their change keeps the page.
func TestG02_MapDuringEnd(t *testing.T) {
	v, r := newV1(1)
	require.True(t, v.Take(make([]Ref, 1)))
	v.Permit(8, 1, 1, ReadWrite)
	r.Observe(observer(func(a shm.Access) {
		if a.Kind == shm.Modify {
			r.Observe(nil)
			pin(r, 8)
		}
	}))
	require.False(t, v.End(8))
	require.True(t, r.Load16(64).Is(hypercall.EntryPermitAccess|hypercall.EntryReading), "nothing was changed")
	unpin(r, 8)
	require.True(t, v.End(8))
}

// G-02: the peer maps, unmaps and maps again, each before any access of an end. What was ended it does not have and cannot get, and what it
// has was not ended.
func TestG02_MapAtEveryStepOfEnd(t *testing.T) {
	const most = 2 * endTries // accesses of an end
	busy, ended := 0, 0
	for i := range most + 1 {
		for j := i; j <= most; j++ {
			for k := j; k <= most; k++ {
				v, r := newV1(1)
				require.True(t, v.Take(make([]Ref, 1)))
				v.Permit(8, 1, 1, ReadWrite)
				p := &mapper{r: r, at: []int{i, j, k}}
				r.Observe(p)
				ok := v.End(8)
				r.Observe(nil)
				require.NotEqual(t, p.has, ok, "mapped %v, ended %v, with steps before %v", p.has, ok, p.at)
				if ok {
					ended++
					require.True(t, r.Load16(64).Is(0))
					p.step()
					require.False(t, p.has, "mapped what was ended")
					continue
				}
				busy++
				require.Equal(t, uint16(hypercall.EntryPermitAccess|hypercall.EntryReading), r.Load16(64).Unchecked())
				unpin(r, 8)
				require.True(t, v.End(8))
			}
		}
	}
	require.NotZero(t, busy)
	require.NotZero(t, ended)
}

// mapper is a peer that has Xen map and unmap reference 8 in turn, before certain accesses.
type mapper struct {
	r   *shm.Region
	at  []int
	n   int
	has bool
}

func (m *mapper) BeforeAccess(shm.Access) {
	m.r.Observe(nil)
	for _, at := range m.at {
		if at == m.n {
			m.step()
		}
	}
	m.n++
	m.r.Observe(m)
}

func (m *mapper) step() {
	switch {
	case m.has:
		unpin(m.r, 8)
		m.has = false
	case m.r.Load16(64).Bits(hypercall.EntryTypeMask) == hypercall.EntryPermitAccess:
		pin(m.r, 8)
		m.has = true
	}
}

// A peer that maps and unmaps all the time ends up busy, not with an endless loop.
func TestEndIsBounded(t *testing.T) {
	v, r := newV1(1)
	require.True(t, v.Take(make([]Ref, 1)))
	v.Permit(8, 1, 1, ReadWrite)
	n := 0
	var churn observer
	churn = func(a shm.Access) {
		n++
		r.Observe(nil)
		if a.Kind == shm.Modify {
			r.Or16(64, hypercall.EntryReadOnly) // any change makes the swap fail
		} else {
			r.And16(64, ^uint16(hypercall.EntryReadOnly))
		}
		r.Observe(churn)
	}
	r.Observe(churn)
	require.False(t, v.End(8))
	require.Equal(t, 2*endTries, n)
}

func TestSurveyFindsEarlierUse(t *testing.T) {
	r := shm.New(1)
	for _, ref := range []Ref{1, 20, 21} {
		r.Store16(int(ref)*entrySize, hypercall.EntryPermitAccess)
	}
	pin(r, 1)
	pin(r, 21)
	busy := Survey(r, true)
	require.Equal(t, []int{21}, busy)
	require.True(t, r.Load16(20*entrySize).Is(0), "what could be ended was")
	require.True(t, r.Load16(1*entrySize).Is(hypercall.EntryPermitAccess|hypercall.EntryReading), "the store's reference is left alone")
	v := NewV1(1)
	v.Grow(r, busy)
	require.Equal(t, 512-8-1, v.Free())
	require.Equal(t, 1, v.Held())
	unpin(r, 21)
	b := v.Release()
	freed, left := v.EndAll(b.Refs)
	require.Empty(t, left)
	v.Put(freed)
	require.Equal(t, 512-8, v.Free())
}

func TestPutRefusesWhatWasNotTaken(t *testing.T) {
	v, _ := newV1(1)
	for _, ref := range []Ref{0, 7, 8, 511, 512, markTaken, markEnd} {
		require.Panics(t, func() { v.Put([]Ref{ref}) }, "reference %d", ref)
	}
}

func TestEndAllKeepsItsArgument(t *testing.T) {
	v, r := newV1(1)
	refs := make([]Ref, 4)
	require.True(t, v.Take(refs))
	for _, ref := range refs {
		v.Permit(ref, 1, 1, ReadWrite)
	}
	pin(r, 9)
	pin(r, 11)
	freed, busy := v.EndAll(refs)
	require.Equal(t, []Ref{8, 9, 10, 11}, refs)
	require.Equal(t, []Ref{8, 10}, freed)
	require.Equal(t, []Ref{9, 11}, busy)
}

// The allocator and the quarantine against a model: a queue, and what each reference is.
func TestV1Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 3).Draw(t, "limit")
		v := NewV1(limit)
		var frames []*shm.Region
		var queue []Ref        // free, in the order in which they will be taken
		var granted []Ref      // permitted
		held := map[Ref]bool{} // in quarantine, by whether Xen has it mapped
		mapped := map[Ref]bool{}
		region := func(r Ref) (*shm.Region, Ref) { return frames[r/512], r % 512 }
		t.Repeat(map[string]func(*rapid.T){
			"grow": func(t *rapid.T) {
				if v.Frames() == v.Limit() {
					return
				}
				r := shm.New(1)
				first := len(frames) == 0
				frames = append(frames, r)
				v.Grow(r, Survey(r, first))
				for i := range Ref(512) {
					if ref := Ref(len(frames)-1)*512 + i; ref >= 8 {
						queue = append(queue, ref)
					}
				}
			},
			"take": func(t *rapid.T) {
				refs := make([]Ref, rapid.IntRange(1, 300).Draw(t, "count"))
				ok := v.Take(refs)
				require.Equal(t, len(refs) <= len(queue), ok)
				if !ok {
					return
				}
				require.Equal(t, queue[:len(refs)], refs)
				queue = queue[len(refs):]
				for _, r := range refs {
					v.Permit(r, 1, hypercall.GFN(r), ReadWrite)
				}
				granted = append(granted, refs...)
			},
			"map": func(t *rapid.T) {
				if len(granted) > 0 {
					ref := rapid.SampledFrom(granted).Draw(t, "ref")
					r, at := region(ref)
					pin(r, at)
					mapped[ref] = true
				}
			},
			"unmap": func(t *rapid.T) {
				refs := make([]Ref, 0, len(mapped))
				for ref := range mapped {
					refs = append(refs, ref)
				}
				if len(refs) > 0 {
					slices.Sort(refs)
					ref := rapid.SampledFrom(refs).Draw(t, "ref")
					r, at := region(ref)
					unpin(r, at)
					delete(mapped, ref)
				}
			},
			"end": func(t *rapid.T) {
				n := rapid.IntRange(0, len(granted)).Draw(t, "count")
				freed, busy := v.EndAll(granted[:n])
				v.Put(freed)
				for _, r := range freed {
					require.False(t, mapped[r])
				}
				for _, r := range busy {
					require.True(t, mapped[r])
					held[r] = true
				}
				queue = append(queue, freed...)
				if len(busy) > 0 {
					v.Quarantine(&Batch{Refs: slices.Clone(busy)})
				}
				granted = granted[n:]
			},
			"reap": func(t *rapid.T) {
				b := v.Release()
				if b == nil {
					require.Empty(t, held)
					return
				}
				freed, busy := v.EndAll(b.Refs)
				v.Put(freed)
				queue = append(queue, freed...)
				for _, r := range freed {
					require.True(t, held[r] && !mapped[r])
					delete(held, r)
				}
				if b.Refs = busy; len(busy) > 0 {
					v.Quarantine(b)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(queue), v.Free())
				require.Equal(t, len(held), v.Held())
				require.Equal(t, 512*len(frames), v.Size())
			},
		})
	})
}

func BenchmarkV1(b *testing.B) {
	v, _ := newV1(1)
	refs := make([]Ref, 1)
	b.ReportAllocs()
	for b.Loop() {
		v.Take(refs)
		v.Permit(refs[0], 1, 1, ReadWrite)
		v.End(refs[0])
		v.Put(refs)
	}
}
