package shm_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

const page = shm.PageSize

// layouts returns regions of three pages each, of every kind that this system has.
func layouts(t *testing.T) map[string]*shm.Region {
	m := map[string]*shm.Region{
		"heap":           shm.New(3),
		"scattered":      scattered(3),
		"slice":          shm.New(5).Slice(1, 3),
		"scattered part": scattered(5).Slice(1, 3),
		"two heaps":      shm.Join(shm.New(1), shm.New(2)),
		"join of one":    shm.Join(shm.New(3)),
	}
	addMapped(t, m)
	return m
}

func TestWordsAtPageBorders(t *testing.T) {
	for name, r := range layouts(t) {
		for _, op := range wordOps {
			for _, base := range []int{0, page, 2 * page, 3 * page} {
				for _, off := range []int{base - 2*op.size, base - op.size, base, base + op.size, base + page/2} {
					if off < 0 || off >= r.Size() {
						continue
					}
					checkWord(t, name, r, op, off)
				}
			}
		}
	}
}

// checkWord runs op on a region full of a pattern, with operands that match and that do not, and compares every byte with the model.
func checkWord(t *testing.T, name string, r *shm.Region, op wordOp, off int) {
	t.Helper()
	mem := make([]byte, r.Size())
	for i := range mem {
		mem[i] = byte(i*7 + i>>8)
	}
	r.CopyIn(0, mem)
	for _, a := range []uint64{0, 0x8421_0ff0_1234_5678, math.MaxUint64, num(r.Load64(off&^7)) >> (off & 7 * 8)} {
		want := op.runModel(mem[off:], a, ^a)
		require.Equal(t, want, op.real(r, off, a, ^a), "%s: %s at %d of %#x", name, op.name, off, a)
		require.True(t, bytes.Equal(mem, contents(r)), "%s: %s at %d of %#x changed other bytes than it should", name, op.name, off, a)
	}
}

func TestWordMisuse(t *testing.T) {
	r := scattered(2)
	for _, op := range wordOps {
		bad := []int{-1, -op.size, -page, 2 * page, 2*page + op.size, math.MaxInt, math.MaxInt &^ 7, math.MinInt, 1 << 40}
		for i := 1; i < op.size; i++ {
			bad = append(bad, i, page-i, 2*page-i)
		}
		for _, off := range bad {
			err := panics(t, func() { op.real(r, off, 1, 1) })
			var e *shm.BoundsError
			require.ErrorAs(t, err, &e, "%s at %d", op.name, off)
			require.Equal(t, shm.BoundsError{Op: e.Op, Off: int64(off), Len: op.size, Size: 2 * page}, *e, op.name)
			require.Contains(t, err.Error(), fmt.Sprint(off))
		}
		if op.kind == shm.Load {
			require.NotPanics(t, func() { op.real(r.ReadOnly(), 0, 1, 1) })
			continue
		}
		var e *shm.ReadOnlyError
		require.ErrorAs(t, panics(t, func() { op.real(r.ReadOnly(), 8, 1, 1) }), &e, op.name)
		require.EqualValues(t, 8, e.Off)
	}
	require.Equal(t, make([]byte, r.Size()), contents(r), "misuse changed the memory")
}

