package granttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Side is one domain of a test.
type Side struct {
	ID    hypercall.DomID
	Table grant.Table
	// Events are the domain's event channels, for notifications; nil where there are none, and then they are not tested.
	Events evtchn.Table
	// Limit is how many references the table can have at most, where a test may use them all up; 0 where it may not.
	Limit int
}

// Pair makes two sides for one test, and has them cleaned up when it ends.
type Pair func(t *testing.T) (a, b Side)

// patience is how long something may take that must happen. In a domain of the testbed the processor is an emulated one.
var patience = bearable()

func bearable() time.Duration {
	if os.Getenv("HVKIT_TESTBED_INSIDE") != "" {
		return time.Minute
	}
	return 10 * time.Second
}

// TestTable checks all that package grant says of a Table, its shares and its mappings.
func TestTable(t *testing.T, newPair Pair) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, a, b Side)
	}{
		{"ShareIsZeroed", testZeroed},
		{"MapSeesTheSameMemory", testMap},
		{"MapInAnyOrder", testMapOrder},
		{"MapTwice", testMapTwice},
		{"MapMany", testMapMany},
		{"ReadOnlyShare", testReadOnlyShare},
		{"ReadOnlyMapping", testReadOnlyMapping},
		{"MapRefusals", testMapRefusals},
		{"MapAllOrNone", testMapAllOrNone},
		{"StaleReference", testStaleReference},
		{"EndReclaims", testEnd},
		{"EndWhileMapped", testEndWhileMapped},
		{"EndWhilePartlyMapped", testEndPartly},
		{"BusyPagesAreNotReused", testBusyPages},
		{"ReferencesRest", testReferencesRest},
		{"AfterCloseAndEnd", testAfter},
		{"ShareRefusals", testShareRefusals},
		{"NoSpace", testNoSpace},
		{"CopyOut", testCopyOut},
		{"CopyIn", testCopyIn},
		{"CopyRefusals", testCopyRefusals},
		{"NotifyOnEnd", testNotifyOnEnd},
		{"NotifyOnClose", testNotifyOnClose},
		{"NotifyRefusals", testNotifyRefusals},
		{"ConcurrentUse", testConcurrent},
		{"CloseTable", testCloseTable},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := newPair(t)
			test.run(t, a, b)
			for _, side := range []Side{a, b} {
				if reaper, ok := side.Table.(interface{ Reap() int }); ok {
					require.Zero(t, reaper.Reap(), "pages left in quarantine")
				}
				st := side.Table.Stats()
				require.Zero(t, st.Shared, "pages left shared")
				require.Zero(t, st.Mapped, "pages left mapped")
				require.Zero(t, st.Leaked, "pages leaked")
				require.Equal(t, st.Maps, st.Unmaps, "pages mapped and unmapped")
			}
		})
	}
}

func share(t *testing.T, a, b Side, pages int, access grant.Access) grant.Share {
	t.Helper()
	s, err := a.Table.Share(b.ID, pages, access)
	require.NoError(t, err)
	require.Len(t, s.Refs(), pages)
	require.Equal(t, pages, s.Region().Pages())
	return s
}

func mapAll(t *testing.T, a, b Side, s grant.Share, access grant.Access) grant.Mapping {
	t.Helper()
	m, err := b.Table.Map(a.ID, s.Refs(), access)
	require.NoError(t, err)
	return m
}

// end ends a share that is in use as busy says.
func end(t *testing.T, s grant.Share, busy bool) {
	t.Helper()
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, busy)
}

// unused returns a reference that grants nothing: one that was taken back. Any other number may be a grant of this domain that is none of
// the suite's, where a kernel gives them out.
func unused(t *testing.T, a, b Side) grant.Ref {
	t.Helper()
	s := share(t, a, b, 1, grant.ReadWrite)
	ref := s.Refs()[0]
	end(t, s, false)
	return ref
}

func requireEnding(t *testing.T, e grant.Ending, busy bool) {
	t.Helper()
	if e == grant.Surrendered {
		return
	}
	require.Equal(t, map[bool]grant.Ending{true: grant.Busy, false: grant.Reclaimed}[busy], e)
}

func closeMapping(t *testing.T, m grant.Mapping) {
	t.Helper()
	require.NoError(t, m.Close())
}

// stranger is the number of a domain that is neither.
func stranger(a, b Side) hypercall.DomID {
	id := hypercall.DomID(0)
	for id == a.ID || id == b.ID {
		id++
	}
	return id
}

