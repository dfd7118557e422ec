package grant_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// newSides makes two domains on a host, which is to have no leaks when the test ends.
func newSides(t *testing.T) (a, b granttest.Side) {
	host := sim.NewHost(nil)
	t.Cleanup(func() {
		require.Empty(t, host.Leaks())
		require.NoError(t, host.Close())
	})
	return newSide(t, host, "a"), newSide(t, host, "b")
}

func newSide(t testing.TB, host *sim.Host, name string) granttest.Side {
	dom, err := host.NewDomain(&sim.DomainConfig{Name: name})
	require.NoError(t, err)
	x := dom.Xen()
	limit := x.Grants().(*grant.Native).Limit()
	return granttest.Side{ID: x.ID(), Table: x.Grants(), Events: x.Events(), Limit: limit * hypercall.GrantsPerFrame}
}

func TestConformanceOnSim(t *testing.T) {
	granttest.TestTable(t, newSides)
}

// A domain may share with itself.
func TestConformanceOnSimWithItself(t *testing.T) {
	granttest.TestTable(t, func(t *testing.T) (a, b granttest.Side) {
		a, _ = newSides(t)
		return a, a
	})
}

func BenchmarkMapUnmap(b *testing.B) {
	for _, pages := range []int{1, 256} {
		b.Run(fmt.Sprintf("%d_pages", pages), func(b *testing.B) {
			x, y := benchSides(b)
			s, err := x.Table.Share(y.ID, pages, grant.ReadWrite)
			require.NoError(b, err)
			refs := s.Refs()
			b.ReportAllocs()
			for b.Loop() {
				m, err := y.Table.Map(x.ID, refs, grant.ReadWrite)
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(y.Table.Stats().Hypercalls)/float64(b.N), "hypercalls/op")
		})
	}
}

func BenchmarkShareEnd(b *testing.B) {
	x, y := benchSides(b)
	b.ReportAllocs()
	for b.Loop() {
		s, err := x.Table.Share(y.ID, 1, grant.ReadWrite)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.End(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d_pages", n), func(b *testing.B) {
			x, y := benchSides(b)
			from, err := x.Table.Share(y.ID, n, grant.ReadOnly)
			require.NoError(b, err)
			to, err := y.Table.Share(x.ID, n, grant.ReadOnly)
			require.NoError(b, err)
			ops := make([]grant.CopyOp, n)
			for i, r := range from.Refs() {
				ops[i] = grant.CopyOp{Src: grant.CopyEnd{Dom: x.ID, Ref: r}, Dst: grant.CopyEnd{Local: to, Page: i}, Len: shm.PageSize}
			}
			b.SetBytes(int64(n) * shm.PageSize)
			b.ReportAllocs()
			for b.Loop() {
				if err := y.Table.Copy(ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchSides(b *testing.B) (x, y granttest.Side) {
	host := sim.NewHost(nil)
	b.Cleanup(func() { host.Close() })
	return newSide(b, host, "x"), newSide(b, host, "y")
}

// G-12: pages of a domain that died can be unmapped as ever, and stay readable until then; nobody else gets them meanwhile.
func TestG12_PeerDiesWhileMapped(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	a, b := newSide(t, host, "a"), newSide(t, host, "b")
	s, err := a.Table.Share(b.ID, 2, grant.ReadWrite)
	require.NoError(t, err)
	refs := s.Refs()
	s.Region().Store8(0, 7)
	ca, err := a.Events.AllocUnbound(b.ID)
	require.NoError(t, err)
	cb, err := b.Events.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	m, err := b.Table.Map(a.ID, refs, grant.ReadWrite)
	require.NoError(t, err)
	require.NoError(t, m.SetNotify(grant.Notify{ClearByte: true, Offset: 1, Port: cb.Port()}))
	require.NoError(t, host.Domain(a.ID).Destroy())
	require.Contains(t, host.Leaks(), fmt.Sprintf("domain %d (a): dead, and others have pages of it mapped", a.ID))

	others := make([]grant.Share, 20)
	for i := range others {
		others[i], err = b.Table.Share(a.ID, 2, grant.ReadWrite)
		require.NoError(t, err)
		others[i].Region().Store8(0, 9)
	}
	require.True(t, m.Region().Load8(0).Is(7))
	require.NoError(t, m.Close(), "there is nobody to be notified, which is no error")
	require.NoError(t, cb.Close())
	for _, o := range others {
		e, err := o.End()
		require.NoError(t, err)
		require.Equal(t, grant.Reclaimed, e)
	}
	_, err = b.Table.Map(a.ID, refs, grant.ReadWrite)
	require.ErrorIs(t, err, hypercall.StatusBadDomain)
	require.Empty(t, host.Leaks())
}

// G-12: a domain dies while it has pages of this one mapped, some of them ended. Xen lets go of them, and all of them are here again
// without a word of the dead.
func TestG12_MapperDies(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	a, b := newSide(t, host, "a"), newSide(t, host, "b")
	ended, err := a.Table.Share(b.ID, 3, grant.ReadWrite)
	require.NoError(t, err)
	open, err := a.Table.Share(b.ID, 3, grant.ReadWrite)
	require.NoError(t, err)
	for _, s := range []grant.Share{ended, open} {
		_, err := b.Table.Map(a.ID, s.Refs(), grant.ReadWrite)
		require.NoError(t, err)
	}
	e, err := ended.End()
	require.NoError(t, err)
	require.Equal(t, grant.Busy, e)
	require.Equal(t, 3, a.Table.(*grant.Native).Reap())
	require.NoError(t, host.Domain(b.ID).Destroy())
	require.Zero(t, a.Table.(*grant.Native).Reap())
	e, err = open.End()
	require.NoError(t, err)
	require.Equal(t, grant.Reclaimed, e)
	require.Empty(t, host.Leaks())
}

func TestResumeOnSim(t *testing.T) {
	for _, newID := range []bool{false, true} {
		host := sim.NewHost(nil)
		a, b := newSide(t, host, "a"), newSide(t, host, "b")
		dom := host.Domain(a.ID)
		s, err := a.Table.Share(b.ID, 2, grant.ReadWrite)
		require.NoError(t, err)
		theirs, err := b.Table.Share(a.ID, 1, grant.ReadWrite)
		require.NoError(t, err)
		m, err := a.Table.Map(b.ID, theirs.Refs(), grant.ReadWrite)
		require.NoError(t, err)
		require.NoError(t, dom.Suspend())
		require.NoError(t, dom.Resume(newID))

		_, err = s.End()
		require.ErrorIs(t, err, hypercall.ErrStale)
		require.ErrorIs(t, m.Close(), hypercall.ErrStale)
		e, err := theirs.End()
		require.NoError(t, err)
		require.Equal(t, grant.Reclaimed, e, "the mapping went with the incarnation")
		a.ID = dom.ID()
		s, err = a.Table.Share(b.ID, 2, grant.ReadWrite)
		require.NoError(t, err)
		m, err = b.Table.Map(a.ID, s.Refs(), grant.ReadWrite)
		require.NoError(t, err)
		require.NoError(t, m.Close())
		_, err = s.End()
		require.NoError(t, err)
		require.Empty(t, host.Leaks())
		require.NoError(t, host.Close())
	}
}
