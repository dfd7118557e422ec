package hypercall_test

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/clayout"
	"github.com/hvkit/hvkit/xen/hypercall"
)

var abis = []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64}

// readGolden reads the file that internal/layoutgen wrote for an ABI.
func readGolden(t *testing.T, abi hypercall.ABI) *clayout.Golden {
	t.Helper()
	g, err := clayout.Read("testdata/layout-" + abi.String() + ".txt")
	require.NoError(t, err)
	return g
}

// layoutCase says which C structure a Go one is, and which member each field is.
type layoutCase struct {
	c      string
	value  hypercall.Struct // what the other fields are, where it matters which member of a union counts
	fields string           // "Go=c Go=c ..."
}

var layoutCases = []layoutCase{
	{"grant_entry_v1", &hypercall.GrantEntry{}, "Flags=flags Dom=domid Frame=frame"},
	{"gnttab_map_grant_ref", &hypercall.MapGrantRef{},
		"HostAddr=host_addr Flags=flags Ref=ref Dom=dom Status=status Handle=handle DevBusAddr=dev_bus_addr"},
	{"gnttab_unmap_grant_ref", &hypercall.UnmapGrantRef{}, "HostAddr=host_addr DevBusAddr=dev_bus_addr Handle=handle Status=status"},
	{"gnttab_setup_table", &hypercall.SetupGrantTable{}, "Dom=dom NrFrames=nr_frames Status=status FrameList=frame_list"},
	{"gnttab_copy", &hypercall.GrantCopy{},
		"Src.GFN=source.u.gmfn Src.Dom=source.domid Src.Offset=source.offset " +
			"Dst.GFN=dest.u.gmfn Dst.Dom=dest.domid Dst.Offset=dest.offset Len=len Flags=flags Status=status"},
	{"gnttab_copy", &hypercall.GrantCopy{Flags: hypercall.CopySourceGref | hypercall.CopyDestGref},
		"Src.Ref=source.u.ref Dst.Ref=dest.u.ref"},
	{"gnttab_query_size", &hypercall.QueryGrantTableSize{}, "Dom=dom NrFrames=nr_frames MaxNrFrames=max_nr_frames Status=status"},
	{"gnttab_set_version", &hypercall.GrantTableVersion{}, "Version=version"},
	{"gnttab_get_version", &hypercall.QueryGrantVersion{}, "Dom=dom Version=version"},
	{"gnttab_swap_grant_ref", &hypercall.SwapGrantRefs{}, "A=ref_a B=ref_b Status=status"},
	{"evtchn_alloc_unbound", &hypercall.EvtchnAllocUnbound{}, "Dom=dom RemoteDom=remote_dom Port=port"},
	{"evtchn_bind_interdomain", &hypercall.EvtchnBindInterdomain{}, "RemoteDom=remote_dom RemotePort=remote_port LocalPort=local_port"},
	{"evtchn_bind_virq", &hypercall.EvtchnBindVIRQ{}, "VIRQ=virq VCPU=vcpu Port=port"},
	{"evtchn_bind_ipi", &hypercall.EvtchnBindIPI{}, "VCPU=vcpu Port=port"},
	{"evtchn_close", &hypercall.EvtchnClose{}, "Port=port"},
	{"evtchn_send", &hypercall.EvtchnSend{}, "Port=port"},
	{"evtchn_unmask", &hypercall.EvtchnUnmask{}, "Port=port"},
	{"evtchn_reset", &hypercall.EvtchnReset{}, "Dom=dom"},
	{"evtchn_bind_vcpu", &hypercall.EvtchnBindVCPU{}, "Port=port VCPU=vcpu"},
	{"evtchn_status", &hypercall.EvtchnStatus{}, "Dom=dom Port=port State=status VCPU=vcpu"},
	{"evtchn_status", &hypercall.EvtchnStatus{State: hypercall.EvtchnUnbound}, "RemoteDom=u.unbound.dom"},
	{"evtchn_status", &hypercall.EvtchnStatus{State: hypercall.EvtchnInterdomain},
		"RemoteDom=u.interdomain.dom RemotePort=u.interdomain.port"},
	{"evtchn_status", &hypercall.EvtchnStatus{State: hypercall.EvtchnPIRQ}, "PIRQ=u.pirq"},
	{"evtchn_status", &hypercall.EvtchnStatus{State: hypercall.EvtchnVIRQ}, "VIRQ=u.virq"},
	{"evtchn_init_control", &hypercall.EvtchnInitControl{}, "ControlGFN=control_gfn Offset=offset VCPU=vcpu LinkBits=link_bits"},
	{"evtchn_expand_array", &hypercall.EvtchnExpandArray{}, "ArrayGFN=array_gfn"},
	{"evtchn_set_priority", &hypercall.EvtchnSetPriority{}, "Port=port Priority=priority"},
	{"xen_memory_reservation", &hypercall.MemoryReservation{},
		"ExtentStart=extent_start NrExtents=nr_extents ExtentOrder=extent_order MemFlags=mem_flags Dom=domid"},
	{"xen_memory_domain", &hypercall.MemoryDomain{}, "Dom=domid"},
	{"xen_add_to_physmap", &hypercall.PhysmapAdd{}, "Dom=domid Pages=size Space=space Idx=idx GFN=gpfn"},
	{"xen_add_to_physmap_batch", &hypercall.PhysmapAddBatch{},
		"Dom=domid Space=space Pages=size ForeignDom=u.foreign_domid Idxs=idxs GFNs=gpfns Errs=errs"},
	{"xen_remove_from_physmap", &hypercall.PhysmapRemove{}, "Dom=domid GFN=gpfn"},
	{"xen_hvm_param", &hypercall.HVMParam{}, "Dom=domid Index=index Value=value"},
	{"xen_hvm_get_time", &hypercall.HVMTime{}, "Now=now"},
	{"xen_hvm_evtchn_upcall_vector", &hypercall.HVMUpcallVector{}, "VCPU=vcpu Vector=vector"},
	{"sched_shutdown", &hypercall.SchedShutdown{}, "Reason=reason"},
	{"sched_poll", &hypercall.SchedPoll{}, "Ports=ports NrPorts=nr_ports Timeout=timeout"},
	{"sched_remote_shutdown", &hypercall.SchedRemoteShutdown{}, "Dom=domain_id Reason=reason"},
	{"sched_watchdog", &hypercall.SchedWatchdog{}, "ID=id Timeout=timeout"},
	{"vcpu_runstate_info", &hypercall.VCPURunstateInfo{},
		"State=state StateEntryTime=state_entry_time Time.0=time[0] Time.1=time[1] Time.2=time[2] Time.3=time[3]"},
	{"vcpu_set_periodic_timer", &hypercall.VCPUSetPeriodicTimer{}, "PeriodNS=period_ns"},
	{"vcpu_set_singleshot_timer", &hypercall.VCPUSetSingleshotTimer{}, "TimeoutAbsNS=timeout_abs_ns Flags=flags"},
	{"vcpu_register_vcpu_info", &hypercall.VCPURegisterInfo{}, "GFN=mfn Offset=offset"},
	{"vcpu_get_physid", &hypercall.VCPUPhysID{}, "PhysID=phys_id"},
	{"xen_feature_info", &hypercall.FeatureInfo{}, "SubmapIdx=submap_idx Submap=submap"},
	{"xen_compile_info", &hypercall.CompileInfo{},
		"Compiler=compiler CompileBy=compile_by CompileDomain=compile_domain CompileDate=compile_date"},
	{"xen_domctl", &hypercall.DomainInfo{},
		"Cmd=cmd Version=interface_version Dom=domain Of=u.getdomaininfo.domain Flags=u.getdomaininfo.flags"},
	{"multicall_entry", &hypercall.MulticallEntry{},
		"Op=op Result=result Args.0=args[0] Args.1=args[1] Args.2=args[2] Args.3=args[3] Args.4=args[4] Args.5=args[5]"},
	{"vcpu_time_info", &hypercall.VCPUTimeInfo{},
		"Version=version TSCTimestamp=tsc_timestamp SystemTime=system_time " +
			"TSCToSystemMul=tsc_to_system_mul TSCShift=tsc_shift Flags=flags"},
}