func read(r *shm.Region, off, n int) string {
	b := make([]byte, n)
	r.CopyOut(b, off)
	return string(b)
}

// G-09: nothing that was in the memory before can be seen in it.
func testZeroed(t *testing.T, a, b Side) {
	for range 3 {
		s := share(t, a, b, 2, grant.ReadWrite)
		require.Equal(t, string(make([]byte, s.Region().Size())), read(s.Region(), 0, s.Region().Size()))
		s.Region().CopyIn(0, bytes.Repeat([]byte("secret"), 1000))
		end(t, s, false)
	}
}

func testMap(t *testing.T, a, b Side) {
	s := share(t, a, b, 3, grant.ReadWrite)
	s.Region().CopyIn(4090, []byte("from a to b"))
	m := mapAll(t, a, b, s, grant.ReadWrite)
	require.Equal(t, 3, m.Region().Pages())
	require.True(t, m.Region().Writable())
	require.Equal(t, "from a to b", read(m.Region(), 4090, 11))
	m.Region().CopyIn(8190, []byte("and"))
	require.Equal(t, "and", read(s.Region(), 8190, 3))
	m.Region().Store32(128, 7)
	require.True(t, s.Region().CompareAndSwap32(128, 7, 8))
	require.True(t, m.Region().Load32(128).Is(8))
	require.Equal(t, 3, a.Table.Stats().Shared)
	require.Equal(t, 3, b.Table.Stats().Mapped)
	closeMapping(t, m)
	end(t, s, false)
}

func testMapOrder(t *testing.T, a, b Side) {
	s := share(t, a, b, 3, grant.ReadWrite)
	for i := range 3 {
		s.Region().Store8(i*shm.PageSize, uint8(i))
	}
	refs := s.Refs()
	m, err := b.Table.Map(a.ID, []grant.Ref{refs[2], refs[0]}, grant.ReadOnly)
	require.NoError(t, err)
	require.Equal(t, 2, m.Region().Pages())
	require.True(t, m.Region().Load8(0).Is(2))
	require.True(t, m.Region().Load8(shm.PageSize).Is(0))
	closeMapping(t, m)
	end(t, s, false)
}

// A page may be mapped more than once, in one mapping too.
func testMapTwice(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	refs := s.Refs()
	m1 := mapAll(t, a, b, s, grant.ReadWrite)
	m2, err := b.Table.Map(a.ID, []grant.Ref{refs[0], refs[0]}, grant.ReadWrite)
	require.NoError(t, err)
	m2.Region().Store8(shm.PageSize+9, 42)
	require.True(t, m1.Region().Load8(9).Is(42))
	require.True(t, m2.Region().Load8(9).Is(42))
	closeMapping(t, m1)
	require.True(t, m2.Region().Load8(9).Is(42), "the other mapping stays")
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	closeMapping(t, m2)
}

func testMapMany(t *testing.T, a, b Side) {
	const pages = 700 // more than a batch, and than a frame of the table
	s := share(t, a, b, pages, grant.ReadWrite)
	for i := range pages {
		s.Region().Store32(i*shm.PageSize, uint32(i)+1)
	}
	m := mapAll(t, a, b, s, grant.ReadOnly)
	for i := range pages {
		require.True(t, m.Region().Load32(i*shm.PageSize).Is(uint32(i)+1), "page %d", i)
	}
	closeMapping(t, m)
	end(t, s, false)
}

// G-10: what is granted read-only cannot be mapped writable.
func testReadOnlyShare(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadOnly)
	require.True(t, s.Region().Writable(), "for its owner")
	s.Region().Store8(0, 5)
	_, err := b.Table.Map(a.ID, s.Refs(), grant.ReadWrite)
	require.Error(t, err)
	m := mapAll(t, a, b, s, grant.ReadOnly)
	require.True(t, m.Region().Load8(0).Is(5))
	closeMapping(t, m)
	end(t, s, false)
}

func testReadOnlyMapping(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	m := mapAll(t, a, b, s, grant.ReadOnly)
	require.False(t, m.Region().Writable())
	require.Panics(t, func() { m.Region().Store8(0, 1) })
	_, err := m.Region().WriteAt([]byte{1}, 0)
	require.Error(t, err)
	require.True(t, s.Region().Load8(0).Is(0))
	closeMapping(t, m)
	end(t, s, false)
}

