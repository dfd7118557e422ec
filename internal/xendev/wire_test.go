package xendev

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/clayout"
)

// encoded is a structure as a function of one of its members.
type encoded func(v uint64) []byte

func segment(src, dst func(v uint64) End, flags uint16) encoded {
	return func(v uint64) []byte {
		s := NewSegments(1)
		var a, b End
		if src != nil {
			a = src(v)
		}
		if dst != nil {
			b = dst(v)
		}
		s.Set(0, a, b, 0, flags)
		return s
	}
}

func hypercall(i int) encoded {
	return func(v uint64) []byte {
		var h Hypercall
		var args [5]uint64
		args[i] = v
		h.Set(0, &args)
		return h[:]
	}
}

func pointer(p Pointer, b []byte, v uint64) []byte {
	le.PutUint64(b[p.Off:], v)
	return b
}

// encoders are the structures of the golden files, and each of their members.
var encoders = map[string]map[string]encoded{
	"ioctl_evtchn_bind_virq": {"virq": func(v uint64) []byte { return U32s(uint32(v)) }},
	"ioctl_evtchn_bind_interdomain": {
		"remote_domain": func(v uint64) []byte { return U32s(uint32(v), 0) },
		"remote_port":   func(v uint64) []byte { return U32s(0, uint32(v)) },
	},
	"ioctl_evtchn_bind_unbound_port": {"remote_domain": func(v uint64) []byte { return U32s(uint32(v)) }},
	"ioctl_evtchn_unbind":            {"port": func(v uint64) []byte { return U32s(uint32(v)) }},
	"ioctl_evtchn_notify":            {"port": func(v uint64) []byte { return U32s(uint32(v)) }},
	"ioctl_evtchn_restrict_domid":    {"domid": func(v uint64) []byte { return RestrictDomID(uint16(v)) }},
	"ioctl_gntalloc_alloc_gref": {
		"domid":    func(v uint64) []byte { return NewAlloc(uint16(v), 0, 0) },
		"flags":    func(v uint64) []byte { return NewAlloc(0, uint16(v), 0) },
		"count":    func(v uint64) []byte { return countOf(NewAlloc(0, 0, int(v&1)), 4, v) },
		"index":    func(v uint64) []byte { a := NewAlloc(0, 0, 0); a.SetIndex(v); return a },
		"gref_ids": func(v uint64) []byte { a := NewAlloc(0, 0, 0); a.SetRef(0, uint32(v)); return a },
	},
	"ioctl_gntalloc_dealloc_gref": {
		"index": func(v uint64) []byte { return NewRange(v, 0) },
		"count": func(v uint64) []byte { return NewRange(0, int(uint32(v))) },
	},
	"ioctl_gntalloc_unmap_notify": unmapNotify,
	"ioctl_gntdev_grant_ref": {
		"domid": func(v uint64) []byte { return dom32(NewMap(uint16(v), []uint32{0})[16:], v) },
		"ref":   func(v uint64) []byte { return NewMap(0, []uint32{uint32(v)})[16:] },
	},
	"ioctl_gntdev_map_grant_ref": {
		"count": func(v uint64) []byte { return countOf(NewMap(0, make([]uint32, v&1)), 0, v) },
		"index": func(v uint64) []byte { m := NewMap(0, nil); m.SetIndex(v); return m },
		"refs":  func(v uint64) []byte { return countOf(dom32At(NewMap(uint16(v), []uint32{uint32(v)}), 16, v), 0, 0) },
	},
	"ioctl_gntdev_unmap_grant_ref": {
		"index": func(v uint64) []byte { return NewRange(v, 0) },
		"count": func(v uint64) []byte { return NewRange(0, int(uint32(v))) },
	},
	"ioctl_gntdev_unmap_notify": unmapNotify,
	"ioctl_gntdev_grant_copy": {
		"count":    func(v uint64) []byte { c, _ := NewCopy(NewSegments(int(v & 1))); return countOf(c, 0, v) },
		"segments": func(v uint64) []byte { c, p := NewCopy(nil); return pointer(p, c, v) },
	},
	"gntdev_grant_copy_segment": {
		"source.virt":           segment(func(v uint64) End { return End{Virt: v} }, nil, 0),
		"source.foreign.ref":    segment(func(v uint64) End { return End{Ref: uint32(v)} }, nil, CopySourceGref),
		"source.foreign.offset": segment(func(v uint64) End { return End{Offset: uint16(v)} }, nil, CopySourceGref),
		"source.foreign.domid":  segment(func(v uint64) End { return End{DomID: uint16(v)} }, nil, CopySourceGref),
		"dest.virt":             segment(nil, func(v uint64) End { return End{Virt: v} }, 0),
		"dest.foreign.ref":      segment(nil, func(v uint64) End { return End{Ref: uint32(v)} }, CopyDestGref),
		"dest.foreign.offset":   segment(nil, func(v uint64) End { return End{Offset: uint16(v)} }, CopyDestGref),
		"dest.foreign.domid":    segment(nil, func(v uint64) End { return End{DomID: uint16(v)} }, CopyDestGref),
		"len":                   func(v uint64) []byte { s := NewSegments(1); s.Set(0, End{}, End{}, uint16(v), 0); return s },
		"flags":                 func(v uint64) []byte { s := NewSegments(1); s.Set(0, End{}, End{}, 0, uint16(v)); return s },
		"status":                func(v uint64) []byte { s := NewSegments(1); s.SetStatus(0, int16(v)); return s },
	},
	"privcmd_hypercall": {
		"op":     func(v uint64) []byte { var h Hypercall; h.Set(v, new([5]uint64)); return h[:] },
		"arg[0]": hypercall(0), "arg[1]": hypercall(1), "arg[2]": hypercall(2), "arg[3]": hypercall(3), "arg[4]": hypercall(4),
	},
	"privcmd_mmapbatch_v2": {
		"num":  func(v uint64) []byte { m, _, _ := NewMmapBatch(0, 0, make([]uint64, v&1)); return countOf(m, 0, v) },
		"dom":  func(v uint64) []byte { m, _, _ := NewMmapBatch(uint16(v), 0, nil); return m },
		"addr": func(v uint64) []byte { m, _, _ := NewMmapBatch(0, v, nil); return m },
		"arr":  func(v uint64) []byte { m, ps, _ := NewMmapBatch(0, 0, nil); return pointer(ps[0], m, v) },
		"err":  func(v uint64) []byte { m, ps, _ := NewMmapBatch(0, 0, nil); return pointer(ps[1], m, v) },
	},
	"privcmd_mmap_resource": {
		"dom":  func(v uint64) []byte { return (&Resource{DomID: uint16(v)}).Marshal() },
		"type": func(v uint64) []byte { return (&Resource{Type: uint32(v)}).Marshal() },
		"id":   func(v uint64) []byte { return (&Resource{ID: uint32(v)}).Marshal() },
		"idx":  func(v uint64) []byte { return (&Resource{First: uint32(v)}).Marshal() },
		"num":  func(v uint64) []byte { return (&Resource{Num: v}).Marshal() },
		"addr": func(v uint64) []byte { return (&Resource{Addr: v}).Marshal() },
	},
}

