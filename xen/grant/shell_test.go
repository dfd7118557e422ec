package grant

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

func refsFrom(first Ref, n int) []Ref {
	refs := make([]Ref, n)
	for i := range refs {
		refs[i] = first + Ref(i)
	}
	return refs
}

// G-06: a positive status is a failure.
func TestG06_PositiveStatus(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.onMap = func(op *hypercall.MapGrantRef) {
		if op.Ref == 9 {
			op.Status, op.Handle = 1, 77
		}
	}
	_, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	e, ok := errors.AsType[*MapError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, []hypercall.GrantStatus{0, 1, 0}, e.Statuses)
	require.ErrorIs(t, err, hypercall.GrantStatus(1))
	require.ErrorContains(t, err, "domain 3")
	st := n.Stats()
	require.Equal(t, uint64(2), st.Maps)
	require.Equal(t, uint64(2), st.Unmaps)
	requireClean(t, n, x)
}

// G-06: nor is a positive status a success of a copy, or of an unmap: a page that may be mapped still is not used again.
func TestG06_PositiveStatusOfCopyAndUnmap(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	x.onCopy = func(op *hypercall.GrantCopy) { op.Status = 1 }
	ops := []CopyOp{{Src: CopyEnd{Dom: 3, Ref: 8}, Dst: CopyEnd{Local: s}, Len: 1}}
	require.ErrorIs(t, n.Copy(ops), hypercall.GrantStatus(1))
	require.Zero(t, n.Stats().Copies)
	_, err = s.End()
	require.NoError(t, err)

	m, err := n.Map(3, []Ref{8}, ReadWrite)
	require.NoError(t, err)
	first := m.(*mapping).first
	x.onUnmap = func(op *hypercall.UnmapGrantRef) { op.Status = 1 }
	require.ErrorIs(t, m.Close(), hypercall.GrantStatus(1))
	require.Contains(t, x.reserved, first)
	require.Equal(t, 1, n.Stats().Leaked)
	require.Zero(t, n.Stats().Unmaps)
}

// G-07: what Xen did not come to is not taken for mapped, and what it did before it failed is unmapped.
func TestG07_StatusesUntouched(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.failCall[hypercall.GnttabopMapGrantRef] = hypercall.EFAULT
	x.untouched = func(op *hypercall.MapGrantRef) bool { return op.Ref >= 9 }
	_, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	require.ErrorIs(t, err, hypercall.EFAULT)
	require.Equal(t, uint64(1), n.Stats().Unmaps)
	requireClean(t, n, x)
}

// G-07: a command of which Xen says that it succeeded, and of which it did nothing, has done nothing.
func TestG07_NothingDone(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	m, err := n.Map(3, []Ref{8}, ReadWrite)
	require.NoError(t, err)
	x.skip = map[uint64]bool{hypercall.GnttabopMapGrantRef: true, hypercall.GnttabopUnmapGrantRef: true, hypercall.GnttabopCopy: true}

	_, err = n.Map(3, []Ref{9}, ReadWrite)
	require.ErrorIs(t, err, hypercall.StatusNotDone)
	ops := []CopyOp{{Src: CopyEnd{Dom: 3, Ref: 8}, Dst: CopyEnd{Local: s}, Len: 1}}
	require.ErrorIs(t, n.Copy(ops), hypercall.StatusNotDone)
	require.ErrorIs(t, m.Close(), hypercall.StatusNotDone)
	st := n.Stats()
	require.Equal(t, [4]uint64{1, 0, 0, 1}, [4]uint64{st.Maps, st.Unmaps, st.Copies, uint64(st.Leaked)})
	require.Contains(t, x.reserved, m.(*mapping).first, "the page may be mapped there still")
	_, err = s.End()
	require.NoError(t, err)
}

// G-08: GNTST_eagain is tried again, but not for ever.
func TestG08_EagainForEver(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.onMap = func(op *hypercall.MapGrantRef) {
		if op.Ref == 9 {
			op.Status = hypercall.StatusEagain
		}
	}
	_, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	require.ErrorIs(t, err, hypercall.StatusEagain)
	require.Equal(t, 1+DefaultRetries, x.calls[hypercall.GnttabopMapGrantRef])

	left := 3
	x.onMap = func(op *hypercall.MapGrantRef) {
		if op.Ref%2 == 0 && left > 0 {
			op.Status = hypercall.StatusEagain
			left--
		}
	}
	m, err := n.Map(3, refsFrom(8, 6), ReadWrite)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	x.onCopy = func(op *hypercall.GrantCopy) { op.Status = hypercall.StatusEagain }
	ops := []CopyOp{{Src: CopyEnd{Dom: 3, Ref: 8}, Dst: CopyEnd{Dom: 3, Ref: 9}, Len: 1}}
	require.ErrorIs(t, n.Copy(ops), hypercall.StatusEagain)
	requireClean(t, n, x)
}

