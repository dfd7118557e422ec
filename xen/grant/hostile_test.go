package grant

import (
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// shareOne shares a page and returns it with its reference.
func shareOne(t *testing.T, n *Native) (*share, Ref) {
	t.Helper()
	s, err := n.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	return s.(*share), s.Refs()[0]
}

// G-01: a peer says that it is done with a page, and keeps it mapped. Neither the page nor the reference is used again before it lets go.
func TestG01_PeerKeepsThePage(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, ref := shareOne(t, n)
	pin(x.frames[0], ref)
	e, err := s.End()
	require.NoError(t, err)
	require.Equal(t, Busy, e)
	require.Contains(t, x.alloc, s.first, "the page was given back while the peer has it")
	for range 600 { // more than there are references in a frame
		other, r := shareOne(t, n)
		require.NotEqual(t, ref, r)
		require.NotEqual(t, s.first, other.first)
		_, err := other.End()
		require.NoError(t, err)
	}
	require.Equal(t, 1, n.Stats().Quarantined)
	unpin(x.frames[0], ref)
	require.Zero(t, n.Reap())
	require.NotContains(t, x.alloc, s.first)
	requireClean(t, n, x)
}

// G-03: nobody holds the share any more, and the table is closed: the page is still the quarantine's until the peer lets go.
func TestG03_PageBelongsToTheQuarantine(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, ref := shareOne(t, n)
	first, table := s.first, x.frames[0]
	pin(table, ref)
	_, err := s.End()
	require.NoError(t, err)
	s = nil
	runtime.GC()
	runtime.GC()
	require.ErrorIs(t, n.Close(), ErrBusy)
	require.Contains(t, x.alloc, first)
	require.NotEmpty(t, x.reserved, "the table stays, for Xen writes to it")
	unpin(table, ref)
	requireClean(t, n, x)
}

// G-03: the peer lets go of the pages of a share one by one, while others are ended. They stay until it has let go of the last: an end that
// tries some of what is in quarantine forgets none of the rest.
func TestG03_PagesStayUntilTheLastReference(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	big, err := n.Share(3, 2*reapBudget, ReadWrite)
	require.NoError(t, err)
	refs, first := big.Refs(), big.(*share).first
	for _, r := range refs {
		pin(x.frames[0], r)
	}
	e, err := big.End()
	require.NoError(t, err)
	require.Equal(t, Busy, e)
	for i, r := range refs {
		require.Contains(t, x.alloc, first, "the pages were given back while the peer has %d of them", len(refs)-i)
		require.Equal(t, len(refs), n.Stats().Quarantined)
		unpin(x.frames[0], r)
		s, ref := shareOne(t, n) // each end tries some
		require.NotContains(t, refs[i+1:], ref, "used while the peer has it")
		_, err := s.End()
		require.NoError(t, err)
	}
	require.Zero(t, n.Reap())
	require.NotContains(t, x.alloc, first)
	requireClean(t, n, x)
}

// G-04: a late message of the peer's names a reference that was ended. It names nothing for as long as there are others that can be used.
func TestG04_ReferencesRest(t *testing.T) {
	v, _ := newV1(1)
	first := make([]Ref, 1)
	require.True(t, v.Take(first))
	v.Put(first)
	for n := v.Free(); n > 1; n-- {
		r := make([]Ref, 1)
		require.True(t, v.Take(r))
		require.NotEqual(t, first[0], r[0], "used again with %d others free", n)
	}
	last := make([]Ref, 1)
	require.True(t, v.Take(last))
	require.Equal(t, first, last)
}

// G-04: a reference that was domain 3's is used again for domain 4. A late map of domain 3's comes at any step of that, and finds nothing;
// one of domain 4's finds nothing or the page that is meant for it.
func TestG04_LateMapWhileUsedAgain(t *testing.T) {
	const oldFrame, newFrame = 0x111, 0x222
	found := false
	for _, dom := range []hypercall.DomID{3, 4} {
		for at := range 6 {
			v, r := newV1(1)
			require.True(t, v.Take(make([]Ref, 1)))
			v.Permit(8, 3, oldFrame, ReadWrite)
			require.True(t, v.End(8))
			n := 0
			late := func() {
				frame, ok := xenMap(r, 8, dom)
				found = found || ok
				if ok {
					require.Equal(t, hypercall.DomID(4), dom, "before access %d", at)
					require.Equal(t, uint32(newFrame), frame, "before access %d", at)
				}
			}
			r.Observe(observer(func(shm.Access) {
				if n++; n == at+1 {
					r.Observe(nil)
					late()
				}
			}))
			v.Permit(8, 4, newFrame, ReadWrite)
			r.Observe(nil)
			if n <= at {
				late()
			}
		}
	}
	require.True(t, found)
}

// xenMap is as much of GNTTABOP_map_grant_ref as looks at the entry.
func xenMap(r *shm.Region, ref Ref, dom hypercall.DomID) (frame uint32, ok bool) {
	off := int(ref) * entrySize
	word := r.Load32(off).Unchecked()
	if word&hypercall.EntryTypeMask != hypercall.EntryPermitAccess || hypercall.DomID(word>>16) != dom {
		return 0, false
	}
	r.Or16(off, hypercall.EntryReading)
	return r.Load32(off + entryFrame).Unchecked(), true
}

// G-05: the references that Xen gives to the console and to Xenstore are never handed out, and what a peer names is only a number: Xen
// says what it is.
func TestG05_ReservedAndImpossibleReferences(t *testing.T) {
	v, _ := newV1(1)
	all := make([]Ref, v.Free())
	require.True(t, v.Take(all))
	for _, r := range all {
		require.GreaterOrEqual(t, r, Ref(hypercall.NumReservedGrants))
		require.Less(t, int(r), v.Size())
	}
	frame := shm.New(1)
	for ref := range hypercall.NumReservedGrants { // as the toolstack leaves them
		frame.Store16(ref*entrySize, hypercall.EntryPermitAccess)
	}
	v = NewV1(1)
	v.Grow(frame, Survey(frame, true))
	for ref := range hypercall.NumReservedGrants {
		require.True(t, frame.Load16(ref*entrySize).Is(hypercall.EntryPermitAccess), "reserved reference %d was touched", ref)
	}

	x := newFakeXen()
	n := newNative(t, x, nil)
	x.onMap = func(op *hypercall.MapGrantRef) { op.Status = hypercall.StatusBadGntRef }
	for _, r := range []Ref{0, 1, 7, 511, 1 << 20, 1<<31 - 1, 1<<32 - 1} {
		_, err := n.Map(3, []Ref{r}, ReadWrite)
		e, ok := errors.AsType[*MapError](err)
		require.True(t, ok, "reference %d: %v", r, err)
		require.Equal(t, []Ref{r}, e.Refs)
		require.ErrorIs(t, err, hypercall.StatusBadGntRef)
	}
	requireClean(t, n, x)
}

// G-10: what is mapped or granted for reading only is so for Xen, and cannot be written here by mistake.
func TestG10_ReadOnly(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	var flags uint32
	x.onMap = func(op *hypercall.MapGrantRef) { flags = op.Flags }
	m, err := n.Map(3, []Ref{8}, ReadOnly)
	require.NoError(t, err)
	require.NotZero(t, flags&hypercall.GrantMapReadOnly, "Xen is told")
	require.False(t, m.Region().Writable())
	require.PanicsWithError(t, (&shm.ReadOnlyError{Op: "store", Off: 4}).Error(), func() { m.Region().Store32(4, 1) })
	require.NoError(t, m.Close())

	s, err := n.Share(3, 1, ReadOnly)
	require.NoError(t, err)
	entry := int(s.Refs()[0]) * entrySize
	require.NotZero(t, x.frames[0].Load16(entry).Bits(hypercall.EntryReadOnly))
	require.True(t, s.Region().Writable(), "whose page it is writes it")
	_, err = s.End()
	require.NoError(t, err)
	requireClean(t, n, x)
}

// G-11: a page is used after it was unmapped, or after its share was ended. Nothing is touched, and it is counted.
func TestG11_UseAfterUnmap(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	m, err := n.Map(3, []Ref{8}, ReadWrite)
	require.NoError(t, err)
	s, _ := shareOne(t, n)
	m.Region().Store32(0, 7)
	s.Region().Store32(0, 7)
	require.NoError(t, m.Close())
	_, err = s.End()
	require.NoError(t, err)
	for _, r := range []*shm.Region{m.Region(), s.Region()} {
		require.True(t, r.Closed())
		require.True(t, r.Load32(0).Is(0))
		r.Store32(0, 9)
		require.EqualValues(t, 2, r.LateAccesses())
	}
	x.onCopy = func(*hypercall.GrantCopy) { t.Error("Xen is asked to copy from a page that is gone") }
	require.ErrorIs(t, n.Copy([]CopyOp{{Src: CopyEnd{Local: s}, Dst: CopyEnd{Dom: 3, Ref: 9}, Len: 1}}), net.ErrClosed)
	requireClean(t, n, x)
}

// G-13: Xen says once that a page is not in use although it is. Nothing here can know, but the table stays whole: the reference is free
// once, and not twice when the truth comes out.
func TestG13_XenClearsTheBitsTooEarly(t *testing.T) {
	x := newFakeXen()
	n := newNative(t, x, nil)
	s, ref := shareOne(t, n)
	free := n.Stats().Free
	pin(x.frames[0], ref)
	unpin(x.frames[0], ref) // too early
	e, err := s.End()
	require.NoError(t, err)
	require.Equal(t, Reclaimed, e)
	pin(x.frames[0], ref) // the truth
	e, err = s.End()
	require.NoError(t, err)
	require.Equal(t, Reclaimed, e, "what it was")
	require.Equal(t, free+1, n.Stats().Free)
	unpin(x.frames[0], ref)
	requireClean(t, n, x)
}

// G-13: Xen says anything, true or not: statuses, handles, bits of entries that come and go, of pages in use and not. No reference is used
// twice nor lost, nothing counts below zero, and where Xen tells the truth at last the table can be closed.
func TestG13_XenLies(t *testing.T) {
	for seed := range uint64(300) {
		l := newLiar(t, seed)
		for range 60 {
			l.step()
			l.check()
		}
		l.x.onUnmap = func(op *hypercall.UnmapGrantRef) { op.Status = 0 }
		for ref := range Ref(hypercall.GrantsPerFrame) {
			unpin(l.x.frames[0], ref)
		}
		require.NoError(t, l.n.Close(), "seed %d", seed)
		require.Empty(t, l.x.alloc, "seed %d", seed)
	}
}

// liar is a table on a Xen that lies.
type liar struct {
	t      *testing.T
	seed   uint64
	rnd    *rand.Rand
	x      *fakeXen
	n      *Native
	failed bool // whether Xen refused to map something
	open   []*share
	over   []*share
	maps   []Mapping
}

func newLiar(t *testing.T, seed uint64) *liar {
	l := &liar{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 13)), x: newFakeXen()}
	l.x.max = 1
	l.n = newNative(t, l.x, &Config{Retries: -1})
	l.x.onMap = func(op *hypercall.MapGrantRef) {
		op.Status = l.status()
		l.failed = l.failed || op.Status != hypercall.StatusOkay
	}
	l.x.onMapped = func(op *hypercall.MapGrantRef) {
		handles := []hypercall.GrantHandle{op.Handle, op.Handle, 0, 1, hypercall.NoHandle}
		op.Handle = handles[l.rnd.IntN(len(handles))]
	}
	l.x.onUnmap = func(op *hypercall.UnmapGrantRef) { op.Status = l.status() }
	l.x.onCopy = func(op *hypercall.GrantCopy) { op.Status = l.status() }
	return l
}

