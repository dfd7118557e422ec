package hypercall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/hypercall/hypercalltest"
)

// answering returns a recorder in front of a function that answers.
func answering(abi hypercall.ABI, f func(*hypercall.Call) (uint64, error)) *hypercalltest.Recorder {
	return hypercalltest.NewRecorder(&hypercalltest.Func{Layout: abi, Answer: f})
}

// value answers every call with a number.
func value(v uint64) func(*hypercall.Call) (uint64, error) {
	return func(*hypercall.Call) (uint64, error) { return v, nil }
}

// writing answers every call by writing bytes at an offset of its memory.
func writing(off int, b ...byte) func(*hypercall.Call) (uint64, error) {
	return func(c *hypercall.Call) (uint64, error) {
		copy(c.Data[off:], b)
		return 0, nil
	}
}

// typedCall is a typed function, and the hypercall that it must make.
type typedCall struct {
	name   string
	abi    hypercall.ABI
	answer func(*hypercall.Call) (uint64, error)
	do     func(c hypercall.Caller) (any, error)
	result any
	want   string // the exchange as text
}

var typedCalls = []typedCall{
	{"AllocUnbound", hypercall.X86_64, writing(4, 7), func(c hypercall.Caller) (any, error) {
		return hypercall.AllocUnbound(c, hypercall.DomSelf, 3)
	}, hypercall.Port(7), "EVTCHNOP_alloc_unbound [f07f030000000000 -> f07f030007000000] = 0x0"},
	{"BindInterdomain", hypercall.ARM64, writing(8, 9), func(c hypercall.Caller) (any, error) {
		return hypercall.BindInterdomain(c, 3, 7)
	}, hypercall.Port(9), "EVTCHNOP_bind_interdomain [030000000700000000000000 -> 030000000700000009000000] = 0x0"},
	{"BindVIRQ", hypercall.X86_32, writing(8, 4), func(c hypercall.Caller) (any, error) {
		return hypercall.BindVIRQ(c, hypercall.VIRQDomExc, 1)
	}, hypercall.Port(4), "EVTCHNOP_bind_virq [030000000100000000000000 -> 030000000100000004000000] = 0x0"},
	{"BindIPI", hypercall.X86_64, writing(4, 5), func(c hypercall.Caller) (any, error) {
		return hypercall.BindIPI(c, 2)
	}, hypercall.Port(5), "EVTCHNOP_bind_ipi [0200000000000000 -> 0200000005000000] = 0x0"},
	{"BindVCPU", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.BindVCPU(c, 5, 1) }, nil,
		"EVTCHNOP_bind_vcpu [0500000001000000] = 0x0"},
	{"ClosePort", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.ClosePort(c, 5) }, nil,
		"EVTCHNOP_close [05000000] = 0x0"},
	{"SendEvent", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.SendEvent(c, 5) }, nil,
		"EVTCHNOP_send [05000000] = 0x0"},
	{"UnmaskPort", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.UnmaskPort(c, 5) }, nil,
		"EVTCHNOP_unmask [05000000] = 0x0"},
	{"ResetEvents", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.ResetEvents(c, 5) }, nil,
		"EVTCHNOP_reset [0500] = 0x0"},
	{"PortStatus", hypercall.X86_64, writing(8, 2, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 8), func(c hypercall.Caller) (any, error) {
		return hypercall.PortStatus(c, hypercall.DomSelf, 5)
	}, hypercall.EvtchnStatus{
		Dom: hypercall.DomSelf, Port: 5, State: hypercall.EvtchnInterdomain, VCPU: 1, RemoteDom: 6, RemotePort: 8},
		"EVTCHNOP_status [f07f00000500000000000000000000000000000000000000 -> f07f00000500000002000000010000000600000008000000] = 0x0"},
	{"QueryGrantSize", hypercall.X86_64, writing(4, 1, 0, 0, 0, 64, 0, 0, 0, 0, 0), func(c hypercall.Caller) (any, error) {
		n, limit, err := hypercall.QueryGrantSize(c, hypercall.DomSelf)
		return []uint32{n, limit}, err
	}, []uint32{1, 64}, "GNTTABOP_query_size [f07f0000000000000000000000800000 -> f07f0000010000004000000000000000] 0x1 = 0x0"},
	{"GetGrantVersion", hypercall.X86_64, writing(4, 2), func(c hypercall.Caller) (any, error) {
		return hypercall.GetGrantVersion(c, 3)
	}, uint32(2), "GNTTABOP_get_version [0300000000000000 -> 0300000002000000] 0x1 = 0x0"},
	{"SetGrantVersion", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return hypercall.SetGrantVersion(c, 1)
	}, uint32(1), "GNTTABOP_set_version [01000000] 0x1 = 0x0"},
	{"SwapGrants", hypercall.X86_64, writing(8, 0, 0),
		func(c hypercall.Caller) (any, error) { return nil, hypercall.SwapGrants(c, 8, 9) }, nil,
		"GNTTABOP_swap_grant_ref [080000000900000000800000 -> 080000000900000000000000] 0x1 = 0x0"},
	{"AddToPhysmap", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.AddToPhysmap(c, hypercall.DomSelf, hypercall.SpaceGrantTable, 2, 0x1234)
	}, nil, "XENMEM_add_to_physmap [f07f00000100000002000000000000003412000000000000] = 0x0"},
	{"AddToPhysmap", hypercall.X86_32, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.AddToPhysmap(c, hypercall.DomSelf, hypercall.SpaceGrantTable, 2, 0x1234)
	}, nil, "XENMEM_add_to_physmap [f07f0000010000000200000034120000] = 0x0"},
	{"RemoveFromPhysmap", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.RemoveFromPhysmap(c, hypercall.DomSelf, 0x1234)
	}, nil, "XENMEM_remove_from_physmap [f07f0000000000003412000000000000] = 0x0"},
	{"PopulatePhysmap", hypercall.X86_32, value(2), func(c hypercall.Caller) (any, error) {
		return hypercall.PopulatePhysmap(c, hypercall.DomSelf, 9, []hypercall.GFN{0x200, 0x400})
	}, 2, "XENMEM_populate_physmap [00000000020000000900000000000000f07f0000 @0 [0002000000040000]] = 0x2"},
	{"DecreaseReservation", hypercall.X86_64, value(1), func(c hypercall.Caller) (any, error) {
		return hypercall.DecreaseReservation(c, hypercall.DomSelf, 0, []hypercall.GFN{0x200})
	}, 1, "XENMEM_decrease_reservation [00000000000000000100000000000000" + "0000000000000000" + "f07f000000000000" +
		" @0 [0002000000000000]] = 0x1"},
	{"CurrentReservation", hypercall.X86_64, value(512), func(c hypercall.Caller) (any, error) {
		return hypercall.CurrentReservation(c, 1)
	}, uint64(512), "XENMEM_current_reservation [0100] = 0x200"},
	{"MaximumReservation", hypercall.X86_64, value(513), func(c hypercall.Caller) (any, error) {
		return hypercall.MaximumReservation(c, 1)
	}, uint64(513), "XENMEM_maximum_reservation [0100] = 0x201"},
	{"MaximumGPFN", hypercall.X86_64, value(514), func(c hypercall.Caller) (any, error) {
		return hypercall.MaximumGPFN(c, 1)
	}, hypercall.GFN(514), "XENMEM_maximum_gpfn [0100] = 0x202"},
	{"GetParam", hypercall.X86_64, writing(8, 3), func(c hypercall.Caller) (any, error) {
		return hypercall.GetParam(c, hypercall.DomSelf, hypercall.ParamStoreEvtchn)
	}, uint64(3), "HVMOP_get_param [f07f0000020000000000000000000000 -> f07f0000020000000300000000000000] = 0x0"},
	{"SetParam", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		const vector = hypercall.CallbackTypeVector<<hypercall.CallbackTypeShift | 0xF3
		return nil, hypercall.SetParam(c, hypercall.DomSelf, hypercall.ParamCallbackIRQ, vector)
	}, nil, "HVMOP_set_param [f07f000000000000f300000000000002] = 0x0"},
	{"SetUpcallVector", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.SetUpcallVector(c, 1, 0xF3) }, nil,
		"HVMOP_set_evtchn_upcall_vector [01000000f3000000] = 0x0"},
	{"Yield", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.Yield(c) }, nil, "SCHEDOP_yield 0x0 = 0x0"},
	{"Block", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.Block(c) }, nil, "SCHEDOP_block 0x0 = 0x0"},
	{"Shutdown", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.Shutdown(c, hypercall.ShutdownCrash)
	}, nil, "SCHEDOP_shutdown [03000000] = 0x0"},
	{"Suspend", hypercall.X86_64, value(1), func(c hypercall.Caller) (any, error) {
		return hypercall.Suspend(c)
	}, true, "SCHEDOP_shutdown [02000000] = 0x1"},
	{"Poll", hypercall.X86_32, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.Poll(c, []hypercall.Port{1, 2}, 16)
	}, nil, "SCHEDOP_poll [00000000020000001000000000000000 @0 [0100000002000000]] = 0x0"},
	{"SetWatchdog", hypercall.X86_64, value(1), func(c hypercall.Caller) (any, error) {
		return hypercall.SetWatchdog(c, 0, 30)
	}, uint32(1), "SCHEDOP_watchdog [000000001e000000] = 0x1"},
	{"VCPUUp", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.VCPUUp(c, 1) }, nil, "VCPUOP_up 0x1 0x0 = 0x0"},
	{"VCPUDown", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.VCPUDown(c, 1) }, nil,
		"VCPUOP_down 0x1 0x0 = 0x0"},
	{"VCPUIsUp", hypercall.X86_64, value(1), func(c hypercall.Caller) (any, error) {
		return hypercall.VCPUIsUp(c, 1)
	}, true, "VCPUOP_is_up 0x1 0x0 = 0x1"},
	{"VCPURunstate", hypercall.X86_32, writing(0, 2, 0, 0, 0, 5), func(c hypercall.Caller) (any, error) {
		return hypercall.VCPURunstate(c, 1)
	}, hypercall.VCPURunstateInfo{State: hypercall.RunstateBlocked, StateEntryTime: 5},
		"VCPUOP_get_runstate_info 0x1 [" + zeros(44) + " -> 0200000005" + zeros(39) + "] = 0x0"},
	{"RegisterVCPUInfo", hypercall.ARM64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.RegisterVCPUInfo(c, 1, 0x1234, 64)
	}, nil, "VCPUOP_register_vcpu_info 0x1 [34120000000000004000000000000000] = 0x0"},
	{"SetPeriodicTimer", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.SetPeriodicTimer(c, 1, 16) }, nil,
		"VCPUOP_set_periodic_timer 0x1 [1000000000000000] = 0x0"},
	{"StopPeriodicTimer", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.StopPeriodicTimer(c, 1) }, nil,
		"VCPUOP_stop_periodic_timer 0x1 0x0 = 0x0"},
	{"SetSingleshotTimer", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.SetSingleshotTimer(c, 1, 16, hypercall.SingleshotFuture)
	}, nil, "VCPUOP_set_singleshot_timer 0x1 [10000000000000000100000000000000] = 0x0"},
	{"StopSingleshotTimer", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) {
		return nil, hypercall.StopSingleshotTimer(c, 1)
	}, nil, "VCPUOP_stop_singleshot_timer 0x1 0x0 = 0x0"},
	{"SendNMI", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.SendNMI(c, 1) }, nil,
		"VCPUOP_send_nmi 0x1 0x0 = 0x0"},
	{"Version", hypercall.X86_64, value(4<<16 | 17), func(c hypercall.Caller) (any, error) {
		major, minor, err := hypercall.Version(c)
		return []uint16{major, minor}, err
	}, []uint16{4, 17}, "XENVER_version 0x0 = 0x40011"},
	{"ExtraVersion", hypercall.X86_64, writing(0, '.', '5'), func(c hypercall.Caller) (any, error) {
		return hypercall.ExtraVersion(c)
	}, ".5", "XENVER_extraversion [" + zeros(16) + " -> 2e35" + zeros(14) + "] = 0x0"},
	{"Capabilities", hypercall.X86_64, writing(0, 'x'), func(c hypercall.Caller) (any, error) {
		return hypercall.Capabilities(c)
	}, "x", "XENVER_capabilities [" + zeros(1024) + " -> 78" + zeros(1023) + "] = 0x0"},
	{"Changeset", hypercall.X86_64, writing(0, 'y'), func(c hypercall.Caller) (any, error) {
		return hypercall.Changeset(c)
	}, "y", "XENVER_changeset [" + zeros(64) + " -> 79" + zeros(63) + "] = 0x0"},
	{"QueryCompileInfo", hypercall.X86_64, writing(64, 'm', 'e'), func(c hypercall.Caller) (any, error) {
		info, err := hypercall.QueryCompileInfo(c)
		return hypercall.CString(info.CompileBy[:]), err
	}, "me", "XENVER_compile_info [" + zeros(144) + " -> " + zeros(64) + "6d65" + zeros(78) + "] = 0x0"},
	{"Features", hypercall.X86_64, writing(4, 0, 1), func(c hypercall.Caller) (any, error) {
		return hypercall.Features(c, 0)
	}, uint32(1 << hypercall.FeatureHVMCallbackVector), "XENVER_get_features [0000000000000000 -> 0000000000010000] = 0x0"},
	{"ConsoleWrite", hypercall.X86_64, nil,
		func(c hypercall.Caller) (any, error) { return nil, hypercall.ConsoleWrite(c, []byte("hi\n")) }, nil,
		"CONSOLEIO_write 0x3 [68690a] = 0x0"},
	{"ConsoleRead", hypercall.X86_64, func(c *hypercall.Call) (uint64, error) { return uint64(copy(c.Data, "ab")), nil },
		func(c hypercall.Caller) (any, error) {
			p := make([]byte, 4)
			n, err := hypercall.ConsoleRead(c, p)
			return string(p[:n]), err
		}, "ab", "CONSOLEIO_read 0x4 [00000000 -> 61620000] = 0x2"},
	{"SetTimer", hypercall.X86_64, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.SetTimer(c, 0x123456789a) }, nil,
		"set_timer_op 0x123456789a = 0x0"},
	{"SetTimer", hypercall.X86_32, nil, func(c hypercall.Caller) (any, error) { return nil, hypercall.SetTimer(c, 0x123456789a) }, nil,
		"set_timer_op 0x3456789a 0x12 = 0x0"},
}