// G-05, G-06: what was not granted cannot be mapped, and the error says what Xen said.
func testMapRefusals(t *testing.T, a, b Side) {
	forOther, err := a.Table.Share(stranger(a, b), 1, grant.ReadWrite)
	require.NoError(t, err)
	s := share(t, a, b, 1, grant.ReadWrite)
	for _, test := range []struct {
		name string
		peer hypercall.DomID
		refs []grant.Ref
	}{
		{"another domain's reference", a.ID, forOther.Refs()},
		{"an entry that grants nothing", a.ID, []grant.Ref{unused(t, a, b)}},
		{"a reference beyond the table", a.ID, []grant.Ref{1<<32 - 1}},
		{"a reference far beyond the table", a.ID, []grant.Ref{1 << 30}},
		{"no domain", hypercall.DomInvalid, s.Refs()},
		{"no reference", a.ID, nil},
	} {
		m, err := b.Table.Map(test.peer, test.refs, grant.ReadWrite)
		require.Error(t, err, test.name)
		require.Nil(t, m, test.name)
		if mapErr, ok := errors.AsType[*grant.MapError](err); ok {
			require.Equal(t, test.refs, mapErr.Refs, test.name)
			require.Error(t, mapErr.Statuses[0].Err(), test.name)
			_, ok := errors.AsType[hypercall.GrantStatus](err)
			require.True(t, ok, test.name)
		}
	}
	require.Zero(t, b.Table.Stats().Mapped)
	end(t, forOther, false)
	end(t, s, false)
}

// Where one page of several cannot be mapped none stays mapped.
func testMapAllOrNone(t *testing.T, a, b Side) {
	s := share(t, a, b, 3, grant.ReadWrite)
	refs := s.Refs()
	bad := []grant.Ref{refs[0], refs[1], unused(t, a, b), refs[2]}
	_, err := b.Table.Map(a.ID, bad, grant.ReadWrite)
	require.Error(t, err)
	if mapErr, ok := errors.AsType[*grant.MapError](err); ok {
		require.Equal(t, a.ID, mapErr.Peer)
		require.Equal(t, bad, mapErr.Refs)
		require.Len(t, mapErr.Statuses, len(bad))
		for i, status := range mapErr.Statuses {
			require.Equal(t, i == 2, status.Err() != nil, "reference %d: %v", i, status)
		}
	}
	require.Zero(t, b.Table.Stats().Mapped)
	end(t, s, false) // and so nothing is busy
}

func testStaleReference(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	refs := s.Refs()
	end(t, s, false)
	_, err := b.Table.Map(a.ID, refs, grant.ReadWrite)
	require.Error(t, err)
}

func testEnd(t *testing.T, a, b Side) {
	s := share(t, a, b, 2, grant.ReadWrite)
	m := mapAll(t, a, b, s, grant.ReadWrite)
	closeMapping(t, m)
	r := s.Region()
	e1, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e1, false)
	require.True(t, r.Closed())
	e2, err := s.End()
	require.NoError(t, err)
	require.Equal(t, e1, e2, "a second End")
	require.Zero(t, a.Table.Stats().Quarantined)
}

// G-01, G-02: a share that is mapped is not taken back, and what the peer sees is left alone until it lets go.
func testEndWhileMapped(t *testing.T, a, b Side) {
	s := share(t, a, b, 2, grant.ReadWrite)
	s.Region().CopyIn(0, []byte("still here"))
	m := mapAll(t, a, b, s, grant.ReadWrite)
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	if e == grant.Busy {
		require.Equal(t, 2, a.Table.Stats().Quarantined)
		again, err := s.End()
		require.NoError(t, err)
		require.Equal(t, e, again)
	}
	require.Equal(t, "still here", read(m.Region(), 0, 10))
	m.Region().CopyIn(0, []byte("STILL HERE"))
	closeMapping(t, m)

	// The next End finds that the peer has let go.
	end(t, share(t, a, b, 1, grant.ReadWrite), false)
	require.Zero(t, a.Table.Stats().Quarantined)
}

// The pages of a share stay together until all of them are free (G-03).
func testEndPartly(t *testing.T, a, b Side) {
	s := share(t, a, b, 3, grant.ReadWrite)
	s.Region().Store8(shm.PageSize, 9)
	m, err := b.Table.Map(a.ID, s.Refs()[1:2], grant.ReadWrite)
	require.NoError(t, err)
	refs := s.Refs()
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	if e == grant.Busy {
		for _, i := range []int{0, 2} {
			_, err := b.Table.Map(a.ID, refs[i:i+1], grant.ReadWrite)
			require.Error(t, err, "page %d is granted no more", i)
		}
	}
	require.True(t, m.Region().Load8(0).Is(9))
	closeMapping(t, m)
}

