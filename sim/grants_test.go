package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Short names for the tables below.
const (
	permit   = hypercall.EntryPermitAccess
	readOnly = hypercall.EntryReadOnly
	inRead   = hypercall.EntryReading
	inWrite  = hypercall.EntryWriting
	subPage  = 1 << 8

	mapRW = hypercall.GrantMapHost
	mapRO = hypercall.GrantMapHost | hypercall.GrantMapReadOnly

	nobody = 99 // the number of no domain
)

func TestMapRefusals(t *testing.T) {
	const ref = 9
	tests := []struct {
		name  string
		flags uint16 // of the entry
		wrong bool   // the entry is for another domain
		gfn   hypercall.GFN
		as    uint32 // how it is mapped
		ref   hypercall.GrantRef
		dom   func(a, b *bare) hypercall.DomID
		want  hypercall.GrantStatus
	}{
		{name: "writable", flags: permit, as: mapRW, want: hypercall.StatusOkay},
		{name: "read-only of writable", flags: permit, as: mapRO, want: hypercall.StatusOkay},
		{name: "read-only", flags: permit | readOnly, as: mapRO, want: hypercall.StatusOkay},
		{name: "writable of read-only", flags: permit | readOnly, as: mapRW, want: hypercall.StatusGeneralError},
		{name: "invalid entry", flags: hypercall.EntryInvalid, as: mapRO, want: hypercall.StatusGeneralError},
		{name: "transfer entry", flags: 2, as: mapRO, want: hypercall.StatusGeneralError},
		{name: "sub-page entry", flags: permit | subPage, as: mapRO, want: hypercall.StatusGeneralError},
		{name: "for another domain", flags: permit, wrong: true, as: mapRO, want: hypercall.StatusGeneralError},
		{name: "reference beyond the table", flags: permit, as: mapRO, ref: 512, want: hypercall.StatusBadGntRef},
		{name: "largest reference", flags: permit, as: mapRO, ref: 1<<32 - 1, want: hypercall.StatusBadGntRef},
		{name: "no such domain", flags: permit, as: mapRO, want: hypercall.StatusBadDomain,
			dom: func(_, _ *bare) hypercall.DomID { return nobody }},
		{name: "DOMID_SELF is no domain", flags: permit, as: mapRO, want: hypercall.StatusBadDomain,
			dom: func(_, _ *bare) hypercall.DomID { return hypercall.DomSelf }},
		{name: "nothing behind the frame", flags: permit, gfn: 0x7fff_0000, as: mapRO, want: hypercall.StatusBadPage},
		{name: "no kind of mapping", flags: permit, as: 0, want: hypercall.StatusBadGntRef},
		{name: "read-only of nothing", flags: permit, as: hypercall.GrantMapReadOnly, want: hypercall.StatusBadGntRef},
		{name: "device mapping", flags: permit, as: hypercall.GrantMapDevice, want: hypercall.StatusGeneralError},
		{name: "page-table entry", flags: permit, as: mapRW | hypercall.GrantMapContainsPTE, want: hypercall.StatusGeneralError},
		{name: "unknown flag", flags: permit, as: mapRW | 1<<16, want: hypercall.StatusGeneralError},
	}
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		for _, test := range tests {
			grantee := b.ID()
			if test.wrong {
				grantee = nobody
			}
			frame := page
			if test.gfn != 0 {
				frame = test.gfn
			}
			a.entry(ref, grantee, frame, test.flags)
			owner, r := a.ID(), hypercall.GrantRef(ref)
			if test.dom != nil {
				owner = test.dom(a, b)
			}
			if test.ref != 0 {
				r = test.ref
			}
			op := b.mapRef(owner, r, test.as)
			require.Equal(t, test.want, op.Status, test.name)
			if op.Status == hypercall.StatusOkay {
				require.Equal(t, hypercall.StatusOkay, b.unmap(op), test.name)
			}
			require.Equal(t, test.flags, a.flags(ref), "%s: the entry is as it was", test.name)
		}
	})
}