// G-08: with the defaults an operation is given up after a fifth of a second.
func TestG08_WaitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newFakeXen()
		n := newNative(t, x, &Config{})
		x.onMap = func(op *hypercall.MapGrantRef) { op.Status = hypercall.StatusEagain }
		begin := time.Now()
		_, err := n.Map(3, []Ref{8}, ReadWrite)
		require.ErrorIs(t, err, hypercall.StatusEagain)
		require.Equal(t, (1+2+4+8+16+32+64+64)*time.Millisecond, time.Since(begin))
		requireClean(t, n, x)
	})
}

// G-13: Xen says that a page was not unmapped. Its frame number, and those of its mapping, are not used again.
func TestG13_XenSaysThatNothingWasUnmapped(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	m, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	require.NoError(t, err)
	x.onUnmap = func(op *hypercall.UnmapGrantRef) {
		if op.HostAddr == m.(*mapping).address(1) {
			op.Status = 5
		}
	}
	err = m.Close()
	e, ok := errors.AsType[*UnmapError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, []hypercall.GrantStatus{0, 5, 0}, e.Statuses)
	require.Equal(t, 3, n.Stats().Leaked)
	require.Zero(t, n.Stats().Mapped)
	require.Len(t, x.reserved, 2, "frame numbers with something behind them are not used again")
	require.NoError(t, m.Close())
}

func TestMapIsBatched(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, &Config{MaxBatch: 10})
	m, err := n.Map(3, refsFrom(8, 35), ReadOnly)
	require.NoError(t, err)
	require.Equal(t, 4, x.calls[hypercall.GnttabopMapGrantRef])
	require.NoError(t, m.Close())
	require.Equal(t, 4, x.calls[hypercall.GnttabopUnmapGrantRef])
	requireClean(t, n, x)
}

func TestViewFails(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.failView = errors.New("no address space")
	_, err := n.Map(3, refsFrom(8, 3), ReadWrite)
	require.ErrorIs(t, err, x.failView)
	require.Equal(t, uint64(3), n.Stats().Unmaps)
	requireClean(t, n, x)
}

func TestAllocFails(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	free := n.Stats().Free
	x.onAlloc = func() error { return hypercall.ENOMEM }
	_, err := n.Share(3, 5, ReadWrite)
	require.ErrorIs(t, err, hypercall.ENOMEM)
	require.Equal(t, free, n.Stats().Free)
	x.onAlloc = nil
	x.next = 1 << 32
	_, err = n.Share(3, 5, ReadWrite)
	require.ErrorContains(t, err, "does not fit")
	require.Equal(t, free, n.Stats().Free)
	requireClean(t, n, x)
}

// G-16: a table that Xen does not let grow is as it was.
func TestG16_GrowthFails(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.failAdd = func(idx uint64) error {
		if idx >= 2 {
			return hypercall.ENOMEM
		}
		return nil
	}
	_, err := n.Share(3, 1100, ReadWrite)
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorIs(t, err, hypercall.ENOMEM)
	st := n.Stats()
	require.Equal(t, 1024, st.Size)
	require.Equal(t, 1016, st.Free)
	s, err := n.Share(3, 1016, ReadWrite)
	require.NoError(t, err)
	x.failAdd = nil
	more, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err, "growth that failed once may succeed later")
	require.Equal(t, []Ref{1024}, more.Refs())
	for _, s := range []Share{s, more} {
		_, err := s.End()
		require.NoError(t, err)
	}
	requireClean(t, n, x)
}

func TestStartRefusals(t *testing.T) {
	x := newFakeXen()
	x.max = 0
	_, err := NewNative(x, x, nil)
	require.ErrorIs(t, err, ErrNoSpace)

	x = newFakeXen()
	x.failAdd = func(uint64) error { return hypercall.EPERM }
	_, err = NewNative(x, x, nil)
	require.ErrorIs(t, err, hypercall.EPERM)
	require.Empty(t, x.reserved)

	x = newFakeXen()
	x.version = 2
	x.failCall[hypercall.GnttabopSetVersion] = hypercall.EBUSY
	_, err = NewNative(x, x, nil)
	require.ErrorIs(t, err, hypercall.EBUSY)
}

// G-14: the table is of version 1, whatever it was.
func TestG14_VersionIsOne(t *testing.T) {
	x := newFakeXen()
	x.version = 2
	n := newNative(t, x, nil)
	require.Equal(t, uint32(1), x.version)
	requireClean(t, n, x)

	x = newFakeXen()
	x.failCall[hypercall.GnttabopGetVersion] = hypercall.ENOSYS
	requireClean(t, newNative(t, x, nil), x)
}