func TestCopyMisuse(t *testing.T) {
	r, other := scattered(2), shm.New(1)
	for _, span := range []struct{ off, n int }{
		{-1, 1}, {-1, 0}, {0, 2*page + 1}, {1, 2 * page}, {2 * page, 1}, {2*page + 1, 0}, {math.MaxInt, 2}, {math.MinInt, 1},
	} {
		buf := make([]byte, span.n)
		for name, f := range map[string]func(){
			"CopyOut":   func() { r.CopyOut(buf, span.off) },
			"CopyIn":    func() { r.CopyIn(span.off, buf) },
			"Zero":      func() { r.Zero(span.off, span.n) },
			"Copy from": func() { shm.Copy(shm.New(4), 0, r, span.off, span.n) },
			"Copy to":   func() { shm.Copy(r, span.off, shm.New(4), 0, span.n) },
		} {
			var e *shm.BoundsError
			require.ErrorAs(t, panics(t, f), &e, "%s of %d bytes at %d", name, span.n, span.off)
			require.Contains(t, e.Error(), "outside the region of 8192 bytes")
		}
	}
	for _, n := range []int{-1, math.MinInt, math.MaxInt} {
		require.IsType(t, &shm.BoundsError{}, panics(t, func() { r.Zero(0, n) }))
		require.IsType(t, &shm.BoundsError{}, panics(t, func() { shm.Copy(r, 0, other, 0, n) }))
		require.IsType(t, &shm.BoundsError{}, panics(t, func() { shm.Copy(other, 0, r, 0, n) }))
	}
	ro := r.ReadOnly()
	for name, f := range map[string]func(){
		"CopyIn": func() { ro.CopyIn(0, nil) },
		"Zero":   func() { ro.Zero(0, 0) },
		"Copy":   func() { shm.Copy(ro, 0, other, 0, 1) },
	} {
		require.IsType(t, &shm.ReadOnlyError{}, panics(t, f), name)
	}
}

func TestMakingMisuse(t *testing.T) {
	for _, n := range []int{0, -1, math.MinInt, math.MaxInt, math.MaxInt/page + 1} {
		require.Panics(t, func() { shm.New(n) }, "New(%d)", n)
	}
	require.Panics(t, func() { shm.Join() })
	r := shm.New(3)
	for _, s := range []struct{ first, n int }{
		{-1, 1}, {0, 0}, {0, -1}, {0, 4}, {3, 1}, {1, 3}, {math.MaxInt, 1}, {1, math.MaxInt}, {math.MinInt, 1}, {0, math.MinInt},
	} {
		require.IsType(t, &shm.BoundsError{}, panics(t, func() { r.Slice(s.first, s.n) }), "Slice(%d, %d)", s.first, s.n)
	}
}

// panics returns the error that f panics with.
func panics(t *testing.T, f func()) (err error) {
	t.Helper()
	defer func() {
		t.Helper()
		err, _ = recover().(error)
		require.Error(t, err, "did not panic with an error")
	}()
	f()
	return nil
}

func TestCopiesOverPageBorders(t *testing.T) {
	for name, r := range layouts(t) {
		mem := make([]byte, r.Size())
		for _, n := range []int{0, 1, 7, 64, page - 1, page, page + 1, 2*page + 5, 3 * page} {
			for _, off := range []int{0, 1, page - 3, page, page + 9, 2*page - 1, 3*page - n} {
				if off < 0 || off+n > r.Size() {
					continue
				}
				src := bytes.Repeat([]byte{byte(n), byte(off), 3}, n/3+1)[:n]
				r.CopyIn(off, src)
				copy(mem[off:], src)
				require.True(t, bytes.Equal(mem, contents(r)), "%s: CopyIn of %d at %d", name, n, off)
				got := make([]byte, n)
				r.CopyOut(got, off)
				require.True(t, bytes.Equal(src, got), "%s: CopyOut of %d at %d", name, n, off)

				dst := scattered(4)
				shm.Copy(dst, 11, r, off, n)
				require.True(t, bytes.Equal(src, contents(dst)[11:11+n]), "%s: Copy of %d at %d", name, n, off)

				r.Zero(off, n)
				clear(mem[off : off+n])
				require.True(t, bytes.Equal(mem, contents(r)), "%s: Zero of %d at %d", name, n, off)
			}
		}
	}
}

func TestAliasing(t *testing.T) {
	p, q := shm.New(1), shm.New(1)
	r := shm.Join(p, q, p)
	require.Equal(t, 3, r.Pages())
	require.Equal(t, 3*page, r.Size())

	r.Store32(0, 0xdeadbeef)
	require.True(t, r.Load32(2*page).Is(0xdeadbeef))
	r.Or8(2*page+1, 1)
	require.True(t, p.Load32(0).Is(0xdeadbfef))

	// A copy that starts in the first alias and ends in the second writes the page twice; the later bytes stand.
	src := make([]byte, 3*page)
	for i := range src {
		src[i] = byte(i / page)
	}
	r.CopyIn(0, src)
	require.Equal(t, bytes.Repeat([]byte{2}, page), contents(p))
	require.Equal(t, bytes.Repeat([]byte{1}, page), contents(q))
}