func TestMapMarksTheEntry(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, mem := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		ro := b.mapRef(a.ID(), 20, mapRO)
		require.Equal(t, uint16(permit|inRead), a.flags(20))
		rw := b.mapRef(a.ID(), 20, mapRW)
		require.Equal(t, uint16(permit|inRead|inWrite), a.flags(20))
		rw2 := b.mapRef(a.ID(), 20, mapRW)
		require.NotEqual(t, rw.Handle, rw2.Handle)

		b.view(hypercall.GFN(rw.HostAddr/shm.PageSize), 1, true).Store8(5, 42)
		require.Equal(t, uint8(42), mem.Load8(5).Unchecked())
		_, err := b.m.View(hypercall.GFN(ro.HostAddr/shm.PageSize), 1, true)
		require.Error(t, err, "a writable view of a read-only mapping")

		require.Equal(t, hypercall.StatusOkay, b.unmap(rw))
		require.Equal(t, uint16(permit|inRead|inWrite), a.flags(20))
		require.Equal(t, hypercall.StatusOkay, b.unmap(rw2))
		require.Equal(t, uint16(permit|inRead), a.flags(20))
		require.Equal(t, hypercall.StatusOkay, b.unmap(ro))
		require.Equal(t, uint16(permit), a.flags(20))
	})
}

// TestHoldsOfAnEntry: one entry is mapped at most 128 times for each kind of access, as Xen's counters have it.
func TestHoldsOfAnEntry(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		var ops []hypercall.MapGrantRef
		for _, as := range []uint32{mapRO, mapRW} {
			for range 128 {
				op := b.mapRef(a.ID(), 20, as)
				require.Equal(t, hypercall.StatusOkay, op.Status)
				ops = append(ops, op)
			}
			require.Equal(t, hypercall.StatusGeneralError, b.mapRef(a.ID(), 20, as).Status)
		}
		require.Equal(t, hypercall.StatusOkay, b.unmap(ops[0]))
		require.Equal(t, hypercall.StatusGeneralError, b.mapRef(a.ID(), 20, mapRW).Status, "of the other kind")
		ops[0] = b.mapRef(a.ID(), 20, mapRO)
		require.Equal(t, hypercall.StatusOkay, ops[0].Status)
		for _, op := range ops {
			require.Equal(t, hypercall.StatusOkay, b.unmap(op))
		}
		require.Equal(t, uint16(permit), a.flags(20))
	})
}

// G-15: an entry's owner makes it a transitive grant, one of a part of a page, one of another page or for another domain, while it is in
// use. Who has it goes on having the page that it was, and nobody gets another one by it.
func TestG15_ChangedWhilePinned(t *testing.T) {
	const transitive = 3
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		page, mem := a.alloc(1)
		other, _ := a.alloc(1)
		mem.Store8(0, 7)
		for _, flags := range []uint16{transitive, permit | subPage, transitive | subPage, 0, permit} {
			a.entry(20, b.ID(), page, permit)
			first := b.mapRef(a.ID(), 20, mapRO)
			require.Equal(t, hypercall.StatusOkay, first.Status)
			a.entry(20, nobody, other, flags|inRead)
			second := b.mapRef(a.ID(), 20, mapRW)
			require.Equal(t, hypercall.StatusOkay, second.Status)
			view := b.view(hypercall.GFN(second.HostAddr/shm.PageSize), 1, true)
			require.True(t, view.Load8(0).Is(7), "flags %#x: another page", flags)
			require.NoError(t, view.Close())
			require.Equal(t, hypercall.StatusOkay, b.unmap(first))
			require.Equal(t, hypercall.StatusOkay, b.unmap(second))
			require.Equal(t, flags, a.flags(20), "nothing but the in-use bits is Xen's")
			if flags != permit {
				a.entry(20, b.ID(), page, flags)
				require.Equal(t, hypercall.StatusGeneralError, b.mapRef(a.ID(), 20, mapRO).Status, "flags %#x", flags)
			}
		}
	})
}

// TestPinnedEntry: while an entry is in use its type and domain, which the owner may scribble over, are not looked at again.
func TestPinnedEntry(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		first := b.mapRef(a.ID(), 20, mapRO)
		a.entry(20, nobody, page, 0)
		second := b.mapRef(a.ID(), 20, mapRW)
		require.Equal(t, hypercall.StatusOkay, second.Status)

		c := newBareHere(t, h, sim.DomainConfig{Name: "c"})
		a.entry(20, c.ID(), page, permit)
		require.Equal(t, hypercall.StatusGeneralError, c.mapRef(a.ID(), 20, mapRO).Status, "another domain has it mapped")
		require.Equal(t, hypercall.StatusOkay, b.unmap(first))
		require.Equal(t, hypercall.StatusOkay, b.unmap(second))
		op := c.mapRef(a.ID(), 20, mapRO)
		require.Equal(t, hypercall.StatusOkay, op.Status)
		require.Equal(t, hypercall.StatusOkay, c.unmap(op))
	})
}