// G-14: where Xen does not let the version be 1 the table is not used, now or after a resume; entries of one version mean something else
// in the other.
func TestG14_NoOtherVersion(t *testing.T) {
	x := newFakeXen()
	x.version, x.chosen = 2, 2
	_, err := NewNative(x, x, nil)
	require.ErrorContains(t, err, "version 2")
	require.Empty(t, x.reserved)

	x = newFakeXen()
	n := newNative(t, x, nil)
	x.resume()
	x.version, x.chosen = 2, 2
	require.ErrorContains(t, n.Resume(), "version 2")
	_, err = n.Share(3, 1, ReadWrite)
	require.ErrorIs(t, err, ErrNoSpace)
	requireClean(t, n, x)

	x = newFakeXen()
	n = newNative(t, x, nil)
	x.resume()
	x.version = 2
	require.NoError(t, n.Resume())
	require.Equal(t, uint32(1), x.version, "the next kernel's choice is made again")
	requireClean(t, n, x)
}

func TestHostLimitIsBounded(t *testing.T) {
	x := newFakeXen()
	x.max = 1<<32 - 1
	n := newNative(t, x, nil)
	require.Equal(t, maxV1Frames, n.Limit())
	requireClean(t, n, x)
	n = newNative(t, x, &Config{MaxFrames: 2})
	require.Equal(t, 2, n.Limit())
	requireClean(t, n, x)
}

func TestNotifyIsRegistered(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	sh, err := n.Share(3, 2, ReadWrite)
	require.NoError(t, err)
	s := sh.(*share)
	require.NoError(t, s.SetNotify(Notify{ClearByte: true, Offset: 4097, Port: 5}))
	require.Equal(t, map[hypercall.GFN]hypercall.Port{s.first + 1: 5}, x.notify)
	require.NoError(t, s.SetNotify(Notify{Port: 6}))
	require.Equal(t, map[hypercall.GFN]hypercall.Port{s.first: 6}, x.notify)
	_, err = s.End()
	require.NoError(t, err)
	require.Empty(t, x.notify)
	requireClean(t, n, x)
}

func TestCopyKeepsPages(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	ended := make(chan Ending, 1)
	x.onCopy = func(*hypercall.GrantCopy) {
		go func() {
			e, _ := s.End()
			ended <- e
		}()
		require.Never(t, s.Region().Closed, 20*time.Millisecond, 5*time.Millisecond, "End does not wait for the copy")
	}
	require.NoError(t, n.Copy([]CopyOp{{Src: CopyEnd{Dom: 3, Ref: 9}, Dst: CopyEnd{Local: s}, Len: 1}}))
	require.Equal(t, Reclaimed, <-ended)
	other := newNative(t, x, nil)
	foreign, err := other.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	require.Error(t, n.Copy([]CopyOp{{Src: CopyEnd{Local: foreign}, Dst: CopyEnd{Local: foreign}}}), "another table's share")
	require.NoError(t, other.Close())
	requireClean(t, n, x)
}

// A domain that was resumed has an empty table: handles of before say so, and nothing of theirs touches it.
func TestResume(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	open, err := n.Share(3, 2, ReadWrite)
	require.NoError(t, err)
	require.NoError(t, open.SetNotify(Notify{ClearByte: true, Port: 1}))
	busy, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	pin(x.frames[0], busy.Refs()[0])
	e, err := busy.End()
	require.NoError(t, err)
	require.Equal(t, Busy, e)
	m, err := n.Map(3, refsFrom(8, 2), ReadWrite)
	require.NoError(t, err)

	x.reset()
	clear(x.mapped)
	require.NoError(t, n.Resume())
	require.True(t, open.Region().Closed())
	require.True(t, m.Region().Closed())
	require.Empty(t, x.alloc, "the memory of old shares is free")
	require.Empty(t, x.notify)
	require.Len(t, x.reserved, 1, "only the table's frame numbers")
	require.ErrorIs(t, open.SetNotify(Notify{}), hypercall.ErrStale)
	require.ErrorIs(t, m.SetNotify(Notify{}), hypercall.ErrStale)
	for range 2 {
		e, err = open.End()
		require.ErrorIs(t, err, hypercall.ErrStale)
		require.Equal(t, Reclaimed, e)
	}
	require.ErrorIs(t, m.Close(), hypercall.ErrStale)
	require.NoError(t, m.Close(), "a second Close")
	require.Error(t, n.Copy([]CopyOp{{Src: CopyEnd{Local: open}, Dst: CopyEnd{Dom: 3, Ref: 8}}}))
	st := n.Stats()
	require.Zero(t, st.Shared+st.Mapped+st.Quarantined)
	require.Equal(t, 504, st.Free)

	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	require.Equal(t, []Ref{8}, s.Refs())
	require.True(t, x.frames[0].Load16(64).Is(hypercall.EntryPermitAccess))
	requireClean(t, n, x)
}