// status is what Xen says of an operation.
func (l *liar) status() hypercall.GrantStatus {
	statuses := []hypercall.GrantStatus{1, 32767, -1, -32768, hypercall.StatusEagain, hypercall.StatusNotDone}
	if i := l.rnd.IntN(4 * len(statuses)); i < len(statuses) {
		return statuses[i]
	}
	return hypercall.StatusOkay
}

func (l *liar) step() {
	switch l.rnd.IntN(8) {
	case 0, 1:
		s, err := l.n.Share(3, 1+l.rnd.IntN(100), ReadWrite)
		if err != nil {
			require.True(l.t, errors.Is(err, ErrNoSpace) || errors.Is(err, ErrBusy), "seed %d: %v", l.seed, err)
			return
		}
		l.open = append(l.open, s.(*share))
	case 2:
		if len(l.open) > 0 {
			_, err := l.open[0].End()
			require.NoError(l.t, err)
			l.over, l.open = append(l.over, l.open[0]), l.open[1:]
		}
	case 3:
		if len(l.over) > 0 {
			s, before := l.over[l.rnd.IntN(len(l.over))], l.n.Stats()
			ending := s.ending
			e, err := s.End()
			require.NoError(l.t, err)
			require.Equal(l.t, ending, e, "seed %d: not what the first end said", l.seed)
			require.Equal(l.t, before, l.n.Stats(), "seed %d: a second end", l.seed)
		}
	case 4:
		l.failed = false
		if m, err := l.n.Map(3, refsFrom(8, 1+l.rnd.IntN(5)), ReadWrite); err == nil {
			require.False(l.t, l.failed, "seed %d: mapped, and Xen refused some of it", l.seed)
			l.maps = append(l.maps, m)
		}
	case 5:
		if len(l.maps) > 0 {
			_ = l.maps[0].Close()
			l.maps = l.maps[1:]
		}
	case 6:
		op := CopyOp{Src: CopyEnd{Dom: 3, Ref: 8}, Dst: CopyEnd{Dom: 3, Ref: 9}, Len: 1}
		_ = l.n.Copy([]CopyOp{op, op})
	case 7:
		for range 30 {
			set := []func(*shm.Region, Ref){pin, unpin}[l.rnd.IntN(2)]
			set(l.x.frames[0], Ref(hypercall.NumReservedGrants+l.rnd.IntN(hypercall.GrantsPerFrame-hypercall.NumReservedGrants)))
		}
	}
}