// zeros is the text of n zero bytes.
func zeros(n int) string { return string(bytes.Repeat([]byte("00"), n)) }

func TestTypedCallsMakeTheirHypercall(t *testing.T) {
	for _, tc := range typedCalls {
		t.Run(tc.name+"/"+tc.abi.String(), func(t *testing.T) {
			rec := answering(tc.abi, tc.answer)
			result, err := tc.do(rec)
			require.NoError(t, err)
			require.Equal(t, tc.result, result)
			exchanges := rec.Exchanges()
			require.Len(t, exchanges, 1)
			require.Equal(t, tc.want, exchanges[0].String())
			require.NoError(t, exchanges[0].Call.Validate(tc.abi))
		})
	}
}

// TestTypedCallsReportErrors sees that each typed call's error names the command and holds Xen's error.
func TestTypedCallsReportErrors(t *testing.T) {
	unreachable := errors.New("the wire broke")
	for _, tc := range typedCalls {
		for _, cause := range []error{hypercall.EBUSY, unreachable} {
			t.Run(tc.name+"/"+cause.Error(), func(t *testing.T) {
				rec := answering(tc.abi, func(*hypercall.Call) (uint64, error) { return 0, cause })
				_, err := tc.do(rec)
				require.ErrorIs(t, err, cause)
				var op *hypercall.OpError
				require.ErrorAs(t, err, &op)
				require.Equal(t, rec.Exchanges()[0].Call.Name(), op.Op)
				require.Contains(t, err.Error(), op.Op)
			})
		}
	}
}

