package shm_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

// observer is a function as an Observer.
type observer func(shm.Access)

func (f observer) BeforeAccess(a shm.Access) { f(a) }

func TestObserverIsToldOfEveryAccess(t *testing.T) {
	for name, r := range layouts(t) {
		var got []shm.Access
		r.Observe(observer(func(a shm.Access) { got = append(got, a) }))
		var want []shm.Access
		for _, op := range wordOps {
			op.real(r, page+op.size, 1, 2)
			want = append(want, shm.Access{Region: r, Kind: op.kind, Off: page + op.size, Len: op.size})
		}
		r.CopyOut(make([]byte, 5), page-2)
		r.CopyIn(3, make([]byte, 6))
		r.Zero(7, 8)
		shm.Copy(r, 100, r, 200, 9)
		want = append(want,
			shm.Access{Region: r, Kind: shm.CopyOut, Off: page - 2, Len: 5}, shm.Access{Region: r, Kind: shm.CopyIn, Off: 3, Len: 6},
			shm.Access{Region: r, Kind: shm.CopyIn, Off: 7, Len: 8},
			shm.Access{Region: r, Kind: shm.CopyOut, Off: 200, Len: 9}, shm.Access{Region: r, Kind: shm.CopyIn, Off: 100, Len: 9})

		part := r.Slice(1, 1)
		part.Load8(2)
		want = append(want, shm.Access{Region: part, Kind: shm.Load, Off: 2, Len: 1})
		same := cmp.Comparer(func(a, b *shm.Region) bool { return a == b })
		require.Empty(t, cmp.Diff(want, got, same), name)

		r.Observe(nil)
		r.Load8(0)
		require.Len(t, got, len(want), "%s: told after Observe(nil)", name)
	}
}

func TestObserverSeesMisuseNever(t *testing.T) {
	r := shm.New(1)
	r.Observe(observer(func(a shm.Access) { t.Errorf("told of %+v", a) }))
	for _, op := range wordOps {
		require.Panics(t, func() { op.real(r, -1, 0, 0) })
	}
	require.Panics(t, func() { r.CopyIn(page, make([]byte, 1)) })
	_, err := r.ReadAt(make([]byte, 1), page)
	require.Error(t, err)
}

// A fault injector changes the memory just before it is read, as a hostile peer may.
func TestObserverChangesTheMemory(t *testing.T) {
	mem := shm.New(1)
	r := shm.Join(mem)
	r.Observe(observer(func(a shm.Access) {
		if a.Kind == shm.Load {
			mem.Store32(a.Off, 0xffff_ffff)
		}
	}))
	r.Store32(8, 1)
	_, err := r.Load32(8).AtMost(16)
	var e *shm.RangeError
	require.ErrorAs(t, err, &e)
	require.EqualValues(t, 0xffff_ffff, e.Value)
}

func TestObserverClosesTheRegion(t *testing.T) {
	r := shm.New(1)
	r.Store32(0, 7)
	calls := 0
	r.Observe(observer(func(shm.Access) {
		calls++
		r.Close()
	}))
	require.True(t, r.Load32(0).Is(0))
	require.EqualValues(t, 1, r.LateAccesses(), "the access during which the region was closed")
	r.Store32(0, 1)
	require.Equal(t, 2, calls, "the observer is told of late accesses too")
	r.Observe(nil)
	r.Load8(0)
	require.Equal(t, 2, calls)
	require.EqualValues(t, 3, r.LateAccesses())
}