// check counts references: each is free, in one open share, or in quarantine.
//
// +checklocksignore: nobody else uses the table.
func (l *liar) check() {
	count := make(map[Ref]int)
	for _, s := range l.open {
		for _, r := range s.lease.refs {
			count[r]++
		}
	}
	open := len(count)
	for b := l.n.v1.oldest; b != nil; b = b.next {
		for _, r := range b.Refs {
			count[r]++
		}
	}
	for r, n := range count {
		require.Equal(l.t, 1, n, "seed %d: reference %d is in use twice", l.seed, r)
	}
	st := l.n.Stats()
	require.Equal(l.t, st.Size-hypercall.NumReservedGrants, st.Free+len(count), "seed %d: references", l.seed)
	require.Equal(l.t, open, st.Shared, "seed %d", l.seed)
	require.GreaterOrEqual(l.t, min(st.Quarantined, st.Leaked, st.Mapped), 0, "seed %d", l.seed)
}

// G-15: no entry is ever of a kind other than the plain one, and what somebody before left of other kinds is taken away.
func TestG15_OnlyPlainEntries(t *testing.T) {
	const transitive, subPage = 3, 1 << 8
	r := shm.New(1)
	r.Store16(20*entrySize, transitive)
	r.Store16(21*entrySize, hypercall.EntryPermitAccess|subPage)
	v := NewV1(1)
	v.Grow(r, Survey(r, true))
	require.True(t, r.Load16(20*entrySize).Is(0))
	require.True(t, r.Load16(21*entrySize).Is(0))
	refs := make([]Ref, v.Free())
	require.True(t, v.Take(refs))
	for i, ref := range refs {
		v.Permit(ref, hypercall.DomID(i), hypercall.GFN(i), Access(i%2))
		flags := r.Load16(int(ref) * entrySize).Unchecked()
		require.Zero(t, flags&^(hypercall.EntryPermitAccess|hypercall.EntryReadOnly), "flags %#x", flags)
	}
}

