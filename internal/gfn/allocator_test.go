package gfn_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

type run struct {
	first hypercall.GFN
	n     int
}

// TestAllocator takes and gives back runs: those handed out never overlap, and only whole ones are taken back, once.
func TestAllocator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := gfn.New()
		var ram, reserved []run
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			list, take, put := &ram, a.RAM, a.FreeRAM
			if rapid.Bool().Draw(t, "reserve") {
				list, take, put = &reserved, a.Reserve, a.Unreserve
			}
			if len(*list) > 0 && rapid.Bool().Draw(t, "give back") {
				i := rapid.IntRange(0, len(*list)-1).Draw(t, "which")
				r := (*list)[i]
				require.Error(t, put(r.first, r.n+1))
				if r.n > 1 { // else another run may begin there
					require.Error(t, put(r.first+1, r.n))
				}
				require.NoError(t, put(r.first, r.n))
				require.Error(t, put(r.first, r.n), "twice")
				*list = append((*list)[:i], (*list)[i+1:]...)
				continue
			}
			n := rapid.IntRange(1, 600).Draw(t, "frames")
			first, err := take(n)
			require.NoError(t, err)
			for _, r := range append(append([]run(nil), ram...), reserved...) {
				require.True(t, first+hypercall.GFN(n) <= r.first || r.first+hypercall.GFN(r.n) <= first, "%v overlaps %v", run{first, n}, r)
			}
			require.Equal(t, list == &ram, gfn.IsRAM(first) && gfn.IsRAM(first+hypercall.GFN(n)-1))
			*list = append(*list, run{first, n})
		}
		gotRAM, gotReserved := a.Runs()
		require.Equal(t, [2]int{len(ram), len(reserved)}, [2]int{gotRAM, gotReserved})
	})
}

func TestAllocatorRefusals(t *testing.T) {
	a := gfn.New()
	for _, n := range []int{0, -1, gfn.MaxRun + 1} {
		_, err := a.RAM(n)
		require.Error(t, err)
	}
	require.False(t, gfn.IsRAM(gfn.Store))
	var last error
	for range 1 << 12 {
		if _, last = a.RAM(gfn.MaxRun); last != nil {
			break
		}
	}
	require.ErrorContains(t, last, "no frame number is left")
}