func testBusyPages(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	m := mapAll(t, a, b, s, grant.ReadWrite)
	busy := s.Refs()[0]
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	var others []grant.Share
	for range 50 {
		o := share(t, a, b, 1, grant.ReadWrite)
		require.NotEqual(t, busy, o.Refs()[0], "a busy reference was used again")
		o.Region().Store8(0, 0xAA)
		others = append(others, o)
	}
	require.True(t, m.Region().Load8(0).Is(0), "a busy page was used again")
	for _, o := range others {
		end(t, o, false)
	}
	closeMapping(t, m)
}

// G-04: a reference is not used again at once.
func testReferencesRest(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	old := s.Refs()[0]
	end(t, s, false)
	if e, _ := s.End(); e == grant.Surrendered {
		return // the kernel chooses the references
	}
	for range 10 {
		s := share(t, a, b, 1, grant.ReadWrite)
		require.NotEqual(t, old, s.Refs()[0])
		require.GreaterOrEqual(t, s.Refs()[0], grant.Ref(hypercall.NumReservedGrants))
		end(t, s, false)
	}
}

// G-11: what is used too late does no harm.
func testAfter(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	s.Region().Store8(0, 1)
	m := mapAll(t, a, b, s, grant.ReadWrite)
	closeMapping(t, m)
	closeMapping(t, m)
	require.True(t, m.Region().Closed())
	require.True(t, m.Region().Load8(0).Is(0))
	m.Region().Store8(0, 2)
	require.True(t, s.Region().Load8(0).Is(1), "a late write went through")
	require.Error(t, m.SetNotify(grant.Notify{Port: 1}))
	end(t, s, false)
	require.True(t, s.Region().Load8(0).Is(0))
	require.Error(t, s.SetNotify(grant.Notify{Port: 1}))
	err := a.Table.Copy([]grant.CopyOp{{Src: grant.CopyEnd{Local: s}, Dst: grant.CopyEnd{Local: s}, Len: 1}})
	require.Error(t, err)
}

func testShareRefusals(t *testing.T, a, b Side) {
	for _, pages := range []int{0, -1, 1 << 30} {
		_, err := a.Table.Share(b.ID, pages, grant.ReadWrite)
		require.Error(t, err, "%d pages", pages)
	}
	for _, dom := range []hypercall.DomID{hypercall.DomSelf, hypercall.DomInvalid, 0xFFFF} {
		_, err := a.Table.Share(dom, 1, grant.ReadWrite)
		require.Error(t, err, "domain %#x", dom)
	}
}

// G-16, G-17: a table that is full says so, and is as it was when shares end.
func testNoSpace(t *testing.T, a, b Side) {
	if a.Limit == 0 {
		return
	}
	var shares []grant.Share
	var err error
	for {
		var s grant.Share
		if s, err = a.Table.Share(b.ID, 64, grant.ReadWrite); err != nil {
			break
		}
		shares = append(shares, s)
		require.LessOrEqual(t, len(shares)*64, a.Limit)
	}
	require.ErrorIs(t, err, grant.ErrNoSpace)
	full, ok := errors.AsType[*grant.NoSpaceError](err)
	require.True(t, ok)
	require.Equal(t, 64, full.Want)
	require.Less(t, full.Free, 64)

	// A reference that is busy is no space either, until the peer lets go of it.
	last := shares[len(shares)-1]
	m := mapAll(t, a, b, last, grant.ReadWrite)
	e, err := last.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	if e == grant.Busy { // who surrenders pages does not count them
		_, err = a.Table.Share(b.ID, 64, grant.ReadWrite)
		require.ErrorIs(t, err, grant.ErrNoSpace)
	}
	closeMapping(t, m)
	shares[len(shares)-1] = share(t, a, b, 64, grant.ReadWrite)
	for _, s := range shares {
		end(t, s, false)
	}
	end(t, share(t, a, b, 64, grant.ReadWrite), false)
	_, err = a.Table.Share(b.ID, a.Limit+1, grant.ReadWrite)
	require.ErrorIs(t, err, grant.ErrNoSpace)
}