func TestMapGrants(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			var op hypercall.MapGrantRef
			for i := range int(c.Args[2]) {
				require.NoError(t, c.Decode(abi, i, &op))
				require.Equal(t, hypercall.StatusNotDone, op.Status)
				op.Status, op.Handle = hypercall.StatusOkay, hypercall.GrantHandle(100+i)
				if op.Ref == 9 {
					op.Status = hypercall.StatusBadGntRef
				}
				require.NoError(t, c.Encode(abi, i, &op))
			}
			return 0, nil
		})
		ops := []hypercall.MapGrantRef{
			{HostAddr: 0x1000, Flags: hypercall.GrantMapHost, Ref: 8, Dom: 3},
			{HostAddr: 0x2000, Flags: hypercall.GrantMapHost, Ref: 9, Dom: 3},
		}
		require.NoError(t, hypercall.MapGrants(rec, ops))
		require.NoError(t, ops[0].Status.Err())
		require.Equal(t, hypercall.GrantHandle(100), ops[0].Handle)
		require.ErrorIs(t, ops[1].Status.Err(), hypercall.StatusBadGntRef)
		require.Equal(t, hypercall.NoHandle, ops[1].Handle)
		require.Equal(t, hypercall.GrantRef(9), ops[1].Ref)
		require.Len(t, rec.Exchanges(), 1)
		require.Equal(t, uint64(2), rec.Exchanges()[0].Call.Args[2])
		require.NoError(t, hypercall.MapGrants(rec, nil))
		require.Len(t, rec.Exchanges(), 1, "nothing to do is no hypercall")
	}
}