// pages are the structures that package hypercall has a layout for and no codec; they have a test of their own.
var pages = []string{"shared_info", "vcpu_info"}

// field returns the field of a structure that a path such as "Src.Ref" or "Time.2" leads to.
func field(v reflect.Value, path string) reflect.Value {
	for name := range strings.SplitSeq(path, ".") {
		if i, err := strconv.Atoi(name); err == nil {
			v = v.Index(i)
		} else {
			v = v.FieldByName(name)
		}
	}
	return v
}

// setOnes sets all bits of a field.
func setOnes(v reflect.Value) {
	switch {
	case v.CanUint():
		v.SetUint(^uint64(0) >> (64 - v.Type().Bits()))
	case v.CanInt():
		v.SetInt(-1)
	default:
		for i := range v.Len() {
			setOnes(v.Index(i))
		}
	}
}

// leaves returns the paths of all fields of a structure; arrays of bytes are one.
func leaves(t reflect.Type, prefix string) []string {
	var paths []string
	switch {
	case t.Kind() == reflect.Struct:
		for i := range t.NumField() {
			paths = append(paths, leaves(t.Field(i).Type, prefix+"."+t.Field(i).Name)...)
		}
	case t.Kind() == reflect.Array && t.Elem().Kind() != reflect.Uint8:
		for i := range t.Len() {
			paths = append(paths, leaves(t.Elem(), fmt.Sprintf("%s.%d", prefix, i))...)
		}
	default:
		paths = append(paths, strings.TrimPrefix(prefix, "."))
	}
	return paths
}