// What was under way when the domain was suspended ends with ErrStale, and leaves nothing.
func TestResumeDuringShareAndMap(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	x.onAlloc = func() error {
		x.onAlloc = nil
		x.reset()
		return n.Resume()
	}
	_, err := n.Share(3, 4, ReadWrite)
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Equal(t, 504, n.Stats().Free)
	for i := range 512 {
		require.True(t, x.frames[0].Load16(i*entrySize).Is(0), "entry %d of the new table", i)
	}

	x.onAlloc = func() error {
		x.onAlloc = nil
		x.reset()
		return errors.Join(n.Resume(), hypercall.ENOMEM)
	}
	_, err = n.Share(3, 4, ReadWrite)
	require.ErrorIs(t, err, hypercall.ENOMEM)
	require.Equal(t, 504, n.Stats().Free)
	requireClean(t, n, x)
}

func TestCloseEndsEverything(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	for range 3 {
		_, err := n.Share(3, 2, ReadWrite)
		require.NoError(t, err)
		_, err = n.Map(3, refsFrom(8, 2), ReadWrite)
		require.NoError(t, err)
	}
	requireClean(t, n, x)
	_, err := n.Share(3, 1, ReadWrite)
	require.ErrorIs(t, err, net.ErrClosed)
}

// One End looks at a bounded part of the quarantine, and goes round it.
func TestReapIsBoundedAndFair(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	table := x.frames[0]
	var held []Ref
	for range 3 {
		s, err := n.Share(3, 60, ReadWrite)
		require.NoError(t, err)
		for _, r := range s.Refs() {
			pin(table, r)
		}
		held = append(held, s.Refs()...)
		e, _ := s.End()
		require.Equal(t, Busy, e)
	}
	for _, r := range held {
		unpin(table, r)
	}
	for n.Stats().Quarantined > 0 {
		before := n.Stats().Quarantined
		s, err := n.Share(3, 1, ReadWrite)
		require.NoError(t, err)
		_, err = s.End()
		require.NoError(t, err)
		require.LessOrEqual(t, before-n.Stats().Quarantined, 120, "of whole shares")
	}
	require.Equal(t, 504, n.Stats().Free)
	requireClean(t, n, x)
}

// A table that was closed while a peer had pages mapped is given back whole by a resume, which ends what the peer has.
func TestResumeAfterClose(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	pin(x.frames[0], s.Refs()[0])
	require.ErrorIs(t, n.Close(), ErrBusy)
	require.ErrorIs(t, n.Close(), ErrBusy)
	x.resume()
	require.NoError(t, n.Resume())
	requireClean(t, n, x)
	require.NoError(t, n.Resume())
	_, err = n.Share(3, 1, ReadWrite)
	require.ErrorIs(t, err, net.ErrClosed)
	requireClean(t, n, x)
}

// zeroCaller answers every copy with success, and does not allocate.
type zeroCaller struct{ *fakeXen }

func (z zeroCaller) Hypercall(c *hypercall.Call) (uint64, error) {
	if c.Nr != hypercall.NrGrantTableOp || c.Args[0] != hypercall.GnttabopCopy {
		return z.fakeXen.Hypercall(c)
	}
	const size, status = 40, 36 // of struct gnttab_copy on x86-64, and the offset of its status
	for i := range int(c.Args[2]) {
		clear(c.Data[i*size+status:][:2])
	}
	return 0, nil
}

func TestCopyDoesNotAllocate(t *testing.T) {
	x := newFakeXen()
	n, err := NewNative(zeroCaller{x}, x, nil)
	require.NoError(t, err)
	s, err := n.Share(3, 16, ReadWrite)
	require.NoError(t, err)
	ops := make([]CopyOp, 16)
	for i := range ops {
		ops[i] = CopyOp{Src: CopyEnd{Dom: 3, Ref: 8}, Dst: CopyEnd{Local: s, Page: i}, Len: shm.PageSize}
	}
	require.NoError(t, n.Copy(ops))
	allocs := testing.AllocsPerRun(100, func() { n.Copy(ops) })
	if !raceEnabled {
		require.Zero(t, allocs)
	}
	_, err = s.End()
	require.NoError(t, err)
	requireClean(t, n, x)
}