// TestXSA318StatusIsNeverSuccessByAccident has Xen stop before it comes to any operation: no status may look like success.
func TestXSA318StatusIsNeverSuccessByAccident(t *testing.T) {
	for _, cause := range []error{nil, hypercall.EFAULT, io.ErrClosedPipe} {
		rec := answering(hypercall.X86_64, func(*hypercall.Call) (uint64, error) { return 0, cause })
		maps, unmaps, copies := make([]hypercall.MapGrantRef, 2), make([]hypercall.UnmapGrantRef, 2), make([]hypercall.GrantCopy, 2)
		require.ErrorIs(t, hypercall.MapGrants(rec, maps), cause)
		require.ErrorIs(t, hypercall.UnmapGrants(rec, unmaps), cause)
		require.ErrorIs(t, hypercall.CopyGrants(rec, copies), cause)
		for i := range 2 {
			require.Error(t, maps[i].Status.Err())
			require.Equal(t, hypercall.NoHandle, maps[i].Handle)
			require.Error(t, unmaps[i].Status.Err())
			require.Error(t, copies[i].Status.Err())
		}
		_, err := hypercall.SetupTable(rec, hypercall.DomSelf, 1)
		require.Error(t, err)
		_, _, err = hypercall.QueryGrantSize(rec, hypercall.DomSelf)
		require.Error(t, err)
		require.Error(t, hypercall.SwapGrants(rec, 8, 9))
	}
}

