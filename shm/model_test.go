package shm_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
)

// model is a region as it should be: plain pages, of which one may stand in it twice.
type model struct {
	pages [][]byte
}

// span walks the pages that n bytes from off are in.
func (m *model) span(off, n int, f func(part []byte)) {
	for n > 0 {
		p := m.pages[off/page][off%page:]
		p = p[:min(n, len(p))]
		f(p)
		off, n = off+len(p), n-len(p)
	}
}

func (m *model) copyOut(off, n int) []byte {
	var b []byte
	m.span(off, n, func(p []byte) { b = append(b, p...) })
	return b
}

func (m *model) copyIn(off int, src []byte) {
	m.span(off, len(src), func(p []byte) { src = src[copy(p, src):] })
}

func (m *model) size() int { return len(m.pages) * page }

// step is one operation of a program. Any numbers make a step.
type step struct {
	op   uint8 // an index of wordOps, or one of the copies after them
	off  int
	n    int
	a, b uint64
}

const numSteps = 5 // copies: in, out, zero, inside the region, and through a slice

// run does a step on the region and on the model, and says where they differ.
func (s step) run(r *shm.Region, m *model) error {
	if int(s.op) < len(wordOps) {
		return s.word(&wordOps[s.op], r, m)
	}
	fits := s.off >= 0 && s.n >= 0 && s.n <= m.size() && s.off <= m.size()-s.n
	misused := misuses(func() { s.copy(r, m, fits) })
	if misused == fits {
		return fmt.Errorf("%+v: misuse is %v", s, misused)
	}
	return s.compare(r, m)
}

func (s step) word(op *wordOp, r *shm.Region, m *model) error {
	var got uint64
	fits := s.off >= 0 && s.off < m.size() && s.off%op.size == 0
	if misused := misuses(func() { got = op.real(r, s.off, s.a, s.b) }); misused == fits {
		return fmt.Errorf("%s at %d: misuse is %v", op.name, s.off, misused)
	}
	if !fits {
		return nil
	}
	if want := op.runModel(m.pages[s.off/page][s.off%page:], s.a, s.b); got != want {
		return fmt.Errorf("%s(%#x, %#x) at %d is %#x, not %#x", op.name, s.a, s.b, s.off, got, want)
	}
	return s.compare(r, m)
}

// copy does a copy on the region, and where it fits first on the model.
func (s step) copy(r *shm.Region, m *model, fits bool) {
	n := s.n
	if n < 0 || n > 8*page {
		r.Zero(s.off, n) // no buffer can be that long
		return
	}
	data := bytes.Repeat(binary.LittleEndian.AppendUint64(nil, s.a), n/8+1)[:n]
	switch int(s.op) - len(wordOps) {
	case 0:
		if fits {
			m.copyIn(s.off, data)
		}
		r.CopyIn(s.off, data)
	case 1:
		r.CopyOut(data, s.off)
		if !bytes.Equal(data, m.copyOut(s.off, n)) {
			panic("CopyOut gave other bytes")
		}
	case 2:
		if fits {
			m.copyIn(s.off, make([]byte, n))
		}
		r.Zero(s.off, n)
	case 3:
		tmp := shm.New(8)
		shm.Copy(tmp, 0, r, s.off, n)
		tmp.Or8(0, uint8(s.b))
		out := make([]byte, n)
		tmp.CopyOut(out, 0)
		m.copyIn(s.off, out)
		shm.Copy(r, s.off, tmp, 0, n)
	default:
		first := uint(s.b) % uint(len(m.pages))
		part := r.Slice(int(first), len(m.pages)-int(first))
		if fits && s.off >= int(first)*page {
			m.copyIn(s.off, data)
			part.CopyIn(s.off-int(first)*page, data)
			return
		}
		r.CopyOut(data, s.off)
	}
}

func (s step) compare(r *shm.Region, m *model) error {
	got, want := contents(r), m.copyOut(0, m.size())
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Errorf("%+v: byte %d is %#x, not %#x", s, i, got[i], want[i])
		}
	}
	return nil
}