func testCopyOut(t *testing.T, a, b Side) {
	s := share(t, a, b, 2, grant.ReadOnly)
	s.Region().CopyIn(shm.PageSize+100, []byte("copied"))
	to := share(t, b, a, 2, grant.ReadWrite)
	ops := []grant.CopyOp{
		{
			Src: grant.CopyEnd{Dom: a.ID, Ref: s.Refs()[1], Offset: 100},
			Dst: grant.CopyEnd{Local: to, Page: 1, Offset: 4090}, Len: 6,
		},
		{Src: grant.CopyEnd{Dom: a.ID, Ref: s.Refs()[1]}, Dst: grant.CopyEnd{Local: to}, Len: shm.PageSize},
	}
	require.NoError(t, b.Table.Copy(ops))
	require.Equal(t, "copied", read(to.Region(), 2*shm.PageSize-6, 6))
	require.Equal(t, "copied", read(to.Region(), 100, 6))
	require.NoError(t, b.Table.Copy(nil))
	end(t, to, false)
	end(t, s, false)
}

func testCopyIn(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	from := share(t, b, a, 1, grant.ReadWrite)
	from.Region().CopyIn(0, []byte("pushed"))
	op := grant.CopyOp{Src: grant.CopyEnd{Local: from}, Dst: grant.CopyEnd{Dom: a.ID, Ref: s.Refs()[0], Offset: 8}, Len: 6}
	require.NoError(t, b.Table.Copy([]grant.CopyOp{op}))
	require.Equal(t, "pushed", read(s.Region(), 8, 6))
	end(t, from, false)
	end(t, s, false)
}

func testCopyRefusals(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadOnly)
	local := share(t, b, a, 2, grant.ReadWrite)
	foreign := grant.CopyEnd{Dom: a.ID, Ref: s.Refs()[0]}
	at := func(e grant.CopyEnd, page, off int) grant.CopyEnd {
		e.Page, e.Offset = page, off
		return e
	}
	here := grant.CopyEnd{Local: local}
	ops := []grant.CopyOp{
		{Src: foreign, Dst: here, Len: 4},
		{Src: at(foreign, 0, 4000), Dst: here, Len: 97},
		{Src: foreign, Dst: at(here, 1, 4093), Len: 4},
		{Src: foreign, Dst: here, Len: shm.PageSize + 1},
		{Src: foreign, Dst: here, Len: -1},
		{Src: at(foreign, 0, -1), Dst: here, Len: 4},
		{Src: foreign, Dst: at(here, 2, 0), Len: 4},
		{Src: foreign, Dst: at(here, -1, 0), Len: 4},
		{Src: here, Dst: foreign, Len: 4},
		{Src: grant.CopyEnd{Dom: a.ID, Ref: unused(t, a, b)}, Dst: here, Len: 4},
		{Src: grant.CopyEnd{Dom: hypercall.DomInvalid, Ref: 8}, Dst: here, Len: 4},
		{Src: foreign, Dst: at(here, 1, 0), Len: 4},
	}
	err := b.Table.Copy(ops)
	require.Error(t, err)
	for i := range ops {
		good := i == 0 || i == len(ops)-1
		require.Equal(t, good, ops[i].Err == nil, "operation %d: %v", i, ops[i].Err)
		if i >= 1 && i <= 7 {
			require.ErrorIs(t, ops[i].Err, hypercall.StatusBadCopyArg, "operation %d crosses a page", i)
		}
	}
	require.Equal(t, ops[1].Err, err, "the first")
	end(t, local, false)
	end(t, s, false)
}

// channels connects the sides, for notifications.
func channels(t *testing.T, a, b Side) (ca, cb evtchn.Channel) {
	ca, err := a.Events.AllocUnbound(b.ID)
	require.NoError(t, err)
	cb, err = b.Events.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	t.Cleanup(func() {
		cb.Close()
		ca.Close()
	})
	return ca, cb
}

// awaitCleared waits, woken by events, until the byte is zero. It bears events that say nothing.
func awaitCleared(t *testing.T, ch evtchn.Channel, r *shm.Region, off int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !r.Load8(off).Is(0) {
		require.NoError(t, ch.Wait(ctx))
	}
}