func TestUnmapAndCopyGrants(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			if c.Args[0] == hypercall.GnttabopUnmapGrantRef {
				var op hypercall.UnmapGrantRef
				require.NoError(t, c.Decode(abi, 0, &op))
				op.Status = hypercall.StatusBadHandle
				return 0, c.Encode(abi, 0, &op)
			}
			var op hypercall.GrantCopy
			require.NoError(t, c.Decode(abi, 0, &op))
			require.Equal(t, hypercall.CopyPtr{Ref: 8, Dom: 3, Offset: 16}, op.Src)
			require.Equal(t, hypercall.CopyPtr{GFN: 0x1234, Dom: hypercall.DomSelf}, op.Dst)
			op.Status = hypercall.StatusOkay
			return 0, c.Encode(abi, 0, &op)
		})
		unmaps := []hypercall.UnmapGrantRef{{HostAddr: 0x1000, Handle: 5}}
		require.NoError(t, hypercall.UnmapGrants(rec, unmaps))
		require.Equal(t, hypercall.StatusBadHandle, unmaps[0].Status)
		copies := []hypercall.GrantCopy{{
			Src: hypercall.CopyPtr{Ref: 8, Dom: 3, Offset: 16}, Dst: hypercall.CopyPtr{GFN: 0x1234, Dom: hypercall.DomSelf},
			Len: 100, Flags: hypercall.CopySourceGref,
		}}
		require.NoError(t, hypercall.CopyGrants(rec, copies))
		require.NoError(t, copies[0].Status.Err())
	}
}

func TestSetupTable(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			var op hypercall.SetupGrantTable
			require.NoError(t, c.Decode(abi, 0, &op))
			list := c.Ref(op.FrameListOffset(abi))
			require.Len(t, list, int(op.NrFrames)*abi.WordBytes())
			hypercall.PutWords(abi, list, []hypercall.GFN{0x10, 0x11, 0x12})
			op.Status = hypercall.StatusOkay
			return 0, c.Encode(abi, 0, &op)
		})
		gfns, err := hypercall.SetupTable(rec, hypercall.DomSelf, 3)
		require.NoError(t, err)
		require.Equal(t, []hypercall.GFN{0x10, 0x11, 0x12}, gfns)
		for _, n := range []int{-1, hypercall.MaxSetupFrames + 1} {
			_, err = hypercall.SetupTable(rec, hypercall.DomSelf, n)
			require.ErrorIs(t, err, hypercall.EINVAL)
		}
	}
}

