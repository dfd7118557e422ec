package hypercall

import "fmt"

// The commands of hvm_op(cmd, arg) (HVMOP_* in public hvm/hvm_op.h).
const (
	HvmopSetParam              = 0
	HvmopGetParam              = 1
	HvmopGetTime               = 10
	HvmopSetEvtchnUpcallVector = 23 // x86 only
)

// Param is the number of a parameter of a domain (HVM_PARAM_* in public hvm/params.h). Domains of all kinds but x86 PV have them.
type Param uint32

// Parameters of domains.
const (
	ParamCallbackIRQ    Param = 0  // how vCPU 0 is told of events: CallbackTypeShift
	ParamStorePFN       Param = 1  // Xenstore's page, a guest frame number
	ParamStoreEvtchn    Param = 2  // Xenstore's event channel
	ParamIOReqPFN       Param = 5  // x86: the device model's page
	ParamBufIOReqPFN    Param = 6  // x86: the device model's other page
	ParamTimerMode      Param = 10 // x86
	ParamHPETEnabled    Param = 11 // x86
	ParamConsolePFN     Param = 17 // the console's page, a guest frame number
	ParamConsoleEvtchn  Param = 18 // the console's event channel
	ParamPagingRingPFN  Param = 27
	ParamMonitorRingPFN Param = 28
	ParamSharingRingPFN Param = 29
	ParamVMGenIDAddr    Param = 34 // x86: where the VM generation ID is
	NumParams                 = 39 // HVM_NR_PARAMS
)

// [ParamCallbackIRQ] has a type in its top byte and what that needs below.
const (
	CallbackTypeShift   = 56
	CallbackTypeGSI     = 0 // x86: a GSI
	CallbackTypePCIINTx = 1 // x86: a PCI interrupt line
	CallbackTypeVector  = 2 // x86: a vector, if [FeatureHVMCallbackVector] is there
	CallbackTypePPI     = 2 // ARM: a PPI, with its flags in bits 8 and 9
)

// HVMParam is a parameter of a domain (struct xen_hvm_param).
type HVMParam struct {
	Dom   DomID  // in
	Index Param  // in
	Value uint64 // in or out
}

func (m *HVMParam) layout(c *codec) {
	var pad uint16
	u16(c, &m.Dom)
	u16(c, &pad)
	u32(c, &m.Index)
	u64(c, &m.Value)
}

// HVMTime is Xen's time (struct xen_hvm_get_time).
type HVMTime struct {
	Now uint64 // out: nanoseconds since the machine started
}

func (m *HVMTime) layout(c *codec) { u64(c, &m.Now) }

// HVMUpcallVector is the vector by which a vCPU is told of events, through its local APIC (struct xen_hvm_evtchn_upcall_vector,
// x86 only).
type HVMUpcallVector struct {
	VCPU   uint32
	Vector uint8
}

func (m *HVMUpcallVector) layout(c *codec) {
	u32(c, &m.VCPU)
	u8(c, &m.Vector)
}

// GetParam returns a parameter of dom (DomSelf for the caller's). For pages and event channels 0 (for pages also ^0) says that there
// is none.
func GetParam(c Caller, dom DomID, idx Param) (uint64, error) {
	op := HVMParam{Dom: dom, Index: idx}
	if _, err := do(c, NrHVMOp, HvmopGetParam, &op); err != nil {
		return 0, &OpError{Op: "HVMOP_get_param", On: fmt.Sprintf("domain %d, parameter %d", dom, idx), Err: err}
	}
	return op.Value, nil
}

// SetParam sets a parameter of dom (DomSelf for the caller's).
func SetParam(c Caller, dom DomID, idx Param, v uint64) error {
	op := HVMParam{Dom: dom, Index: idx, Value: v}
	if _, err := do(c, NrHVMOp, HvmopSetParam, &op); err != nil {
		return &OpError{Op: "HVMOP_set_param", On: fmt.Sprintf("domain %d, parameter %d, value %#x", dom, idx, v), Err: err}
	}
	return nil
}

// SetUpcallVector sets the vector by which a vCPU is told of events (x86 only).
func SetUpcallVector(c Caller, vcpu uint32, vector uint8) error {
	op := HVMUpcallVector{VCPU: vcpu, Vector: vector}
	if _, err := do(c, NrHVMOp, HvmopSetEvtchnUpcallVector, &op); err != nil {
		return &OpError{Op: "HVMOP_set_evtchn_upcall_vector", On: fmt.Sprintf("vCPU %d, vector %#x", vcpu, vector), Err: err}
	}
	return nil
}