// misuses reports whether f panics with a *BoundsError.
func misuses(f func()) (misused bool) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *shm.BoundsError:
			misused = true
		default:
			panic(e)
		}
	}()
	f()
	return false
}

// build makes a region and its model of pages picked from a few, so that some stand in it twice.
func build(picks []uint8) (*shm.Region, *model) {
	const distinct = 4
	heap := shm.New(distinct)
	plain := make([][]byte, distinct)
	for i := range plain {
		plain[i] = make([]byte, page)
	}
	m := new(model)
	var parts []*shm.Region
	for _, p := range picks {
		parts = append(parts, heap.Slice(int(p)%distinct, 1))
		m.pages = append(m.pages, plain[int(p)%distinct])
	}
	return shm.Join(parts...), m
}

func TestRegionAgainstModel(t *testing.T) {
	near := rapid.Custom(func(t *rapid.T) int { // offsets close to page borders, and a few far off
		border := rapid.SampledFrom([]int{0, page, 2 * page, 3 * page, 4 * page, math.MaxInt - 8, math.MinInt + 8}).Draw(t, "border")
		return border + rapid.IntRange(-8, 8).Draw(t, "distance")
	})
	aligned := rapid.Map(near, func(off int) int { return off &^ 7 })
	length := rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(page-2, page+2), rapid.IntRange(-1, 4*page))
	rapid.Check(t, func(t *rapid.T) {
		r, m := build(rapid.SliceOfN(rapid.Uint8(), 1, 4).Draw(t, "pages"))
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			s := step{
				op:  rapid.Uint8Max(uint8(len(wordOps)+numSteps-1)).Draw(t, "op"),
				off: rapid.OneOf(near, aligned).Draw(t, "off"),
				n:   length.Draw(t, "n"),
				a:   rapid.Uint64().Draw(t, "a"),
				b:   rapid.Uint64().Draw(t, "b"),
			}
			if err := s.run(r, m); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
	})
}

// stepSize is how many bytes of fuzz input make a step: op, page and offset in it, length, two operands.
const stepSize = 1 + 1 + 2 + 2 + 8 + 8

// parseSteps makes a program of any bytes: a count of pages and their numbers, then steps.
func parseSteps(data []byte) (picks []uint8, steps []step) {
	if len(data) < 1 {
		return nil, nil
	}
	n := int(data[0])%4 + 1
	data = data[1:]
	if len(data) < n {
		return nil, nil
	}
	picks, data = data[:n], data[n:]
	for len(data) >= stepSize && len(steps) < 64 {
		le := binary.LittleEndian
		steps = append(steps, step{
			op:  data[0] % uint8(len(wordOps)+numSteps),
			off: int(int8(data[1]))*page + int(int16(le.Uint16(data[2:]))),
			n:   int(int16(le.Uint16(data[4:]))),
			a:   le.Uint64(data[6:]),
			b:   le.Uint64(data[14:]),
		})
		data = data[stepSize:]
	}
	return picks, steps
}

func FuzzRegionAgainstModel(f *testing.F) {
	f.Add([]byte{0, 0})
	f.Add(seedProgram())
	f.Fuzz(func(t *testing.T, data []byte) {
		picks, steps := parseSteps(data)
		if picks == nil {
			return
		}
		r, m := build(picks)
		for i, s := range steps {
			if err := s.run(r, m); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
	})
}

// seedProgram does every operation once, over a page border where it can.
func seedProgram() []byte {
	b := []byte{3, 0, 1, 0, 3}
	for op := range len(wordOps) + numSteps {
		b = append(b, uint8(op), 1)
		off := uint16(0xfff8) // -8
		if op >= len(wordOps) {
			off = 0xfffd // -3
		}
		b = binary.LittleEndian.AppendUint16(b, off)
		b = binary.LittleEndian.AppendUint16(b, uint16(op*3))
		b = binary.LittleEndian.AppendUint64(b, 0x0123456789abcdef)
		b = binary.LittleEndian.AppendUint64(b, 0xfedcba9876543210)
	}
	return b
}