// G-16: memory ends at each step of setting a table up, sharing, growing, and mapping. What was begun is undone.
func TestG16_MemoryEndsAtEachStep(t *testing.T) {
	whole := false
	for enough := 0; !whole; enough++ {
		x := newFakeXen()
		x.scarce, x.memory = true, enough
		n, err := NewNative(x, x, &Config{Backoff: time.Microsecond})
		if err != nil {
			require.ErrorIs(t, err, hypercall.ENOMEM)
			require.Empty(t, x.reserved, "with %d requests that succeed", enough)
			require.Empty(t, x.behind)
			continue
		}
		free := n.Stats().Free
		s, errShare := n.Share(3, 700, ReadWrite) // more than there are references yet
		m, errMap := n.Map(3, refsFrom(8, 3), ReadWrite)
		for _, err := range []error{errShare, errMap} {
			if err != nil {
				require.True(t, errors.Is(err, hypercall.ENOMEM) || errors.Is(err, hypercall.StatusNoSpace), "%v", err)
			}
		}
		if errShare == nil {
			_, err := s.End()
			require.NoError(t, err)
		}
		if errMap == nil {
			require.NoError(t, m.Close())
		}
		st := n.Stats()
		require.GreaterOrEqual(t, st.Free, free)
		require.Equal(t, st.Size-hypercall.NumReservedGrants, st.Free, "references, with %d requests that succeed", enough)
		require.Zero(t, st.Shared+st.Mapped+st.Leaked+st.Quarantined)
		require.Equal(t, st.Maps, st.Unmaps)
		whole = errShare == nil && errMap == nil
		x.scarce = false // closing needs none
		requireClean(t, n, x)
		require.Less(t, enough, 100)
	}
}

// G-17: whoever asks for ever more grants is told that there are none, with the figures, at the host's limit; what is there works on, and
// what is given back can be had again.
func TestG17_FloodOfShares(t *testing.T) {
	x := newFakeXen()
	x.max = 2
	n := newNative(t, x, nil)
	var shares []Share
	for {
		s, err := n.Share(3, 100, ReadWrite)
		if err != nil {
			e, ok := errors.AsType[*NoSpaceError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, NoSpaceError{Want: 100, Free: 16, Size: 1024, Limit: 1024}, *e)
			require.ErrorIs(t, err, ErrNoSpace)
			break
		}
		shares = append(shares, s)
		require.LessOrEqual(t, len(shares), 10)
	}
	require.Len(t, shares, 10)
	_, err := shares[0].End()
	require.NoError(t, err)
	again, err := n.Share(4, 100, ReadWrite)
	require.NoError(t, err)
	for _, s := range append(shares[1:], again) {
		_, err := s.End()
		require.NoError(t, err)
	}
	requireClean(t, n, x)
}
