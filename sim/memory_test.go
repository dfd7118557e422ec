package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
)

func TestAllocAndFree(t *testing.T) {
	onBare(t, sim.Limits{Pages: 8, Extents: 3}, func(t *testing.T, h *sim.Host, a, _ *bare) {
		first, mem := a.alloc(4)
		require.Equal(t, 4, mem.Pages())
		mem.Store8(4*shm.PageSize-1, 1)
		_, _, err := a.m.Alloc(5)
		require.ErrorIs(t, err, hypercall.ENOMEM, "more pages than the domain may have")
		for _, n := range []int{0, -1} {
			_, _, err = a.m.Alloc(n)
			require.Error(t, err)
		}
		require.Error(t, a.m.Free(first, 3), "part of an allocation")
		require.Error(t, a.m.Free(first+1, 3))
		require.Error(t, a.m.Free(first+99, 1), "nothing is there")
		require.NoError(t, a.m.Free(first, 4))
		require.Error(t, a.m.Free(first, 4), "twice")
		again, mem := a.alloc(4)
		require.Equal(t, first, again)
		require.Zero(t, mem.Load8(4*shm.PageSize-1).Unchecked(), "memory is zeroed")
		a.alloc(1)
		a.alloc(1)
		_, _, err = a.m.Alloc(1)
		require.ErrorIs(t, err, hypercall.ENOMEM, "more allocations than the domain may have")
		require.Contains(t, h.Leaks(), "domain 1 (a): 6 pages of memory are allocated")
	})
}

func TestReserve(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		first, err := a.m.Reserve(4)
		require.NoError(t, err)
		_, err = a.m.View(first, 1, false)
		require.Error(t, err, "nothing is behind it")
		require.Error(t, a.m.Unreserve(first, 3))
		require.NoError(t, a.m.Unreserve(first, 4))
		require.Error(t, a.m.Unreserve(first, 4))
		for _, n := range []int{0, -1, 1 << 40} {
			_, err = a.m.Reserve(n)
			require.Error(t, err)
		}
	})
}

func TestViews(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		first, mem := a.alloc(4)
		mem.Store8(2*shm.PageSize, 7)
		ro := a.view(first+1, 2, false)
		require.Equal(t, uint8(7), ro.Load8(shm.PageSize).Unchecked())
		require.False(t, ro.Writable())
		require.NoError(t, ro.Close())
		require.Equal(t, uint8(7), mem.Load8(2*shm.PageSize).Unchecked(), "closing a view closes nothing else")
		for _, n := range []int{0, -1} {
			_, err := a.m.View(first, n, true)
			require.Error(t, err)
		}
		_, err := a.m.View(first+3, 2, true)
		require.ErrorIs(t, err, hypercall.EINVAL, "nothing is behind the second frame")
	})
}

func TestPhysmap(t *testing.T) {
	const self = hypercall.DomSelf
	onBare(t, sim.Limits{GrantFrames: 2}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		add := func(dom hypercall.DomID, space hypercall.PhysmapSpace, idx uint64, at hypercall.GFN) error {
			return hypercall.AddToPhysmap(a.m, dom, space, idx, at)
		}
		at := a.reserve(4)
		require.ErrorIs(t, add(b.ID(), hypercall.SpaceSharedInfo, 0, at), hypercall.EPERM)
		require.ErrorIs(t, add(nobody, hypercall.SpaceSharedInfo, 0, at), hypercall.ESRCH)
		require.ErrorIs(t, add(self, hypercall.SpaceSharedInfo, 1, at), hypercall.EINVAL)
		require.ErrorIs(t, add(self, hypercall.SpaceGrantTable, 2, at), hypercall.EINVAL)
		require.ErrorIs(t, add(self, hypercall.SpaceGrantTable, 1<<31, at), hypercall.EINVAL)
		require.ErrorIs(t, add(self, hypercall.SpaceGMFN, 0, at), hypercall.ENOSYS)
		require.NoError(t, add(self, hypercall.SpaceGrantTable, 1, at))
		require.NoError(t, add(self, hypercall.SpaceGrantTable, 1, at+1))
		_, err := a.m.View(at, 1, true)
		require.Error(t, err, "it is in one place at a time")
		require.NoError(t, add(self, hypercall.SpaceSharedInfo, 0, at+1), "in the place of the grant table's frame")
		a.view(at+1, 1, true)

		remove := func(dom hypercall.DomID, at hypercall.GFN) error { return hypercall.RemoveFromPhysmap(a.m, dom, at) }
		require.ErrorIs(t, remove(b.ID(), at), hypercall.EPERM)
		require.ErrorIs(t, remove(nobody, at), hypercall.ESRCH)
		require.ErrorIs(t, remove(self, at), hypercall.ENOENT)
		require.NoError(t, remove(self, at+1))
		require.ErrorIs(t, remove(self, at+1), hypercall.ENOENT)

		page, _ := b.alloc(1)
		b.entry(20, a.ID(), page, permit)
		op := a.mapRef(b.ID(), 20, mapRW)
		mapped := hypercall.GFN(op.HostAddr / shm.PageSize)
		require.ErrorIs(t, add(self, hypercall.SpaceSharedInfo, 0, mapped), hypercall.EINVAL, "over a granted page")
		require.ErrorIs(t, remove(self, mapped), hypercall.ENOENT, "the page is not the domain's")
		require.Equal(t, hypercall.StatusOkay, a.unmap(op))
	})
}

