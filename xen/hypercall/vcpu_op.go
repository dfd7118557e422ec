package hypercall

import "fmt"

// The commands of vcpu_op(cmd, vcpu, arg) (VCPUOP_* in public vcpu.h).
const (
	VcpuopInitialise           = 0
	VcpuopUp                   = 1
	VcpuopDown                 = 2
	VcpuopIsUp                 = 3
	VcpuopGetRunstateInfo      = 4
	VcpuopRegisterRunstateArea = 5
	VcpuopSetPeriodicTimer     = 6
	VcpuopStopPeriodicTimer    = 7
	VcpuopSetSingleshotTimer   = 8
	VcpuopStopSingleshotTimer  = 9
	VcpuopRegisterVCPUInfo     = 10
	VcpuopSendNMI              = 11
	VcpuopGetPhysID            = 12
	VcpuopRegisterTimeArea     = 13
)

// Runstate is what a vCPU is doing (RUNSTATE_*).
type Runstate int32

// What a vCPU can be doing.
const (
	RunstateRunning  Runstate = 0 // it runs
	RunstateRunnable Runstate = 1 // it could run, but others do
	RunstateBlocked  Runstate = 2 // it waits
	RunstateOffline  Runstate = 3 // it is paused or down
)

// VCPURunstateInfo says what a vCPU has been doing (struct vcpu_runstate_info). All members are out.
type VCPURunstateInfo struct {
	State          Runstate
	StateEntryTime uint64    // since when, in nanoseconds of system time; the top bit says that an update is going on
	Time           [4]uint64 // nanoseconds in each Runstate
}

func (m *VCPURunstateInfo) layout(c *codec) {
	u32(c, &m.State)
	u64(c, &m.StateEntryTime)
	for i := range m.Time {
		u64(c, &m.Time[i])
	}
}

// VCPUSetPeriodicTimer has VIRQTimer come again and again (struct vcpu_set_periodic_timer).
type VCPUSetPeriodicTimer struct {
	PeriodNS uint64 // nanoseconds
}

func (m *VCPUSetPeriodicTimer) layout(c *codec) { u64(c, &m.PeriodNS) }

// VCPUSetSingleshotTimer has VIRQTimer come once (struct vcpu_set_singleshot_timer).
type VCPUSetSingleshotTimer struct {
	TimeoutAbsNS uint64 // system time in nanoseconds
	Flags        uint32 // SingleshotFuture
}

func (m *VCPUSetSingleshotTimer) layout(c *codec) {
	u64(c, &m.TimeoutAbsNS)
	u32(c, &m.Flags)
}

// SingleshotFuture has a time that is past answer ETIME (VCPU_SSHOTTMR_future).
const SingleshotFuture = 1

// VCPURegisterInfo has a vCPU's vcpu_info be elsewhere than in shared_info (struct vcpu_register_vcpu_info).
type VCPURegisterInfo struct {
	GFN    GFN    // mfn in C: the page; always 64 bits
	Offset uint32 // in the page, in bytes
}

func (m *VCPURegisterInfo) layout(c *codec) {
	var rsvd uint32
	u64(c, &m.GFN)
	u32(c, &m.Offset)
	u32(c, &rsvd)
}

// VCPUPhysID is the identity of a physical CPU that a vCPU is pinned to (struct vcpu_get_physid).
type VCPUPhysID struct {
	PhysID uint64 // x86: APIC id in the low half, ACPI id in the high one
}

func (m *VCPUPhysID) layout(c *codec) { u64(c, &m.PhysID) }

// VCPUUp starts a vCPU that was initialised.
func VCPUUp(c Caller, vcpu uint32) error {
	_, err := vcpuOp(c, VcpuopUp, "VCPUOP_up", vcpu, nil)
	return err
}

// VCPUDown stops a vCPU.
func VCPUDown(c Caller, vcpu uint32) error {
	_, err := vcpuOp(c, VcpuopDown, "VCPUOP_down", vcpu, nil)
	return err
}