func TestMapWhereSomethingIs(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		mine, _ := b.alloc(1)
		first := b.mapRef(a.ID(), 20, mapRW)
		for name, addr := range map[string]uint64{"own memory": uint64(mine) * shm.PageSize, "a mapping": first.HostAddr} {
			require.Equal(t, hypercall.StatusGeneralError, b.mapAt(a.ID(), 20, mapRW, addr).Status, name)
		}
		require.Equal(t, uint16(permit|inRead|inWrite), a.flags(20))
		require.Equal(t, hypercall.StatusOkay, b.unmap(first))
		require.Equal(t, uint16(permit), a.flags(20))
	})
}

func TestUnmapRefusals(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		op := b.mapRef(a.ID(), 20, mapRW)
		require.Equal(t, hypercall.StatusBadHandle, b.unmapAt(op.Handle+1, op.HostAddr))
		require.Equal(t, hypercall.StatusBadHandle, a.unmapAt(op.Handle, op.HostAddr), "another domain's handle")
		require.Equal(t, hypercall.StatusGeneralError, b.unmapAt(op.Handle, op.HostAddr+shm.PageSize))
		require.Equal(t, hypercall.StatusOkay, b.unmapAt(op.Handle, 0), "nothing was asked for")
		require.Equal(t, uint16(permit|inRead|inWrite), a.flags(20), "it is mapped still")
		require.Equal(t, hypercall.StatusOkay, b.unmap(op))
		require.Equal(t, hypercall.StatusBadHandle, b.unmap(op), "twice")
	})
}

func TestMapTrackIsFull(t *testing.T) {
	onBare(t, sim.Limits{MapTrack: 2}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		first := b.mapRef(a.ID(), 20, mapRW)
		require.Equal(t, hypercall.StatusOkay, b.mapRef(a.ID(), 20, mapRW).Status)
		require.Equal(t, hypercall.StatusNoSpace, b.mapRef(a.ID(), 20, mapRW).Status)
		require.Equal(t, hypercall.StatusOkay, b.unmap(first))
		require.Equal(t, hypercall.StatusOkay, b.mapRef(a.ID(), 20, mapRW).Status)
	})
}

// TestBatch: each operation has a status of its own; one that fails does not stop the others.
func TestBatch(t *testing.T) {
	onBare(t, sim.Limits{GrantFrames: 4}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		const n = 500
		page, _ := a.alloc(n)
		at := b.reserve(n)
		ops := make([]hypercall.MapGrantRef, n)
		for i := range ops {
			ref := hypercall.GrantRef(8 + i)
			if i%3 != 0 {
				a.entry(ref, b.ID(), page+hypercall.GFN(i), permit)
			}
			ops[i] = hypercall.MapGrantRef{HostAddr: (uint64(at) + uint64(i)) * shm.PageSize, Flags: mapRW, Ref: ref, Dom: a.ID()}
		}
		require.NoError(t, hypercall.MapGrants(b.m, ops))
		var unmaps []hypercall.UnmapGrantRef
		for i := range ops {
			if i%3 == 0 {
				require.Equal(t, hypercall.StatusGeneralError, ops[i].Status)
				continue
			}
			require.Equal(t, hypercall.StatusOkay, ops[i].Status)
			unmaps = append(unmaps, hypercall.UnmapGrantRef{HostAddr: ops[i].HostAddr, Handle: ops[i].Handle})
		}
		require.NoError(t, hypercall.UnmapGrants(b.m, unmaps))
		for i := range unmaps {
			require.Equal(t, hypercall.StatusOkay, unmaps[i].Status)
		}
	})
}

// TestManyExtents maps pages of more allocations at once than a message takes descriptors.
func TestManyExtents(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		const n = 300
		at := b.reserve(n)
		ops := make([]hypercall.MapGrantRef, n)
		for i := range ops {
			page, mem := a.alloc(1)
			mem.Store32(0, uint32(i))
			ref := hypercall.GrantRef(8 + i)
			a.entry(ref, b.ID(), page, permit)
			ops[i] = hypercall.MapGrantRef{HostAddr: (uint64(at) + uint64(i)) * shm.PageSize, Flags: mapRO, Ref: ref, Dom: a.ID()}
		}
		require.NoError(t, hypercall.MapGrants(b.m, ops))
		view := b.view(at, n, false)
		for i := range n {
			require.Equal(t, uint32(i), view.Load32(i*shm.PageSize).Unchecked())
		}
		require.NoError(t, view.Close())
	})
}

