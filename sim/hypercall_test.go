package sim_test

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
)

func TestUnknownCalls(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		for _, c := range []*hypercall.Call{
			hypercall.NewCall(0), hypercall.NewCall(99),
			hypercall.NewCall(hypercall.NrDomctl), hypercall.NewCall(hypercall.NrSysctl),
			hypercall.NewCall(hypercall.NrEventChannelOp, 99, 0), hypercall.NewCall(hypercall.NrGrantTableOp, 99, 0, 0),
			hypercall.NewCall(hypercall.NrMemoryOp, 99, 0), hypercall.NewCall(hypercall.NrHVMOp, 99, 0),
			hypercall.NewCall(hypercall.NrSchedOp, 99, 0), hypercall.NewCall(hypercall.NrXenVersion, 99, 0),
			hypercall.NewCall(hypercall.NrConsoleIO, 99, 0, 0), hypercall.NewCall(hypercall.NrVCPUOp, 99, 0, 0),
		} {
			_, err := a.m.Hypercall(c)
			require.ErrorIs(t, err, hypercall.ENOSYS, "%v", c)
		}
	})
}

// TestMissingMemory: calls whose memory is not there, or is too short.
func TestMissingMemory(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		for _, nr := range []hypercall.Number{hypercall.NrEventChannelOp, hypercall.NrMemoryOp, hypercall.NrHVMOp} {
			for cmd := range uint64(16) {
				for _, data := range [][]byte{nil, {}, {1}} {
					c := &hypercall.Call{Nr: nr, Args: [5]uint64{cmd}, N: 2, Ptr: 1, Data: data}
					_, err := a.m.Hypercall(c)
					require.Error(t, err, "%v", c)
					require.NotErrorIs(t, err, hypercall.EINVAL, "%v", c)
				}
			}
		}
		for cmd := range uint64(16) {
			for _, n := range []uint64{1, 3, 4096} {
				c := &hypercall.Call{Nr: hypercall.NrGrantTableOp, Args: [5]uint64{cmd, 0, n}, N: 3, Ptr: 1, Data: []byte{1, 2, 3}}
				_, err := a.m.Hypercall(c)
				require.Error(t, err, "%v", c)
			}
		}
		for _, n := range []uint64{4097, 1 << 31, 1<<64 - 1} {
			c := &hypercall.Call{Nr: hypercall.NrGrantTableOp, Args: [5]uint64{hypercall.GnttabopCopy, 0, n}, N: 3, Ptr: 1, Data: []byte{1}}
			_, err := a.m.Hypercall(c)
			require.Error(t, err, "%v", c)
		}
	})
}

func TestParams(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, h *sim.Host, a, b *bare) {
		const self = hypercall.DomSelf
		pfn, err := hypercall.GetParam(a.m, self, hypercall.ParamStorePFN)
		require.NoError(t, err)
		require.NotZero(t, pfn)
		none, err := hypercall.GetParam(a.m, self, hypercall.ParamConsolePFN)
		require.NoError(t, err)
		require.Zero(t, none)
		require.NoError(t, hypercall.SetParam(a.m, self, hypercall.ParamCallbackIRQ, 7))
		v, err := hypercall.GetParam(a.m, a.ID(), hypercall.ParamCallbackIRQ)
		require.NoError(t, err)
		require.Equal(t, uint64(7), v)

		get := func(m *bare, dom hypercall.DomID, p hypercall.Param) error {
			_, err := hypercall.GetParam(m.m, dom, p)
			return err
		}
		require.ErrorIs(t, get(a, self, hypercall.ParamIOReqPFN), hypercall.EPERM)
		require.ErrorIs(t, get(a, self, hypercall.NumParams), hypercall.EINVAL)
		require.ErrorIs(t, get(a, b.ID(), hypercall.ParamStorePFN), hypercall.EPERM)
		require.ErrorIs(t, get(a, nobody, hypercall.ParamStorePFN), hypercall.ESRCH)
		require.ErrorIs(t, hypercall.SetParam(a.m, self, hypercall.ParamStorePFN, 1), hypercall.EPERM)
		require.ErrorIs(t, hypercall.SetParam(a.m, b.ID(), hypercall.ParamCallbackIRQ, 1), hypercall.EPERM)
		require.ErrorIs(t, hypercall.SetParam(a.m, self, 1<<31, 1), hypercall.EINVAL)

		dom0 := newBareHere(t, h, sim.DomainConfig{Name: "dom0", Dom0: true})
		require.NoError(t, hypercall.SetParam(dom0.m, a.ID(), hypercall.ParamConsolePFN, 0x77))
		v, err = hypercall.GetParam(a.m, self, hypercall.ParamConsolePFN)
		require.NoError(t, err)
		require.Equal(t, uint64(0x77), v)
	})
}