var unmapNotify = map[string]encoded{
	"index":              func(v uint64) []byte { return NewUnmapNotify(v, 0, 0) },
	"action":             func(v uint64) []byte { return NewUnmapNotify(0, uint32(v), 0) },
	"event_channel_port": func(v uint64) []byte { return NewUnmapNotify(0, 0, uint32(v)) },
}

// countOf checks that the number at off is how many elements the structure was made for, v&1, and then makes it v.
func countOf(b []byte, off int, v uint64) []byte {
	if v != 0 && le.Uint32(b[off:]) != uint32(v&1) {
		return nil
	}
	le.PutUint32(b[off:], uint32(v))
	return b
}

// dom32 checks that a domain's number of 16 bits is in the word, and then makes it one of 32.
func dom32(b []byte, v uint64) []byte { return dom32At(b, 0, v) }

func dom32At(b []byte, off int, v uint64) []byte {
	if le.Uint32(b[off:]) != uint32(uint16(v)) {
		return nil
	}
	le.PutUint32(b[off:], uint32(v))
	return b
}

func golden(t *testing.T) map[string]*clayout.Golden {
	all := make(map[string]*clayout.Golden)
	for _, abi := range []string{"x86_64", "arm64"} {
		g, err := clayout.Read("testdata/uapi-" + abi + ".txt")
		require.NoError(t, err)
		all[abi] = g
	}
	return all
}