func TestCopyRefusals(t *testing.T) {
	type end = hypercall.CopyPtr
	const ref, roRef = 20, 21
	src, dst, both := uint16(hypercall.CopySourceGref), uint16(hypercall.CopyDestGref), uint16(hypercall.CopySourceGref|hypercall.CopyDestGref)
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, mem := a.alloc(1)
		a.entry(ref, b.ID(), page, permit)
		a.entry(roRef, b.ID(), page, permit|readOnly)
		mine, own := b.alloc(1)
		mapped := b.mapRef(a.ID(), ref, mapRW)
		remote := func(off uint16) end { return end{Ref: ref, Dom: a.ID(), Offset: off} }
		local := func(off uint16) end { return end{GFN: mine, Dom: hypercall.DomSelf, Offset: off} }
		for _, test := range []struct {
			name     string
			src, dst end
			flags    uint16
			n        uint16
			want     hypercall.GrantStatus
		}{
			{"from a grant", remote(8), local(16), src, 100, hypercall.StatusOkay},
			{"to a grant", local(16), remote(8), dst, 100, hypercall.StatusOkay},
			{"a whole page", local(0), remote(0), dst, shm.PageSize, hypercall.StatusOkay},
			{"between grants", remote(0), remote(2048), both, 100, hypercall.StatusOkay},
			{"between own pages", local(0), local(2048), 0, 100, hypercall.StatusOkay},
			{"from a read-only grant", end{Ref: roRef, Dom: a.ID()}, local(0), src, 1, hypercall.StatusOkay},
			{"to a read-only grant", local(0), end{Ref: roRef, Dom: a.ID()}, dst, 1, hypercall.StatusGeneralError},
			{"source crosses", remote(4000), local(0), src, 97, hypercall.StatusBadCopyArg},
			{"destination crosses", remote(0), local(4095), src, 2, hypercall.StatusBadCopyArg},
			{"offset beyond", remote(0xffff), local(0), src, 1, hypercall.StatusBadCopyArg},
			{"nothing, and nonsense", end{Ref: 999, Dom: nobody}, local(0xffff), src, 0, hypercall.StatusOkay},
			{"no such domain", end{Ref: ref, Dom: nobody}, local(0), src, 1, hypercall.StatusBadDomain},
			{"no such reference", end{Ref: 5000, Dom: a.ID()}, local(0), src, 1, hypercall.StatusBadGntRef},
			{"not granted", end{Ref: 30, Dom: a.ID()}, local(0), src, 1, hypercall.StatusGeneralError},
			{"another domain's frame", end{GFN: page, Dom: a.ID()}, local(0), 0, 1, hypercall.StatusPermissionDenied},
			{"own frame by number", end{GFN: mine, Dom: b.ID()}, local(64), 0, 1, hypercall.StatusPermissionDenied},
			{"no frame", end{GFN: 0x7fff_0000, Dom: hypercall.DomSelf}, local(0), 0, 1, hypercall.StatusBadPage},
			{"a mapped grant", end{GFN: hypercall.GFN(mapped.HostAddr / shm.PageSize), Dom: hypercall.DomSelf}, local(0), 0, 1,
				hypercall.StatusBadPage},
		} {
			op := []hypercall.GrantCopy{{Src: test.src, Dst: test.dst, Len: test.n, Flags: test.flags}}
			require.NoError(t, hypercall.CopyGrants(b.m, op))
			require.Equal(t, test.want, op[0].Status, test.name)
		}
		require.Equal(t, uint16(permit|inRead|inWrite), a.flags(ref), "the mapping alone holds it")
		require.Equal(t, hypercall.StatusOkay, b.unmap(mapped))
		require.Equal(t, uint16(permit), a.flags(ref))
		require.Equal(t, uint16(permit|readOnly), a.flags(roRef))

		mem.CopyIn(10, []byte("granted"))
		op := []hypercall.GrantCopy{{Src: remote(10), Dst: local(20), Len: 7, Flags: src}}
		require.NoError(t, hypercall.CopyGrants(b.m, op))
		got := make([]byte, 7)
		own.CopyOut(got, 20)
		require.Equal(t, "granted", string(got))
	})
}

// TestFreedWhileMapped: pages of a share that its owner gave up stay valid for whoever maps them, and are not given to anybody else.
func TestFreedWhileMapped(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, mem := a.alloc(2)
		mem.Store8(0, 7)
		a.entry(20, b.ID(), page, permit)
		op := b.mapRef(a.ID(), 20, mapRW)
		require.NoError(t, mem.Close())
		require.NoError(t, a.m.Free(page, 2))
		_, other := a.alloc(2)
		other.Store8(0, 9)
		view := b.view(hypercall.GFN(op.HostAddr/shm.PageSize), 1, true)
		require.Equal(t, uint8(7), view.Load8(0).Unchecked())
		require.Equal(t, hypercall.StatusOkay, b.unmap(op))
	})
}