// VCPUIsUp says whether a vCPU is started.
func VCPUIsUp(c Caller, vcpu uint32) (bool, error) {
	r, err := vcpuOp(c, VcpuopIsUp, "VCPUOP_is_up", vcpu, nil)
	return r == 1, err
}

// VCPURunstate returns what a vCPU has been doing.
func VCPURunstate(c Caller, vcpu uint32) (VCPURunstateInfo, error) {
	var info VCPURunstateInfo
	_, err := vcpuOp(c, VcpuopGetRunstateInfo, "VCPUOP_get_runstate_info", vcpu, &info)
	return info, err
}

// RegisterVCPUInfo has the vcpu_info of a vCPU be at the given offset of a page of the caller's, until the domain is resumed. It must
// not cross the page's end. vCPUs from [SharedInfo].VCPUs on have none otherwise. It can be done once.
func RegisterVCPUInfo(c Caller, vcpu uint32, gfn GFN, offset uint32) error {
	_, err := vcpuOp(c, VcpuopRegisterVCPUInfo, "VCPUOP_register_vcpu_info", vcpu, &VCPURegisterInfo{GFN: gfn, Offset: offset})
	return err
}

// SetPeriodicTimer has [VIRQTimer] come on a vCPU every periodNS nanoseconds.
func SetPeriodicTimer(c Caller, vcpu uint32, periodNS uint64) error {
	_, err := vcpuOp(c, VcpuopSetPeriodicTimer, "VCPUOP_set_periodic_timer", vcpu, &VCPUSetPeriodicTimer{PeriodNS: periodNS})
	return err
}

// StopPeriodicTimer ends what SetPeriodicTimer began.
func StopPeriodicTimer(c Caller, vcpu uint32) error {
	_, err := vcpuOp(c, VcpuopStopPeriodicTimer, "VCPUOP_stop_periodic_timer", vcpu, nil)
	return err
}

// SetSingleshotTimer has [VIRQTimer] come on a vCPU, once, when the system time is timeoutNS nanoseconds.
func SetSingleshotTimer(c Caller, vcpu uint32, timeoutNS uint64, flags uint32) error {
	arg := VCPUSetSingleshotTimer{TimeoutAbsNS: timeoutNS, Flags: flags}
	_, err := vcpuOp(c, VcpuopSetSingleshotTimer, "VCPUOP_set_singleshot_timer", vcpu, &arg)
	return err
}

// StopSingleshotTimer ends what SetSingleshotTimer began.
func StopSingleshotTimer(c Caller, vcpu uint32) error {
	_, err := vcpuOp(c, VcpuopStopSingleshotTimer, "VCPUOP_stop_singleshot_timer", vcpu, nil)
	return err
}

// SendNMI sends a non-maskable interrupt to a vCPU (x86 only).
func SendNMI(c Caller, vcpu uint32) error {
	_, err := vcpuOp(c, VcpuopSendNMI, "VCPUOP_send_nmi", vcpu, nil)
	return err
}

// vcpuOp makes the call vcpu_op(cmd, vcpu, &arg); arg may be nil.
func vcpuOp(c Caller, cmd uint64, name string, vcpu uint32, arg Struct) (uint64, error) {
	s := newScratch(NrVCPUOp, cmd, 0)
	defer s.free()
	s.call = Call{Nr: NrVCPUOp, Args: [5]uint64{cmd, uint64(vcpu)}, N: 3}
	abi := c.ABI()
	if arg != nil {
		s.buf = sized(s.buf, arg.Size(abi))
		arg.Marshal(abi, s.buf)
		s.call.Data, s.call.Ptr = s.buf, 2
	}
	r, err := c.Hypercall(&s.call)
	if err != nil {
		return 0, &OpError{Op: name, On: fmt.Sprintf("vCPU %d", vcpu), Err: err}
	}
	if arg != nil {
		arg.Unmarshal(abi, s.buf)
	}
	return r, nil
}