func TestReservationsThatStopHalfway(t *testing.T) {
	rec := answering(hypercall.X86_64, value(1))
	n, err := hypercall.PopulatePhysmap(rec, hypercall.DomSelf, 0, []hypercall.GFN{1, 2, 3})
	require.Equal(t, 1, n)
	var short *hypercall.ShortError
	require.ErrorAs(t, err, &short)
	require.Equal(t, hypercall.ShortError{Done: 1, Want: 3}, *short)
	n, err = hypercall.PopulatePhysmap(rec, hypercall.DomSelf, 0, nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestAddToPhysmapBatch(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			var op hypercall.PhysmapAddBatch
			require.NoError(t, c.Decode(abi, 0, &op))
			require.Equal(t, uint16(2), op.Pages)
			require.Equal(t, hypercall.DomID(4), op.ForeignDom)
			_, atGFNs, atErrs := op.HandleOffsets(abi)
			gfns := make([]hypercall.GFN, 2)
			hypercall.GetWords(abi, c.Ref(atGFNs), gfns)
			require.Equal(t, []hypercall.GFN{5, 6}, gfns)
			binary.LittleEndian.PutUint32(c.Ref(atErrs), 0)
			return 0, nil
		})
		errs, err := hypercall.AddToPhysmapBatch(rec, hypercall.DomSelf, hypercall.SpaceGMFNForeign, 4, []uint64{1, 2}, []hypercall.GFN{5, 6})
		require.NoError(t, err)
		require.Equal(t, []error{nil, hypercall.EAGAIN}, errs)
		require.NoError(t, rec.Exchanges()[0].Call.Validate(abi))
		_, err = hypercall.AddToPhysmapBatch(rec, hypercall.DomSelf, hypercall.SpaceGMFN, 0, []uint64{1}, nil)
		require.ErrorIs(t, err, hypercall.EINVAL)
	}
}

func TestGetDomainInfo(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			var op hypercall.DomainInfo
			require.NoError(t, c.Decode(abi, 0, &op))
			require.Equal(t, hypercall.DomainInfo{Cmd: hypercall.DomctlGetDomainInfo, Version: hypercall.DomctlVersion, Dom: op.Dom}, op)
			if op.Dom > 5 {
				return 0, hypercall.ESRCH
			}
			op.Dom, op.Of, op.Flags = 5, 5, hypercall.DomainShutdown|hypercall.DomainFlags(hypercall.ShutdownCrash)<<16
			return 0, c.Encode(abi, 0, &op)
		})
		info, err := hypercall.GetDomainInfo(rec, hypercall.DomctlVersion, 5)
		require.NoError(t, err)
		require.Equal(t, hypercall.ShutdownCrash, info.Flags.Reason())
		require.Zero(t, info.Flags&hypercall.DomainDying)
		for _, gone := range []hypercall.DomID{4, 6} { // after one that has gone Xen tells of the next one, if there is one
			_, err = hypercall.GetDomainInfo(rec, hypercall.DomctlVersion, gone)
			require.ErrorIs(t, err, hypercall.ESRCH)
		}
		require.Equal(t, hypercall.NrDomctl, rec.Exchanges()[0].Call.Nr)
		require.NoError(t, rec.Exchanges()[0].Call.Validate(abi))
	}
}

func TestPollLimit(t *testing.T) {
	rec := answering(hypercall.X86_64, nil)
	require.ErrorIs(t, hypercall.Poll(rec, make([]hypercall.Port, hypercall.MaxPollPorts+1), 0), hypercall.EINVAL)
	require.NoError(t, hypercall.Poll(rec, make([]hypercall.Port, hypercall.MaxPollPorts), 0))
	require.Len(t, rec.Exchanges(), 1)
}

func TestConsoleWriteIsCutIntoPieces(t *testing.T) {
	var got bytes.Buffer
	rec := answering(hypercall.X86_64, func(c *hypercall.Call) (uint64, error) {
		require.Len(t, c.Data, int(c.Args[1]))
		got.Write(c.Data)
		return 0, nil
	})
	long := bytes.Repeat([]byte("0123456789"), hypercall.MaxConsoleWrite/4)
	require.NoError(t, hypercall.ConsoleWrite(rec, long))
	require.Equal(t, long, got.Bytes())
	require.Len(t, rec.Exchanges(), 3)
	n, err := hypercall.ConsoleRead(rec, nil)
	require.NoError(t, err)
	require.Zero(t, n)
}

// TestMulticall makes three calls in one, and answers them one by one as a server does.
func TestMulticall(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, func(c *hypercall.Call) (uint64, error) {
			for i := range int(c.Args[1]) {
				call, err := c.MulticallCall(abi, i)
				require.NoError(t, err)
				v, errno := answerOne(t, abi, call)
				require.NoError(t, c.SetMulticallResult(abi, i, v, errno))
			}
			_, err := c.MulticallCall(abi, int(c.Args[1]))
			require.Equal(t, hypercall.EFAULT, err)
			return 0, nil
		})
		status := hypercall.NewStructCall(abi, hypercall.NrEventChannelOp, hypercall.EvtchnopStatus, &hypercall.EvtchnStatus{Port: 1})
		results, err := hypercall.Multicall(rec, []*hypercall.Call{
			status,
			hypercall.NewCall(hypercall.NrXenVersion, hypercall.XenverVersion, 0),
			hypercall.NewStructCall(abi, hypercall.NrEventChannelOp, hypercall.EvtchnopSend, &hypercall.EvtchnSend{Port: 2}),
		})
		require.NoError(t, err)
		require.Equal(t, []hypercall.CallResult{{}, {Value: 4<<16 | 17}, {Err: hypercall.EINVAL}}, results)
		var st hypercall.EvtchnStatus
		require.NoError(t, status.Decode(abi, 0, &st))
		require.Equal(t, hypercall.EvtchnStatus{Port: 1, State: hypercall.EvtchnVIRQ, VIRQ: 3}, st)
		require.NoError(t, rec.Exchanges()[0].Call.Validate(abi))
	}
}