func TestSetupAndQueryTable(t *testing.T) {
	onBare(t, sim.Limits{GrantFrames: 3}, func(t *testing.T, h *sim.Host, a, b *bare) {
		frames, most, err := hypercall.QueryGrantSize(a.m, hypercall.DomSelf)
		require.NoError(t, err)
		require.Equal(t, [2]uint32{1, 3}, [2]uint32{frames, most})
		_, _, err = hypercall.QueryGrantSize(a.m, b.ID())
		require.ErrorIs(t, err, hypercall.StatusPermissionDenied)
		_, _, err = hypercall.QueryGrantSize(a.m, nobody)
		require.ErrorIs(t, err, hypercall.StatusBadDomain)
		_, err = hypercall.SetupTable(a.m, b.ID(), 1)
		require.ErrorIs(t, err, hypercall.StatusPermissionDenied)
		_, err = hypercall.SetupTable(a.m, hypercall.DomSelf, 4)
		require.ErrorIs(t, err, hypercall.StatusGeneralError)
		list, err := hypercall.SetupTable(a.m, hypercall.DomSelf, 3)
		require.NoError(t, err)
		require.NotEqual(t, list[0], list[1], "the first frame is somewhere, the others are nowhere")
		require.Equal(t, list[1], list[2])
		require.Equal(t, hypercall.StatusGeneralError, b.mapRef(a.ID(), 1500, mapRO).Status, "the table has the reference now")

		dom0 := newBareHere(t, h, sim.DomainConfig{Name: "dom0", Dom0: true})
		frames, _, err = hypercall.QueryGrantSize(dom0.m, a.ID())
		require.NoError(t, err)
		require.Equal(t, uint32(3), frames)
	})
}

func TestGrantVersions(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		v, err := hypercall.GetGrantVersion(a.m, hypercall.DomSelf)
		require.NoError(t, err)
		require.Equal(t, uint32(1), v)
		_, err = hypercall.GetGrantVersion(a.m, b.ID())
		require.ErrorIs(t, err, hypercall.EPERM)
		_, err = hypercall.GetGrantVersion(a.m, nobody)
		require.ErrorIs(t, err, hypercall.ESRCH)
		for version, want := range map[uint32]error{1: nil, 2: hypercall.ENOSYS, 3: hypercall.EINVAL} {
			v, err := hypercall.SetGrantVersion(a.m, version)
			require.ErrorIs(t, err, want)
			if err == nil {
				require.Equal(t, uint32(1), v)
			}
		}
	})
}

func TestSwapGrants(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		page, _ := a.alloc(1)
		a.entry(20, b.ID(), page, permit)
		require.NoError(t, hypercall.SwapGrants(a.m, 20, 30))
		require.Equal(t, [2]uint16{0, permit}, [2]uint16{a.flags(20), a.flags(30)})
		op := b.mapRef(a.ID(), 30, mapRO)
		require.Equal(t, hypercall.StatusOkay, op.Status)
		require.ErrorIs(t, hypercall.SwapGrants(a.m, 20, 30), hypercall.StatusEagain)
		require.NoError(t, hypercall.SwapGrants(a.m, 30, 30))
		require.ErrorIs(t, hypercall.SwapGrants(a.m, 20, 512), hypercall.StatusBadGntRef)
		require.Equal(t, hypercall.StatusOkay, b.unmap(op))
	})
}

// TestDeadGranter: the pages of a dead domain stay valid for whoever maps them, and its number is not used again meanwhile.
func TestDeadGranter(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		page, mem := a.alloc(1)
		mem.CopyIn(0, []byte("last words"))
		a.entry(20, b.ID(), page, permit)
		op := b.mapRef(a.ID(), 20, mapRW)
		id := a.ID()
		require.NoError(t, a.Destroy())
		view := b.view(hypercall.GFN(op.HostAddr/shm.PageSize), 1, true)
		got := make([]byte, 10)
		view.CopyOut(got, 0)
		require.Equal(t, "last words", string(got))
		require.Equal(t, hypercall.StatusBadDomain, b.mapRef(id, 20, mapRW).Status)
		require.Contains(t, h.Leaks(), "domain 1 (a): dead, and others have pages of it mapped")
		_, err := h.NewDomain(&sim.DomainConfig{ID: id})
		require.ErrorIs(t, err, hypercall.EEXIST)
		require.Equal(t, hypercall.StatusOkay, b.unmap(op))
		_, err = h.NewDomain(&sim.DomainConfig{ID: id})
		require.NoError(t, err)
	})
}
