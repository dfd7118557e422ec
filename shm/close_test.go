package shm_test

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

func TestClosedRegionReadsZerosAndCounts(t *testing.T) {
	for name, r := range layouts(t) {
		r.CopyIn(0, bytes.Repeat([]byte{0xff}, r.Size()))
		require.False(t, r.Closed())
		require.NoError(t, r.Close())
		require.NoError(t, r.Close(), "a second Close")
		require.True(t, r.Closed())
		require.Zero(t, r.LateAccesses())

		late := uint64(0)
		for _, op := range wordOps {
			require.Zero(t, op.real(r, page-op.size, 0, 0), "%s: %s", name, op.name)
			late++
			require.Equal(t, late, r.LateAccesses(), "%s: %s", name, op.name)
		}
		buf := bytes.Repeat([]byte{1}, r.Size())
		r.CopyOut(buf, 0)
		require.Equal(t, make([]byte, r.Size()), buf, name)
		r.CopyIn(0, buf)
		r.Zero(0, 1)

		dst := shm.New(1)
		dst.Store64(0, 1)
		shm.Copy(dst, 0, r, 0, 8)
		require.True(t, dst.Load64(0).Is(0), "%s: Copy from a closed region", name)
		shm.Copy(r, 0, dst, 0, 8)
		require.Equal(t, late+5, r.LateAccesses(), name)
		require.NotPanics(t, func() { r.CopyOut(nil, r.Size()) })
		require.Panics(t, func() { r.Load8(-1) }, "misuse stays misuse after Close")
	}
}

func TestSlicesShareTheFate(t *testing.T) {
	r := shm.New(3)
	part, ro := r.Slice(1, 2), r.ReadOnly()
	require.NoError(t, part.Close())
	require.True(t, r.Closed())
	require.True(t, ro.Closed())
	ro.Load8(0)
	require.EqualValues(t, 1, r.LateAccesses())
}

func TestJoinClosesWithItsParts(t *testing.T) {
	a, b := shm.New(1), shm.New(1)
	j := shm.Join(a, b, a)
	other := shm.Join(a)
	require.NoError(t, j.Close())
	require.False(t, a.Closed(), "closing a join closed a part")
	require.False(t, other.Closed())

	again := shm.Join(shm.Join(b, a).Slice(1, 1), b)
	a.Store8(0, 1)
	require.NoError(t, a.Close())
	require.True(t, other.Closed())
	require.True(t, again.Closed(), "a join of a join")
	require.True(t, other.Load8(0).Is(0))
	require.EqualValues(t, 1, other.LateAccesses())
	require.False(t, b.Closed())

	require.True(t, shm.Join(b, a).Closed(), "a join of a closed region")
}

func TestForgottenJoinsAreDropped(t *testing.T) {
	r := shm.New(1)
	var kept []*shm.Region
	for i := range 1000 {
		if j := shm.Join(r); i%100 == 0 {
			kept = append(kept, j)
		}
		if i%50 == 0 {
			runtime.GC()
		}
	}
	require.Less(t, shm.JoinsOf(r), 500)
	require.NoError(t, r.Close())
	for _, j := range kept {
		require.True(t, j.Closed())
	}
}

// hammer makes every kind of access from several goroutines until the region was closed under them and some came late.
func hammer(t *testing.T, r *shm.Region) {
	var wg sync.WaitGroup
	var started atomic.Int32
	const workers = 4
	for w := range workers {
		wg.Go(func() {
			buf := make([]byte, page/2)
			base := w * page / 2
			for i := 0; r.LateAccesses() < 1000; i++ {
				for _, op := range wordOps {
					op.real(r, base, uint64(i), uint64(i))
				}
				r.CopyIn(base, buf)
				r.CopyOut(buf, base)
				r.Zero(base, 64)
				if i == 0 {
					started.Add(1)
				}
			}
		})
	}
	for started.Load() < workers {
		runtime.Gosched()
	}
	require.NoError(t, r.Close())
	wg.Wait()
	require.True(t, r.Load64(0).Is(0))
	require.GreaterOrEqual(t, r.LateAccesses(), uint64(1000))
}

func TestCloseUnderAccess(t *testing.T) {
	for name, r := range map[string]*shm.Region{"flat": shm.New(3), "scattered": scattered(3)} {
		t.Run(name, func(t *testing.T) { hammer(t, r) })
	}
}

func TestConcurrentCloses(t *testing.T) {
	for range 100 {
		a := shm.New(1)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { shm.Join(a, a) })
			wg.Go(func() { a.Close() })
			wg.Go(func() { a.Observe(nil) })
		}
		j := shm.Join(a)
		wg.Wait()
		require.True(t, j.Closed())
		a.Load8(0)
		require.EqualValues(t, 1, a.LateAccesses(), "Observe undid Close")
	}
}