func answerOne(t *testing.T, abi hypercall.ABI, call *hypercall.Call) (uint64, hypercall.Errno) {
	switch call.Name() {
	case "EVTCHNOP_status":
		require.NoError(t, call.Encode(abi, 0, &hypercall.EvtchnStatus{Port: 1, State: hypercall.EvtchnVIRQ, VIRQ: 3}))
		return 0, 0
	case "XENVER_version":
		return 4<<16 | 17, 0
	}
	return 0, hypercall.EINVAL
}

func TestMulticallThatXenDoesNotFinish(t *testing.T) {
	one := hypercall.NewCall(hypercall.NrXenVersion, hypercall.XenverVersion, 0)
	results, err := hypercall.Multicall(answering(hypercall.X86_32, nil), []*hypercall.Call{one})
	require.NoError(t, err)
	require.Equal(t, hypercall.ENOSYS, results[0].Err)

	refuse := answering(hypercall.X86_64, func(*hypercall.Call) (uint64, error) { return 0, hypercall.EFAULT })
	_, err = hypercall.Multicall(refuse, []*hypercall.Call{one})
	require.ErrorIs(t, err, hypercall.EFAULT)
	_, err = hypercall.Multicall(refuse, make([]*hypercall.Call, hypercall.MaxMulticall+1))
	require.ErrorIs(t, err, hypercall.E2BIG)
	results, err = hypercall.Multicall(refuse, nil)
	require.NoError(t, err)
	require.Empty(t, results)
}

func TestErrno(t *testing.T) {
	require.ErrorIs(t, hypercall.ENOENT, fs.ErrNotExist)
	require.ErrorIs(t, hypercall.EEXIST, fs.ErrExist)
	require.ErrorIs(t, hypercall.EPERM, fs.ErrPermission)
	require.ErrorIs(t, hypercall.EACCES, fs.ErrPermission)
	require.ErrorIs(t, hypercall.ENOSYS, errors.ErrUnsupported)
	require.ErrorIs(t, hypercall.EINVAL, syscall.EINVAL)
	require.ErrorIs(t, hypercall.EAGAIN, syscall.EAGAIN)
	require.NotErrorIs(t, hypercall.EINVAL, syscall.ENOENT)
	require.NotErrorIs(t, hypercall.EINVAL, fs.ErrNotExist)
	require.NotErrorIs(t, hypercall.Errno(200), syscall.Errno(0))
	require.Equal(t, "ENOSYS (not implemented by this Xen)", hypercall.ENOSYS.Error())
	require.Equal(t, "errno 200", hypercall.Errno(200).Error())

	v, err := hypercall.Result(7)
	require.Equal(t, uint64(7), v)
	require.NoError(t, err)
	_, err = hypercall.Result(^uint64(0) - 37)
	require.Equal(t, hypercall.ENOSYS, err)
	v, err = hypercall.Result(1 << 63)
	require.Equal(t, uint64(1<<63), v)
	require.NoError(t, err)
}

func TestGrantStatus(t *testing.T) {
	require.NoError(t, hypercall.StatusOkay.Err())
	for _, s := range []hypercall.GrantStatus{1, -1, -13, -14, hypercall.StatusNotDone} {
		require.Equal(t, s, s.Err())
		require.NotEmpty(t, s.Error())
	}
	require.ErrorIs(t, hypercall.StatusEagain, hypercall.EAGAIN)
	require.ErrorIs(t, hypercall.StatusPermissionDenied, fs.ErrPermission)
	require.Equal(t, "GNTST_bad_gntref (bad grant reference)", hypercall.StatusBadGntRef.Error())
	require.Equal(t, "grant status -14", hypercall.GrantStatus(-14).Error())
	require.Equal(t, "grant operation not done", hypercall.StatusNotDone.Error())
}