// TestOverOwnMemory: what Xen puts over a page of the domain's takes that page from it, and nothing breaks by it.
func TestOverOwnMemory(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, _ *bare) {
		first, _ := a.alloc(3)
		require.NoError(t, hypercall.AddToPhysmap(a.m, hypercall.DomSelf, hypercall.SpaceSharedInfo, 0, first+1))
		require.Contains(t, h.Leaks(), "domain 1 (a): 2 pages of memory are allocated")
		require.Error(t, a.m.Free(first, 3), "the allocation is whole no more")
		require.NoError(t, hypercall.RemoveFromPhysmap(a.m, hypercall.DomSelf, first))
		require.NoError(t, hypercall.RemoveFromPhysmap(a.m, hypercall.DomSelf, first+2))
		require.NotContains(t, h.Leaks(), "domain 1 (a): 2 pages of memory are allocated")
	})
}

func TestReservations(t *testing.T) {
	h := newHost(t, &sim.HostConfig{Limits: sim.Limits{Pages: 4}})
	a, b := newBareHere(t, h, sim.DomainConfig{Name: "a"}), newBareHere(t, h, sim.DomainConfig{Name: "b"})
	list := []hypercall.GFN{0x5000_0000, 0x5000_0001, 0x5000_0002}
	n, err := hypercall.PopulatePhysmap(a.m, hypercall.DomSelf, 0, list)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	a.view(list[0], 1, true).Store8(0, 5)
	n, err = hypercall.PopulatePhysmap(a.m, hypercall.DomSelf, 0, []hypercall.GFN{0x6000_0000, 0x6000_0001})
	require.Error(t, err, "the domain may have one page more")
	require.Equal(t, 1, n)
	_, err = hypercall.PopulatePhysmap(a.m, b.ID(), 0, list)
	require.ErrorIs(t, err, hypercall.EPERM)
	_, err = hypercall.PopulatePhysmap(a.m, hypercall.DomSelf, 9, list)
	require.ErrorIs(t, err, hypercall.EINVAL)
	n, err = hypercall.DecreaseReservation(a.m, hypercall.DomSelf, 0, list)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	n, err = hypercall.DecreaseReservation(a.m, hypercall.DomSelf, 0, list[:1])
	require.Error(t, err)
	require.Zero(t, n)

	first, _ := a.alloc(1)
	_, err = hypercall.DecreaseReservation(a.m, hypercall.DomSelf, 0, []hypercall.GFN{first})
	require.NoError(t, err)
	require.Error(t, a.m.Free(first, 1), "the page has gone already")
	_, err = hypercall.PopulatePhysmap(a.m, hypercall.DomSelf, 0, []hypercall.GFN{first + 1})
	require.NoError(t, err)
	_, _, err = a.m.Alloc(1)
	require.ErrorIs(t, err, hypercall.EEXIST, "the domain put something where memory comes next")
}

func TestUnmapNotifyRefusals(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		notifier := a.m.(hypercall.UnmapNotifier)
		page, _ := a.alloc(1)
		theirs, _ := b.alloc(1)
		b.entry(20, a.ID(), theirs, permit)
		ro := a.mapRef(b.ID(), 20, mapRO)
		frame := hypercall.GFN(ro.HostAddr / shm.PageSize)
		require.ErrorIs(t, notifier.SetUnmapNotify(page, shm.PageSize, 0), hypercall.EINVAL)
		require.ErrorIs(t, notifier.SetUnmapNotify(page, 0, 500), hypercall.EINVAL, "no such port")
		require.ErrorIs(t, notifier.SetUnmapNotify(page+9, 0, 0), hypercall.EINVAL, "no such frame")
		require.ErrorIs(t, notifier.SetUnmapNotify(frame, 0, 0), hypercall.EINVAL, "a byte of a read-only mapping")
		require.NoError(t, notifier.SetUnmapNotify(frame, -1, a.store))
		require.NoError(t, notifier.SetUnmapNotify(page, 5, 0))
		require.NoError(t, notifier.SetUnmapNotify(page, -1, 0))
		require.Equal(t, hypercall.StatusOkay, a.unmap(ro))
		require.NoError(t, notifier.SetUnmapNotify(frame, -1, 0), "taken back after the frame has gone")
		require.NoError(t, notifier.SetUnmapNotify(page+9, -1, 0))
	})
}