// fresh returns a copy of a structure.
func fresh(s hypercall.Struct) hypercall.Struct {
	c := reflect.New(reflect.TypeOf(s).Elem())
	c.Elem().Set(reflect.ValueOf(s).Elem())
	return c.Interface().(hypercall.Struct)
}

func marshal(abi hypercall.ABI, s hypercall.Struct) []byte {
	b := bytes.Repeat([]byte{0xAA}, s.Size(abi))
	s.Marshal(abi, b)
	return b
}

// TestLayoutIsTheCompilers sets one field after the other to ones, and looks which bytes change.
func TestLayoutIsTheCompilers(t *testing.T) {
	for _, abi := range abis {
		g := readGolden(t, abi)
		for i, c := range layoutCases {
			t.Run(fmt.Sprintf("%v/%s#%d", abi, c.c, i), func(t *testing.T) {
				want := g.Structs[c.c]
				if want == nil {
					require.Equal(t, hypercall.ARM64, abi, "only ARM lacks structures")
					return
				}
				require.Equal(t, want.Size, c.value.Size(abi))
				base := marshal(abi, c.value)
				for pair := range strings.FieldsSeq(c.fields) {
					goName, cName, _ := strings.Cut(pair, "=")
					require.Contains(t, want.Members, cName)
					require.Equal(t, want.Members[cName], changedBytes(t, abi, c.value, goName, base), goName)
				}
			})
		}
	}
}

// changedBytes sets a field to ones, returns which bytes of the marshalled structure that changes, and sees that it comes back.
func changedBytes(t *testing.T, abi hypercall.ABI, s hypercall.Struct, path string, base []byte) clayout.Span {
	t.Helper()
	s = fresh(s)
	f := field(reflect.ValueOf(s).Elem(), path)
	setOnes(f)
	b := marshal(abi, s)
	first, n := -1, 0
	for i := range b {
		if b[i] == base[i] {
			continue
		}
		if first < 0 {
			first = i
		}
		n++
		require.Equal(t, byte(0xFF), b[i], "byte %d of %s", i, path)
		require.Equal(t, first+n-1, i, "%s is in one piece", path)
	}
	back := fresh(s)
	reflect.ValueOf(back).Elem().SetZero()
	back.Unmarshal(abi, b)
	got := field(reflect.ValueOf(back).Elem(), path)
	if got.CanUint() {
		require.Equal(t, ^uint64(0)>>(64-8*n), got.Uint(), path)
	} else {
		require.Equal(t, f.Interface(), got.Interface(), path)
	}
	return clayout.Span{Off: first, Size: n}
}

