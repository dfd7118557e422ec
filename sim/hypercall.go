package sim

import (
	"encoding/binary"
	"errors"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Limits of one hypercall, so that no domain can keep the host busy. Xen has none: it interrupts a long call and continues it.
const (
	maxGrantOps = 4096
	maxExtents  = 65536
)

// hypercall answers one hypercall of the domain, as Xen does.
func (d *guest) hypercall(c *hypercall.Call) (uint64, error) {
	d.xen.calls++
	switch c.Nr {
	case hypercall.NrEventChannelOp:
		return 0, d.eventChannelOp(c)
	case hypercall.NrGrantTableOp:
		return 0, d.grantTableOp(c)
	case hypercall.NrMemoryOp:
		return d.memoryOp(c)
	case hypercall.NrHVMOp:
		return 0, d.hvmOp(c)
	case hypercall.NrSchedOp:
		return 0, d.schedOp(c)
	case hypercall.NrVCPUOp:
		return d.vcpuOp(c)
	case hypercall.NrXenVersion:
		return d.xenVersion(c)
	case hypercall.NrConsoleIO:
		return d.consoleIO(c)
	case hypercall.NrSetTimerOp:
		d.setTimer(c.Args[0])
		return 0, nil
	case hypercall.NrMulticall:
		return 0, d.multicall(c)
	}
	return 0, hypercall.ENOSYS
}

// answer decodes the structure of a call, has f act on it, and writes it back if f did not fail.
func answer[S hypercall.Struct](c *hypercall.Call, abi hypercall.ABI, s S, f func(S) error) error {
	if err := c.Decode(abi, 0, s); err != nil {
		return err
	}
	if err := f(s); err != nil {
		return err
	}
	return c.Encode(abi, 0, s)
}

// each acts on each structure of an array, and writes it back.
func each[S hypercall.Struct](c *hypercall.Call, abi hypercall.ABI, s S, f func(S)) error {
	for i := range int(c.Args[2]) {
		if err := c.Decode(abi, i, s); err != nil {
			return err
		}
		f(s)
		if err := c.Encode(abi, i, s); err != nil {
			return err
		}
	}
	return nil
}

// onPort acts on the port that a call's structure consists of. It is on the data path, and does not allocate.
func onPort(c *hypercall.Call) (hypercall.Port, error) {
	if len(c.Data) < 4 {
		return 0, hypercall.EFAULT
	}
	return hypercall.Port(binary.LittleEndian.Uint32(c.Data)), nil
}

// multicall makes several calls. A call that fails does not stop those after it; a multicall among them fails.
func (d *guest) multicall(c *hypercall.Call) error {
	if c.Args[1] > hypercall.MaxMulticall {
		return hypercall.EINVAL
	}
	for i := range int(c.Args[1]) {
		call, err := c.MulticallCall(d.abi, i)
		if err != nil {
			return err
		}
		result, err := uint64(0), error(hypercall.EINVAL)
		if call.Nr != hypercall.NrMulticall {
			result, err = d.hypercall(call)
		}
		if err := c.SetMulticallResult(d.abi, i, result, errnoOf(err)); err != nil {
			return err
		}
		if d.state != stateRunning {
			return nil // it was its last
		}
	}
	return nil
}

// errnoOf is the number that stands for an error in a register; 0 for nil.
func errnoOf(err error) hypercall.Errno {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[hypercall.Errno](err); ok {
		return errno
	}
	return hypercall.EINVAL
}

func (d *guest) hvmOp(c *hypercall.Call) error {
	var op func(*hypercall.HVMParam) error
	switch c.Args[0] {
	case hypercall.HvmopGetParam:
		op = d.getParam
	case hypercall.HvmopSetParam:
		op = d.setParam
	default:
		return hypercall.ENOSYS
	}
	return answer(c, d.abi, new(hypercall.HVMParam), op)
}

func (d *guest) getParam(op *hypercall.HVMParam) error {
	t, err := d.paramsOf(op, hypercall.ParamStorePFN, hypercall.ParamConsolePFN)
	if err == nil {
		op.Value = t.params[op.Index]
	}
	return err
}

func (d *guest) setParam(op *hypercall.HVMParam) error {
	t, err := d.paramsOf(op)
	if err == nil {
		t.params[op.Index] = op.Value
	}
	return err
}

// paramsOf checks an access to a parameter as hvm_allow_get_param and hvm_allow_set_param do: of its own a domain may reach a few and
// those in more.
func (d *guest) paramsOf(op *hypercall.HVMParam, more ...hypercall.Param) (*guest, error) {
	if op.Index >= hypercall.NumParams {
		return nil, hypercall.EINVAL
	}
	t, err := d.target(op.Dom)
	if err != nil || t != d {
		return t, err
	}
	switch op.Index {
	case hypercall.ParamCallbackIRQ, hypercall.ParamStoreEvtchn, hypercall.ParamConsoleEvtchn, hypercall.ParamVMGenIDAddr:
		return t, nil
	}
	for _, p := range more {
		if op.Index == p {
			return t, nil
		}
	}
	return nil, hypercall.EPERM
}

func (d *guest) vcpuOp(c *hypercall.Call) (uint64, error) {
	if c.Args[1] != 0 {
		return 0, hypercall.ENOENT
	}
	if c.Args[0] == hypercall.VcpuopIsUp {
		return 1, nil
	}
	return 0, hypercall.ENOSYS
}

// The version of Xen that the simulator says it is.
const (
	versionMajor = 4
	versionMinor = 17
	extraVersion = "-hvkit"
)

func (d *guest) xenVersion(c *hypercall.Call) (uint64, error) {
	switch c.Args[0] {
	case hypercall.XenverVersion:
		return versionMajor<<16 | versionMinor, nil
	case hypercall.XenverExtraversion:
		clear(c.Data)
		copy(c.Data, extraVersion)
		return 0, nil
	case hypercall.XenverPagesize:
		return shm.PageSize, nil
	case hypercall.XenverGetFeatures:
		return 0, answer(c, d.abi, new(hypercall.FeatureInfo), func(op *hypercall.FeatureInfo) error {
			op.Submap = 0
			if op.SubmapIdx == 0 {
				op.Submap = 1<<hypercall.FeatureAutoTranslatedPhysmap | 1<<hypercall.FeatureHVMCallbackVector
			}
			return nil
		})
	}
	return 0, hypercall.ENOSYS
}

func (d *guest) consoleIO(c *hypercall.Call) (uint64, error) {
	switch c.Args[0] {
	case hypercall.ConsoleioWrite:
		if f := d.xen.cfg.Console; f != nil {
			id, text := d.id, string(c.Data)
			d.xen.after(func() { f(id, text) })
		}
		return 0, nil
	case hypercall.ConsoleioRead:
		return 0, nil // nobody types
	}
	return 0, hypercall.ENOSYS
}

// schedOp is sched_op. A simulated domain is goroutines, which wait for events in Go: blocking and polling return at once, as they may
// on Xen, where a wake-up can be spurious.
func (d *guest) schedOp(c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.SchedopYield, hypercall.SchedopBlock, hypercall.SchedopPoll:
		return nil
	case hypercall.SchedopShutdown:
		return answer(c, d.abi, new(hypercall.SchedShutdown), func(op *hypercall.SchedShutdown) error {
			d.note("shutdown: %v", op.Reason)
			d.enter(stateShutdown)
			reason := op.Reason
			d.xen.after(func() { d.shell.onShutdown(reason) })
			return nil
		})
	}
	return hypercall.ENOSYS
}
