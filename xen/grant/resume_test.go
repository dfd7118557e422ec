package grant

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Memory and frame numbers outlive incarnations, so giving them back is tried again when a resume crosses it, but not for ever.
func TestGivenBackAcrossResumes(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	for range 2 {
		s, err := n.Share(3, 4, ReadWrite)
		require.NoError(t, err)
		x.crossed = 3
		_, err = s.End()
		require.NoError(t, err)
		require.Empty(t, x.alloc)
		m, err := n.Map(3, refsFrom(8, 2), ReadWrite)
		require.NoError(t, err)
		x.crossed = 3
		require.NoError(t, m.Close())
		require.Len(t, x.reserved, 1, "only the table's")
	}
	require.Zero(t, n.Stats().Leaked)

	s, err := n.Share(3, 4, ReadWrite)
	require.NoError(t, err)
	x.crossed = 1 << 30
	_, err = s.End()
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Equal(t, 4, n.Stats().Leaked, "a platform that says so every time is believed in the end")
	x.crossed = 2
	require.NoError(t, n.Close(), "the table's own frame numbers too")
	require.Empty(t, x.reserved)
}

// onCall has f run once before the first grant table hypercall of the kind.
func (x *fakeXen) onCall(cmd uint64, f func()) {
	x.before = func(c *hypercall.Call) {
		if c.Nr == hypercall.NrGrantTableOp && c.Args[0] == cmd {
			x.before = nil
			f()
		}
	}
}

// A resume between the decision to unmap and the unmap: whether Native has been told of it yet or not, the pages are gone, and their
// frame numbers are given back.
func TestResumeDuringUnmap(t *testing.T) {
	for _, told := range []bool{true, false} {
		x := newFakeXen()
		n := newNative(t, x, nil)
		m, err := n.Map(3, refsFrom(8, 3), ReadWrite)
		require.NoError(t, err)
		require.NoError(t, m.SetNotify(Notify{Port: 5}))
		x.onCall(hypercall.GnttabopUnmapGrantRef, func() {
			x.resume()
			if told {
				require.NoError(t, n.Resume())
			}
		})
		err = m.Close()
		require.ErrorIs(t, err, hypercall.ErrStale)
		require.NotErrorIs(t, err, hypercall.StatusBadHandle)
		require.Zero(t, n.Stats().Leaked)
		require.Len(t, x.reserved, 1, "only the table's")
		if !told {
			require.NoError(t, n.Resume())
		}
		requireClean(t, n, x)
	}
}

// A resume after the pages were mapped and before they are reached ends the Map with ErrStale, and leaves nothing.
func TestResumeDuringMap(t *testing.T) {
	for _, told := range []bool{true, false} {
		x := newFakeXen()
		n := newNative(t, x, nil)
		// The pages are mapped, and then gone: unmapping is what Map does when it cannot reach them.
		x.failView = hypercall.EINVAL
		x.onCall(hypercall.GnttabopUnmapGrantRef, func() {
			x.resume()
			if told {
				require.NoError(t, n.Resume())
			}
		})
		_, err := n.Map(3, refsFrom(8, 3), ReadWrite)
		require.ErrorIs(t, err, hypercall.ErrStale)
		require.NotErrorIs(t, err, hypercall.EINVAL)
		require.Zero(t, n.Stats().Leaked)
		require.Len(t, x.reserved, 1, "only the table's")
		if !told {
			require.NoError(t, n.Resume())
		}
		requireClean(t, n, x)
	}
}

// What is mapped after Xen let the new incarnation run, and before Native was told, is unmapped when it is.
func TestMapBeforeResumeIsTold(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.resume()
	m, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	require.NoError(t, err)
	closed, err := n.Map(3, refsFrom(8, 2), ReadWrite)
	require.NoError(t, err)
	x.onCall(hypercall.GnttabopUnmapGrantRef, func() { require.NoError(t, n.Resume()) })
	require.ErrorIs(t, closed.Close(), hypercall.ErrStale)
	require.ErrorIs(t, m.Close(), hypercall.ErrStale)
	require.Empty(t, x.mapped)
	require.Zero(t, n.Stats().Leaked)
	requireClean(t, n, x)
}