func TestVersionAndFeatures(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		major, minor, err := hypercall.Version(a.m)
		require.NoError(t, err)
		require.Equal(t, [2]uint16{4, 17}, [2]uint16{major, minor})
		features, err := hypercall.Features(a.m, 0)
		require.NoError(t, err)
		require.NotZero(t, features&(1<<hypercall.FeatureAutoTranslatedPhysmap))
		features, err = hypercall.Features(a.m, 1)
		require.NoError(t, err)
		require.Zero(t, features)
	})
}

func TestMulticall(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
		abi := a.m.ABI()
		alloc := hypercall.NewStructCall(abi, hypercall.NrEventChannelOp, hypercall.EvtchnopAllocUnbound,
			&hypercall.EvtchnAllocUnbound{Dom: hypercall.DomSelf, RemoteDom: b.ID()})
		results, err := hypercall.Multicall(a.m, []*hypercall.Call{
			hypercall.NewCall(hypercall.NrXenVersion, hypercall.XenverVersion), hypercall.NewCall(99), alloc,
			hypercall.NewCall(hypercall.NrMulticall, 0, 0),
			hypercall.NewStructCall(abi, hypercall.NrEventChannelOp, hypercall.EvtchnopSend, &hypercall.EvtchnSend{Port: 500}),
		})
		require.NoError(t, err)
		require.Equal(t, hypercall.CallResult{Value: 4<<16 | 17}, results[0])
		require.ErrorIs(t, results[1].Err, hypercall.ENOSYS)
		require.NoError(t, results[2].Err)
		require.ErrorIs(t, results[3].Err, hypercall.EINVAL, "a multicall in a multicall")
		require.ErrorIs(t, results[4].Err, hypercall.EINVAL)
		var op hypercall.EvtchnAllocUnbound
		op.Unmarshal(abi, alloc.Data)
		require.NoError(t, hypercall.SendEvent(a.m, op.Port), "the port that it opened works")
	})
}

func TestConsole(t *testing.T) {
	var mu sync.Mutex
	got := make(map[hypercall.DomID]string)
	h := newHost(t, &sim.HostConfig{Console: func(dom hypercall.DomID, text string) {
		mu.Lock()
		defer mu.Unlock()
		got[dom] += text
	}})
	a := newBareHere(t, h, sim.DomainConfig{})
	require.NoError(t, hypercall.ConsoleWrite(a.m, []byte("hello, ")))
	require.NoError(t, hypercall.ConsoleWrite(a.m, []byte("console\n")))
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[hypercall.DomID]string{a.ID(): "hello, console\n"}, got)
}

func TestVCPUAndSched(t *testing.T) {
	onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, _ *bare) {
		up, err := a.m.Hypercall(hypercall.NewCall(hypercall.NrVCPUOp, hypercall.VcpuopIsUp, 0, 0))
		require.NoError(t, err)
		require.Equal(t, uint64(1), up)
		_, err = a.m.Hypercall(hypercall.NewCall(hypercall.NrVCPUOp, hypercall.VcpuopIsUp, 1, 0))
		require.ErrorIs(t, err, hypercall.ENOENT)
		require.NoError(t, hypercall.Yield(a.m))
		require.NoError(t, hypercall.Block(a.m))
	})
}
