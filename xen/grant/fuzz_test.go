package grant

import (
	"slices"
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// maxProgram bounds a program, so that an input takes microseconds.
const maxProgram = 400

// FuzzV1 drives the core of the grant table beside a peer that maps and unmaps whenever it likes, also between two accesses of one
// operation. The input is a program: each two bytes are an operation and what it is done to. Whatever it says, a reference is free, granted
// or in quarantine, and never two of these; none is handed out twice; what the peer has mapped when an attempt to end it is over was not
// given back; what nobody has mapped nor touched is; and a page goes back only when none of its share's references is mapped.
//
// The peer maps through Xen, so that it sets and clears the in-use bits and no others, and only where the entry permits it.
func FuzzV1(f *testing.F) {
	f.Add([]byte{opShare, 0, opEnd, 0, opReap, 0})
	f.Add([]byte{opShare, 2, opMap, 0, opEnd, 0, opShare, 1, opReap, 0, opUnmap, 0, opReap, 0})
	f.Add([]byte{opShare, 0, opAtAccess, 1, opEnd, 0, opUnmap, 0, opReap, 0})
	f.Add([]byte{opGrow, 0, opShare, 9, opMap, 3, opMap, 7, opEnd, 0, opReap, 0, opUnmap, 0, opReap, 0, opUnmap, 0, opReap, 0, opShare, 9})
	f.Fuzz(func(t *testing.T, program []byte) {
		g := newGrantModel(t)
		for program = program[:min(len(program), maxProgram)]; len(program) >= 2; program = program[2:] {
			g.step(program[0]%opCount, int(program[1]))
			g.check()
		}
		g.finish()
	})
}

// Operations of a program.
const (
	opShare    = iota // as many references as the argument says
	opMap             // the peer maps a granted reference
	opUnmap           // the peer unmaps one
	opEnd             // an open share
	opReap            // the oldest batch in quarantine
	opGrow            // the table, of which a busy entry may be left from before
	opAtAccess        // the peer maps, or unmaps, before the access of that number in the operation that comes next
	opCount
)

// grantModel is what there is beside the core: what Xen and the peer know.
type grantModel struct {
	t      *testing.T
	v      *V1
	frames []*shm.Region
	open   []*Batch     // shares
	state  map[Ref]int  // of references that are not free: granted or held
	mapped map[Ref]bool // by the peer
	stray  []Ref        // busy when the table grew: nobody's share
	plan   []int        // accesses before which the peer does something
}

const (
	granted = iota + 1
	held
)

const fuzzFrames = 3

func newGrantModel(t *testing.T) *grantModel {
	g := &grantModel{t: t, v: NewV1(fuzzFrames), state: make(map[Ref]int), mapped: make(map[Ref]bool)}
	g.grow(0)
	return g
}

func (g *grantModel) entry(r Ref) (*shm.Region, int) {
	return g.frames[r/hypercall.GrantsPerFrame], int(r % hypercall.GrantsPerFrame)
}

func (g *grantModel) grow(arg int) {
	if g.v.Frames() == g.v.Limit() {
		return
	}
	frame := shm.New(1)
	base := Ref(len(g.frames) * hypercall.GrantsPerFrame)
	g.frames = append(g.frames, frame)
	if arg > 0 {
		stray := Ref(max(arg, hypercall.NumReservedGrants))
		frame.Store16(int(stray)*entrySize, hypercall.EntryPermitAccess|hypercall.EntryReading)
		g.stray, g.mapped[base+stray], g.state[base+stray] = append(g.stray, base+stray), true, held
	}
	g.v.Grow(frame, Survey(frame, base == 0))
}

func (g *grantModel) step(op byte, arg int) {
	switch op {
	case opShare:
		g.share(1 + arg%20)
	case opMap:
		g.peer(arg, true)
	case opUnmap:
		g.peer(arg, false)
	case opEnd:
		if len(g.open) > 0 {
			i := arg % len(g.open)
			b := g.open[i]
			g.open = slices.Delete(g.open, i, i+1)
			g.endAll(b)
		}
	case opReap:
		if b := g.v.Release(); b != nil {
			g.endAll(b)
		}
	case opGrow:
		g.grow(arg)
	case opAtAccess:
		g.plan = append(g.plan, arg)
		return
	}
	g.plan = nil
}

func (g *grantModel) share(count int) {
	refs := make([]Ref, count)
	free := g.v.Free()
	if g.v.Take(refs) != (count <= free) {
		g.t.Fatalf("%d of %d free references were taken: %v", count, free, count > free)
	}
	if count > free {
		return
	}
	for _, r := range refs {
		if g.state[r] != 0 || r < hypercall.NumReservedGrants {
			g.t.Fatalf("reference %d was handed out, which is not free", r)
		}
		g.state[r] = granted
		g.v.Permit(r, 1, hypercall.GFN(r), Access(r&1))
	}
	g.open = append(g.open, &Batch{Peer: 1, Refs: refs, First: hypercall.GFN(refs[0]), Pages: count})
}

// peer has the peer map, or unmap, one of the references that are not free.
func (g *grantModel) peer(arg int, maps bool) {
	refs := make([]Ref, 0, len(g.state))
	for r := range g.state {
		if g.mapped[r] != maps {
			refs = append(refs, r)
		}
	}
	if len(refs) == 0 {
		return
	}
	slices.Sort(refs)
	ref := refs[arg%len(refs)]
	frame, at := g.entry(ref)
	switch {
	case !maps:
		frame.And16(at*entrySize, ^uint16(entryInUse))
		delete(g.mapped, ref)
	case frame.Load16(at*entrySize).Bits(hypercall.EntryTypeMask) == hypercall.EntryPermitAccess:
		frame.Or16(at*entrySize, hypercall.EntryReading)
		g.mapped[ref] = true
	}
}

// BeforeAccess has the peer do what is planned before the next access.
func (g *grantModel) BeforeAccess(shm.Access) {
	for i := range g.plan {
		if g.plan[i]--; g.plan[i] == -1 {
			g.watch(false)
			g.peer(i, i%2 == 0)
			g.watch(true)
		}
	}
}

func (g *grantModel) watch(on bool) {
	for _, f := range g.frames {
		if on {
			f.Observe(g)
		} else {
			f.Observe(nil)
		}
	}
}

// endAll tries to end what is left of a share.
func (g *grantModel) endAll(b *Batch) {
	before := make(map[Ref]bool)
	for _, r := range b.Refs {
		before[r] = g.mapped[r]
	}
	g.watch(true)
	freed, busy := g.v.EndAll(b.Refs)
	g.watch(false)
	if len(freed)+len(busy) != len(b.Refs) {
		g.t.Fatalf("of %d references %d came free and %d are busy", len(b.Refs), len(freed), len(busy))
	}
	for _, r := range freed {
		if g.mapped[r] {
			g.t.Fatalf("reference %d was ended while the peer has it", r)
		}
		delete(g.state, r)
	}
	for _, r := range busy {
		if !g.mapped[r] && !before[r] && len(g.plan) == 0 {
			g.t.Fatalf("reference %d is busy, and nobody has it", r)
		}
		g.state[r] = held
	}
	g.v.Put(freed)
	if len(busy) > 0 {
		g.v.Quarantine(&Batch{Peer: b.Peer, Refs: slices.Clone(busy), First: b.First, Pages: b.Pages})
	}
}

// check compares the core's books with the model's.
func (g *grantModel) check() {
	states := [3]int{}
	for _, s := range g.state {
		states[s]++
	}
	total := g.v.Size() - hypercall.NumReservedGrants
	if g.v.Free()+states[granted]+states[held] != total {
		g.t.Fatalf("%d free, %d granted, %d held: of %d references", g.v.Free(), states[granted], states[held], total)
	}
	if g.v.Held() < states[held] || (states[held] == 0) != (g.v.Batches() == 0) {
		g.t.Fatalf("%d pages and %d batches in quarantine, %d references held", g.v.Held(), g.v.Batches(), states[held])
	}
}

// finish has the peer let go of everything: then all comes free, each page once.
func (g *grantModel) finish() {
	for r := range g.mapped {
		frame, at := g.entry(r)
		unpin(frame, Ref(at))
	}
	clear(g.mapped)
	g.plan = nil
	for _, b := range g.open {
		g.endAll(b)
	}
	g.open = nil
	for b := g.v.Release(); b != nil; b = g.v.Release() {
		g.endAll(b)
	}
	if g.v.Free() != g.v.Size()-hypercall.NumReservedGrants || g.v.Held() != 0 || g.v.HeldBy(1) != 0 {
		g.t.Fatalf("%d of %d references are free, %d pages in quarantine, %d of them the peer's",
			g.v.Free(), g.v.Size()-hypercall.NumReservedGrants, g.v.Held(), g.v.HeldBy(1))
	}
	for i, f := range g.frames {
		for off := 0; off < f.Size(); off += entrySize {
			if !f.Load16(off).Is(0) {
				g.t.Fatalf("entry %d of frame %d still has flags %#x", off/entrySize, i, f.Load16(off).Unchecked())
			}
		}
		if err := f.Close(); err != nil {
			g.t.Fatal(err)
		}
	}
}