func TestDecodeOutsideTheCallsMemory(t *testing.T) {
	c := &hypercall.Call{Nr: hypercall.NrEventChannelOp, Data: make([]byte, 7)}
	var op hypercall.EvtchnSend
	require.NoError(t, c.Decode(hypercall.X86_64, 0, &op))
	for _, i := range []int{-1, 1, math.MaxInt} {
		require.Equal(t, hypercall.EFAULT, c.Decode(hypercall.X86_64, i, &op))
		require.Equal(t, hypercall.EFAULT, c.Encode(hypercall.X86_64, i, &op))
	}
	require.Nil(t, c.Ref(0))
	c.Refs = []hypercall.DataRef{{Off: 4, Data: []byte{1}, Refs: []hypercall.DataRef{{Off: 0, Data: []byte{2}}}}}
	require.Equal(t, []byte{1}, c.Ref(4))
	require.Equal(t, []byte{2}, c.Refs[0].Ref(0))
	require.Nil(t, c.Refs[0].Ref(1))
}

func TestValidate(t *testing.T) {
	word := make([]byte, 8)
	nest := func(depth int) []hypercall.DataRef {
		refs := []hypercall.DataRef{{Data: word}}
		for range depth - 1 {
			refs = []hypercall.DataRef{{Data: word, Refs: refs}}
		}
		return refs
	}
	bad := map[string]hypercall.Call{
		"6 arguments":                    {N: 6},
		"-1 arguments":                   {N: -1},
		"addresses inside no memory":     {N: 1, Refs: nest(1)},
		"argument 2 of 2 is an address":  {N: 2, Ptr: 2, Data: word},
		"argument -1 of 2 is an address": {N: 2, Ptr: -1, Data: word},
		"offset 1 of 8 bytes":            {N: 1, Data: word, Refs: []hypercall.DataRef{{Off: 1}}},
		"offset -1 of 8 bytes":           {N: 1, Data: word, Refs: []hypercall.DataRef{{Off: -1}}},
		"offset 4 of 16 bytes, after 8":  {N: 1, Data: make([]byte, 16), Refs: []hypercall.DataRef{{Off: 0}, {Off: 4}}},
		"nested deeper than 4":           {N: 1, Data: word, Refs: nest(hypercall.MaxRefDepth + 1)},
		"more than 16777216 bytes":       {N: 1, Data: make([]byte, hypercall.MaxCallBytes+1)},
		"more than 4096 addresses":       {N: 1, Data: word, Refs: make([]hypercall.DataRef, hypercall.MaxCallRefs+1)},
	}
	for reason, c := range bad {
		var malformed *hypercall.MalformedCallError
		require.ErrorAs(t, c.Validate(hypercall.X86_64), &malformed, reason)
		require.Contains(t, malformed.Error(), reason)
	}
	good := hypercall.Call{N: 1, Data: word, Refs: nest(hypercall.MaxRefDepth)}
	require.NoError(t, good.Validate(hypercall.X86_64))
	require.NoError(t, hypercall.NewCall(hypercall.NrSchedOp, 0, 0).Validate(hypercall.X86_32))
}

func TestTimerDeadline(t *testing.T) {
	for _, abi := range abis {
		rec := answering(abi, nil)
		require.NoError(t, hypercall.SetTimer(rec, 0x123456789abcdef0))
		require.Equal(t, uint64(0x123456789abcdef0), rec.Exchanges()[0].Call.TimerDeadline(abi))
	}
}

func TestNamesOfTheUnknown(t *testing.T) {
	require.Equal(t, "hypercall 99", hypercall.Number(99).String())
	require.Equal(t, "hypercall 99", hypercall.CommandName(99, 1))
	require.Equal(t, "sched_op command 99", hypercall.CommandName(hypercall.NrSchedOp, 99))
	require.Equal(t, "ChannelState(9)", hypercall.ChannelState(9).String())
	require.Equal(t, "interdomain", hypercall.EvtchnInterdomain.String())
	require.Equal(t, "ShutdownReason(9)", hypercall.ShutdownReason(9).String())
	require.Equal(t, "suspend", hypercall.ShutdownSuspend.String())
	require.Equal(t, "unknown ABI", hypercall.ABI(9).String())
}

// TestNewCallTakesFive: a call has five arguments at most, and one more is not dropped.
func TestNewCallTakesFive(t *testing.T) {
	require.Equal(t, [5]uint64{1, 2, 3, 4, 5}, hypercall.NewCall(1, 1, 2, 3, 4, 5).Args)
	require.Panics(t, func() { hypercall.NewCall(1, 1, 2, 3, 4, 5, 6) })
}
