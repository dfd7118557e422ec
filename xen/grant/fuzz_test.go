package grant

import (
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// FuzzV1 drives the core of the grant table beside a peer that maps, unmaps and flips bits as it likes. The input is a program: each byte
// is an operation and what it is done to. Whatever it says, a page is free, granted or in quarantine, and never two of these; no reference
// is handed out twice; and what the peer has mapped is not given back.
func FuzzV1(f *testing.F) {
	f.Add([]byte{0x00, 0x40, 0x80, 0xC0})
	f.Add([]byte{0x00, 0x01, 0x40, 0x80, 0x41, 0xC0, 0x80, 0xC1, 0x00})
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 200 {
			return
		}
		v, r := newV1(1)
		g := &grantModel{t: t, v: v, r: r, mapped: make(map[Ref]bool), taken: make(map[Ref]bool)}
		total := v.Free()
		for _, b := range program {
			g.step(b>>6, int(b&0x3f))
			if got := v.Free() + len(g.open) + v.Held(); got != total {
				t.Fatalf("%d free, %d open, %d held: %d of %d references", v.Free(), len(g.open), v.Held(), got, total)
			}
		}
	})
}

type grantModel struct {
	t      *testing.T
	v      *V1
	r      *shm.Region
	open   []Ref
	mapped map[Ref]bool
	taken  map[Ref]bool // open or in quarantine
}

func (g *grantModel) step(op byte, arg int) {
	switch op {
	case 0: // share one
		var refs [1]Ref
		if !g.v.Take(refs[:]) {
			return
		}
		if g.taken[refs[0]] {
			g.t.Fatalf("reference %d was handed out twice", refs[0])
		}
		g.taken[refs[0]] = true
		g.v.Permit(refs[0], 1, hypercall.GFN(refs[0]), Access(arg&1))
		g.open = append(g.open, refs[0])
	case 1: // the peer maps or unmaps, or writes bits that mean nothing
		if len(g.open) == 0 {
			return
		}
		ref := g.open[arg%len(g.open)]
		if g.mapped[ref] = !g.mapped[ref]; g.mapped[ref] {
			pin(g.r, ref)
		} else {
			unpin(g.r, ref)
		}
	case 2: // end one
		if len(g.open) == 0 {
			return
		}
		i := arg % len(g.open)
		ref := g.open[i]
		g.open = append(g.open[:i], g.open[i+1:]...)
		g.settle(ref, &Batch{Peer: 1, Refs: []Ref{ref}, First: hypercall.GFN(ref), Pages: 1})
	case 3: // the peer lets go of something in quarantine, or not, and it is tried again
		b := g.v.Release()
		if b == nil {
			return
		}
		if ref := b.Refs[0]; arg&1 == 1 && g.mapped[ref] {
			g.mapped[ref] = false
			unpin(g.r, ref)
		}
		g.settle(b.Refs[0], b)
	}
}

func (g *grantModel) settle(ref Ref, b *Batch) {
	if !g.v.End(ref) {
		if !g.mapped[ref] {
			g.t.Fatalf("reference %d is busy, and nobody has it", ref)
		}
		g.v.Quarantine(b)
		return
	}
	if g.mapped[ref] {
		g.t.Fatalf("reference %d was ended while the peer has it", ref)
	}
	g.v.Put([]Ref{ref})
	delete(g.taken, ref)
}