// The table is closed while the domain is suspended and resumed: nothing is behind its frame numbers any more.
func TestResumeDuringClose(t *testing.T) {
	for _, answer := range []error{hypercall.ErrStale, hypercall.ENOENT} {
		x := newFakeXen()
		n := newNative(t, x, nil)
		x.failRemove = answer
		require.NoError(t, n.Close())
		require.Empty(t, x.reserved)
		require.Zero(t, n.Stats().Leaked)
	}
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.failRemove = hypercall.EPERM
	require.ErrorIs(t, n.Close(), hypercall.EPERM)
	require.NotZero(t, n.Stats().Leaked)
}

// A table that cannot grow because the domain was resumed is not full.
func TestResumeDuringGrowth(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.failAdd = func(idx uint64) error {
		x.failAdd = nil
		clear(x.behind)
		return hypercall.ErrStale
	}
	_, err := n.Share(3, 600, ReadWrite)
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.NotErrorIs(t, err, ErrNoSpace)
	require.NoError(t, n.Resume())
	requireClean(t, n, x)
}

// G-17: a peer that keeps what was ended uses up its own part of the table, and nobody else's.
func TestG17_QuarantineOfOnePeerIsBounded(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, &Config{MaxQuarantine: 10})
	table := x.frames[0]
	var held []Ref
	shares := 0
	for ; shares < 100; shares++ {
		s, err := n.Share(3, 3, ReadWrite)
		if err != nil {
			e, ok := errors.AsType[*QuarantineError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, QuarantineError{Peer: 3, Held: 12, Limit: 10}, *e)
			require.ErrorIs(t, err, ErrBusy)
			require.ErrorContains(t, err, "domain 3")
			break
		}
		for _, r := range s.Refs() {
			pin(table, r)
		}
		held = append(held, s.Refs()...)
		e, err := s.End()
		require.NoError(t, err)
		require.Equal(t, Busy, e)
	}
	require.Equal(t, 4, shares)
	other, err := n.Share(4, 400, ReadWrite)
	require.NoError(t, err, "another peer")
	_, err = other.End()
	require.NoError(t, err)

	unpin(table, held[0])
	unpin(table, held[1])
	unpin(table, held[2])
	s, err := n.Share(3, 3, ReadWrite)
	require.NoError(t, err, "it let go of some: Share looks for itself")
	_, err = s.End()
	require.NoError(t, err)
	for _, r := range held {
		unpin(table, r)
	}
	require.Zero(t, n.Reap())
	requireClean(t, n, x)
}

// The default is a part of the table as large as it can be, and a resume ends what was held.
func TestQuarantineDefault(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	const most = 4 * hypercall.GrantsPerFrame / DefaultQuarantineShare
	s, err := n.Share(3, most, ReadWrite)
	require.NoError(t, err)
	for _, r := range s.Refs() {
		pin(x.frames[r/hypercall.GrantsPerFrame], r%hypercall.GrantsPerFrame)
	}
	_, err = s.End()
	require.NoError(t, err)
	_, err = n.Share(3, 1, ReadWrite)
	require.ErrorIs(t, err, ErrBusy)
	x.resume()
	require.NoError(t, n.Resume())
	_, err = n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	requireClean(t, n, x)
}

// A platform that has no memory for a look at the table was not resumed: nobody is told so, and what Xen may have mapped still is not
// taken for gone with an earlier incarnation.
func TestNoMemoryIsNoResume(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	m, err := n.Map(3, []Ref{8}, ReadWrite)
	require.NoError(t, err)
	first := m.(*mapping).first
	x.onUnmap = func(op *hypercall.UnmapGrantRef) { op.Status = hypercall.StatusGeneralError }
	x.scarce = true
	err = m.Close()
	require.ErrorIs(t, err, hypercall.StatusGeneralError)
	require.NotErrorIs(t, err, hypercall.ErrStale)
	require.Contains(t, x.reserved, first, "a frame number that a peer's page is behind was given back")

	x = newFakeXen()
	n = newNative(t, x, nil)
	x.scarce = true
	_, err = n.Share(3, 600, ReadWrite)
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorIs(t, err, hypercall.ENOMEM)
	require.NotErrorIs(t, err, hypercall.ErrStale)
	x.scarce = false
	requireClean(t, n, x)
}