func TestStructuresAreTheKernels(t *testing.T) {
	for abi, g := range golden(t) {
		for name, s := range g.Structs {
			for member, want := range s.Members {
				enc := encoders[name][member]
				require.NotNil(t, enc, "%s.%s", name, member)
				none, all := enc(0), enc(math.MaxUint64)
				require.Len(t, none, s.Size, "%s.%s for %s", name, member, abi)
				require.Len(t, all, s.Size, "%s.%s for %s", name, member, abi)
				for i := range none {
					if i >= want.Off && i < want.Off+want.Size {
						require.EqualValues(t, 0, none[i], "byte %d of %s.%s for %s", i, name, member, abi)
						require.EqualValues(t, 0xFF, all[i], "byte %d of %s.%s for %s", i, name, member, abi)
					} else {
						require.Equal(t, none[i], all[i], "byte %d, which is not in %s.%s for %s", i, name, member, abi)
					}
				}
			}
		}
		for name, members := range encoders {
			require.Contains(t, g.Structs, name)
			require.Len(t, g.Structs[name].Members, len(members), name)
		}
	}
}

func TestConstantsAreTheKernels(t *testing.T) {
	for abi, g := range golden(t) {
		require.Equal(t, map[string]int64{
			"IOCTL_EVTCHN_BIND_VIRQ": int64(EvtchnBindVIRQ), "IOCTL_EVTCHN_BIND_INTERDOMAIN": int64(EvtchnBindInterdomain),
			"IOCTL_EVTCHN_BIND_UNBOUND_PORT": int64(EvtchnBindUnboundPort), "IOCTL_EVTCHN_UNBIND": int64(EvtchnUnbind),
			"IOCTL_EVTCHN_NOTIFY": int64(EvtchnNotify), "IOCTL_EVTCHN_RESET": int64(EvtchnReset),
			"IOCTL_EVTCHN_RESTRICT_DOMID": int64(EvtchnRestrictDomID),
			"IOCTL_GNTALLOC_ALLOC_GREF":   int64(GntallocAlloc), "IOCTL_GNTALLOC_DEALLOC_GREF": int64(GntallocDealloc),
			"IOCTL_GNTALLOC_SET_UNMAP_NOTIFY": int64(GntallocSetUnmapNotify),
			"IOCTL_GNTDEV_MAP_GRANT_REF":      int64(GntdevMap), "IOCTL_GNTDEV_UNMAP_GRANT_REF": int64(GntdevUnmap),
			"IOCTL_GNTDEV_SET_UNMAP_NOTIFY": int64(GntdevSetUnmapNotify), "IOCTL_GNTDEV_GRANT_COPY": int64(GntdevCopy),
			"IOCTL_PRIVCMD_HYPERCALL": int64(PrivcmdHypercall), "IOCTL_PRIVCMD_MMAPBATCH_V2": int64(PrivcmdMmapBatchV2),
			"IOCTL_PRIVCMD_MMAP_RESOURCE": int64(PrivcmdMmapResource),
			"GNTALLOC_FLAG_WRITABLE":      GntallocWritable, "UNMAP_NOTIFY_CLEAR_BYTE": UnmapNotifyClearByte,
			"UNMAP_NOTIFY_SEND_EVENT": UnmapNotifySendEvent,
		}, g.Consts, abi)
	}
}

func TestArraysFollowTheirStructures(t *testing.T) {
	a := NewAlloc(3, GntallocWritable, 5)
	require.Len(t, a, 16+5*4)
	for i := range 5 {
		a.SetRef(i, uint32(100+i))
	}
	require.Equal(t, uint32(104), le.Uint32(a[32:]))
	require.Equal(t, 5, a.Count())

	m := NewMap(3, []uint32{7, 8, 9})
	require.Len(t, m, 16+3*8)
	dom, ref := m.Ref(2)
	require.Equal(t, []uint32{3, 9}, []uint32{dom, ref})
}