// TestLayoutIsComplete sees that no field of ours and no member of theirs is left out of layoutCases.
func TestLayoutIsComplete(t *testing.T) {
	fields := map[reflect.Type]map[string]bool{}
	members := map[string]map[string]bool{}
	for _, c := range layoutCases {
		typ := reflect.TypeOf(c.value).Elem()
		if fields[typ] == nil {
			fields[typ], members[c.c] = map[string]bool{}, map[string]bool{}
		}
		for pair := range strings.FieldsSeq(c.fields) {
			goName, cName, _ := strings.Cut(pair, "=")
			fields[typ][goName], members[c.c][cName] = true, true
		}
	}
	for typ, have := range fields {
		want := leaves(typ, "")
		slices.Sort(want)
		require.Equal(t, want, slices.Sorted(maps.Keys(have)), typ.Name())
	}
	for _, abi := range abis {
		for name, s := range readGolden(t, abi).Structs {
			if slices.Contains(pages, name) {
				continue
			}
			require.Equal(t, slices.Sorted(maps.Keys(s.Members)), slices.Sorted(maps.Keys(members[name])), name)
		}
	}
}

// TestPaddingIsZero sees that what was in the buffer before does not reach Xen.
func TestPaddingIsZero(t *testing.T) {
	for _, abi := range abis {
		for _, c := range layoutCases {
			s := fresh(c.value)
			reflect.ValueOf(s).Elem().SetZero()
			require.Equal(t, make([]byte, s.Size(abi)), marshal(abi, s), "%v %s", abi, c.c)
		}
	}
}

func TestSharedInfoIsTheCompilers(t *testing.T) {
	for _, abi := range abis {
		g := readGolden(t, abi)
		page, vcpu := g.Structs["shared_info"], g.Structs["vcpu_info"]
		mask, ok := vcpu.Members["evtchn_upcall_mask"]
		if !ok {
			mask.Off = -1
		}
		want := hypercall.SharedInfo{
			Size:          page.Size,
			VCPUs:         int(g.Consts["XEN_LEGACY_MAX_VCPUS"]),
			VCPUSize:      vcpu.Size,
			EvtchnPending: page.Members["evtchn_pending"].Off,
			EvtchnMask:    page.Members["evtchn_mask"].Off,
			WordBytes:     page.Members["evtchn_pending[0]"].Size,
			WCVersion:     page.Members["wc_version"].Off,
			WCSec:         page.Members["wc_sec"].Off,
			WCNsec:        page.Members["wc_nsec"].Off,
			WCSecHi:       page.Members["xen_wc_sec_hi"].Off,
			UpcallPending: vcpu.Members["evtchn_upcall_pending"].Off,
			UpcallMask:    mask.Off,
			PendingSel:    vcpu.Members["evtchn_pending_sel"].Off,
			Time:          vcpu.Members["time"].Off,
		}
		got := abi.SharedInfo()
		require.Equal(t, want, got, abi)
		require.EqualValues(t, g.Consts["EVTCHN_2L_NR_CHANNELS"], got.Ports())
		require.Equal(t, page.Members["evtchn_pending"].Size, got.Ports()/8)
		require.Equal(t, page.Members["vcpu_info"].Size, got.VCPUs*got.VCPUSize)
		require.Equal(t, vcpu.Members["evtchn_pending_sel"].Size, got.WordBytes)
		require.Equal(t, vcpu.Members["time"].Size, new(hypercall.VCPUTimeInfo).Size(abi))
		require.Less(t, got.Size, hypercall.PageSize)
	}
}

// TestHandleOffsetsAreTheCompilers checks the offsets by which a server finds what guest handles point at.
func TestHandleOffsetsAreTheCompilers(t *testing.T) {
	for _, abi := range abis {
		g := readGolden(t, abi)
		off := func(name, member string) int { return g.Structs[name].Members[member].Off }
		require.Equal(t, off("gnttab_setup_table", "frame_list"), new(hypercall.SetupGrantTable).FrameListOffset(abi))
		require.Equal(t, off("xen_memory_reservation", "extent_start"), new(hypercall.MemoryReservation).ExtentStartOffset(abi))
		require.Equal(t, off("sched_poll", "ports"), new(hypercall.SchedPoll).PortsOffset(abi))
		idxs, gfns, errs := new(hypercall.PhysmapAddBatch).HandleOffsets(abi)
		require.Equal(t, off("xen_add_to_physmap_batch", "idxs"), idxs)
		require.Equal(t, off("xen_add_to_physmap_batch", "gpfns"), gfns)
		require.Equal(t, off("xen_add_to_physmap_batch", "errs"), errs)
		for i := range 6 {
			require.Equal(t, off("multicall_entry", fmt.Sprintf("args[%d]", i)), new(hypercall.MulticallEntry).ArgOffset(abi, i))
		}
	}
}