func testNotifyOnEnd(t *testing.T, a, b Side) {
	if a.Events == nil || b.Events == nil {
		return
	}
	ca, cb := channels(t, a, b)
	s := share(t, a, b, 2, grant.ReadWrite)
	s.Region().Store32(shm.PageSize+4, 0x01010101)
	m := mapAll(t, a, b, s, grant.ReadWrite)
	require.NoError(t, s.SetNotify(grant.Notify{ClearByte: true, Offset: 3}))
	require.NoError(t, s.SetNotify(grant.Notify{ClearByte: true, Offset: shm.PageSize + 5, Port: ca.Port()}), "in place of the first")
	s.Region().Store8(3, 1)
	e, err := s.End()
	require.NoError(t, err)
	requireEnding(t, e, true)
	awaitCleared(t, cb, m.Region(), shm.PageSize+5)
	require.True(t, m.Region().Load32(shm.PageSize+4).Is(0x01010001), "one byte is cleared")
	require.True(t, m.Region().Load8(3).Is(1), "of the first notification nothing is left")
	closeMapping(t, m)
}

func testNotifyOnClose(t *testing.T, a, b Side) {
	if a.Events == nil || b.Events == nil {
		return
	}
	ca, cb := channels(t, a, b)
	s := share(t, a, b, 1, grant.ReadWrite)
	s.Region().Store8(7, 1)
	s.Region().Store8(8, 1)
	m := mapAll(t, a, b, s, grant.ReadWrite)
	require.NoError(t, m.SetNotify(grant.Notify{ClearByte: true, Offset: 7, Port: cb.Port()}))
	none := mapAll(t, a, b, s, grant.ReadWrite)
	require.NoError(t, none.SetNotify(grant.Notify{ClearByte: true, Offset: 8}))
	require.NoError(t, none.SetNotify(grant.Notify{}), "taken back")
	closeMapping(t, none)
	closeMapping(t, m)
	awaitCleared(t, ca, s.Region(), 7)
	require.True(t, s.Region().Load8(8).Is(1))
	end(t, s, false)
}

func testNotifyRefusals(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	for _, off := range []int{-1, shm.PageSize, 1 << 40} {
		require.Error(t, s.SetNotify(grant.Notify{ClearByte: true, Offset: off}), "offset %d", off)
	}
	m := mapAll(t, a, b, s, grant.ReadOnly)
	require.Error(t, m.SetNotify(grant.Notify{ClearByte: true}), "a read-only mapping cannot clear a byte")
	closeMapping(t, m)
	end(t, s, false)
}

func testConcurrent(t *testing.T, a, b Side) {
	const workers, rounds = 4, 30
	var group sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		group.Go(func() {
			for i := range rounds {
				if err := exchange(a, b, w*rounds+i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

// exchange shares, maps, copies and ends, sometimes in the wrong order.
func exchange(a, b Side, seed int) error {
	s, err := a.Table.Share(b.ID, 1+seed%5, grant.ReadWrite)
	if err != nil {
		return err
	}
	s.Region().Store32(0, uint32(seed))
	m, err := b.Table.Map(a.ID, s.Refs(), grant.ReadWrite)
	if err != nil {
		return err
	}
	if !m.Region().Load32(0).Is(uint32(seed)) {
		return fmt.Errorf("exchange %d: the mapping shows other memory", seed)
	}
	if seed%3 == 0 {
		_, err = s.End()
	}
	err = errors.Join(err, m.Close())
	_, endErr := s.End()
	return errors.Join(err, endErr)
}

// Close ends what is open. While a peer has pages mapped it says so, and a later Close finds them free.
func testCloseTable(t *testing.T, a, b Side) {
	s := share(t, a, b, 1, grant.ReadWrite)
	r := s.Region()
	if a.Table == b.Table {
		m := mapAll(t, a, b, s, grant.ReadWrite)
		require.NoError(t, a.Table.Close())
		require.True(t, m.Region().Closed())
	} else {
		m := mapAll(t, a, b, s, grant.ReadWrite)
		err := a.Table.Close()
		if e, _ := s.End(); e != grant.Surrendered {
			require.ErrorIs(t, err, grant.ErrBusy)
		}
		closeMapping(t, m)
		require.NoError(t, a.Table.Close())
		require.NoError(t, a.Table.Close())
	}
	require.True(t, r.Closed())
	_, err := a.Table.Share(b.ID, 1, grant.ReadWrite)
	require.Error(t, err)
	_, err = a.Table.Map(b.ID, []grant.Ref{8}, grant.ReadWrite)
	require.Error(t, err)
	require.Error(t, a.Table.Copy(nil))
	st := a.Table.Stats()
	require.Zero(t, st.Shared+st.Mapped+st.Quarantined)
}