func TestSliceSharesMemory(t *testing.T) {
	for name, r := range layouts(t) {
		part := r.Slice(1, 2)
		require.Equal(t, 2, part.Pages(), name)
		part.Store64(page, 42)
		require.True(t, r.Load64(2*page).Is(42), name)
		require.Panics(t, func() { part.Load8(2 * page) }, name)
		require.True(t, part.Slice(1, 1).Load64(0).Is(42), name)
	}
}

func TestWritable(t *testing.T) {
	r := shm.New(1)
	require.True(t, r.Writable())
	require.False(t, r.ReadOnly().Writable())
	require.False(t, r.ReadOnly().Slice(0, 1).Writable())
	require.False(t, shm.Join(r, r.ReadOnly()).Writable())
	require.True(t, shm.Join(r, r).Writable())
	r.Store8(3, 9)
	require.True(t, r.ReadOnly().Load8(3).Is(9))
}

func TestReadAtWriteAt(t *testing.T) {
	r := scattered(2)
	src := make([]byte, r.Size())
	for i := range src {
		src[i] = byte(i % 251)
	}
	n, err := r.WriteAt(src, 0)
	require.NoError(t, err)
	require.Equal(t, len(src), n)
	require.NoError(t, iotest.TestReader(io.NewSectionReader(r, 0, int64(len(src))), src))

	for _, c := range []struct {
		off  int64
		len  int
		read int
		err  error
	}{
		{0, 8, 8, nil}, {2 * page, 0, 0, nil}, {2 * page, 1, 0, io.EOF}, {2*page - 3, 4, 3, io.EOF}, {2*page + 1, 0, 0, io.EOF},
		{math.MaxInt64, 1, 0, io.EOF},
	} {
		n, err := r.ReadAt(make([]byte, c.len), c.off)
		require.Equal(t, c.read, n, "ReadAt %d of %d", c.off, c.len)
		require.Equal(t, c.err, err, "ReadAt %d of %d", c.off, c.len)
		n, err = r.WriteAt(make([]byte, c.len), c.off)
		require.Equal(t, c.read, n, "WriteAt %d of %d", c.off, c.len)
		if c.err == nil {
			require.NoError(t, err)
			continue
		}
		require.IsType(t, &shm.BoundsError{}, err, "WriteAt %d of %d", c.off, c.len)
	}
	_, err = r.ReadAt(make([]byte, 1), -1)
	require.IsType(t, &shm.BoundsError{}, err)
	_, err = r.WriteAt(make([]byte, 1), math.MinInt64)
	require.IsType(t, &shm.BoundsError{}, err)
	_, err = r.ReadOnly().WriteAt(nil, 0)
	require.IsType(t, &shm.ReadOnlyError{}, err)
}

func TestErrorsNameWhatIsWrong(t *testing.T) {
	two := make([]byte, 2)
	for want, err := range map[string]error{
		"shm: load of 4 bytes at offset 6: not aligned":                             panics(t, func() { shm.New(1).Load32(6) }),
		"shm: swap of 8 bytes at offset 4096: outside the region of 4096 bytes":     panics(t, func() { shm.New(1).Swap64(4096, 1) }),
		"shm: load of 2 bytes at offset -1: outside the region of 4096 bytes":       panics(t, func() { shm.New(1).Load16(-1) }),
		"shm: or at offset 5: the region is read-only":                              panics(t, func() { shm.New(1).ReadOnly().Or8(5, 1) }),
		"shm: slice of 8192 bytes at offset 0: outside the region of 4096 bytes":    panics(t, func() { shm.New(1).Slice(0, 2) }),
		"shm: copy out of 2 bytes at offset 4095: outside the region of 4096 bytes": panics(t, func() { shm.New(1).CopyOut(two, 4095) }),
	} {
		require.EqualError(t, err, want)
	}
}

func TestKindString(t *testing.T) {
	got := fmt.Sprint(shm.Load, shm.Store, shm.Modify, shm.CopyOut, shm.CopyIn, shm.Kind(9))
	require.Equal(t, "load store modify copy out copy in Kind(9)", got)
}
