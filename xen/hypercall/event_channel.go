package hypercall

import (
	"fmt"
	"strconv"
)

// The commands of event_channel_op(cmd, arg) (EVTCHNOP_* in public event_channel.h).
const (
	EvtchnopBindInterdomain = 0
	EvtchnopBindVIRQ        = 1
	EvtchnopBindPIRQ        = 2
	EvtchnopClose           = 3
	EvtchnopSend            = 4
	EvtchnopStatus          = 5
	EvtchnopAllocUnbound    = 6
	EvtchnopBindIPI         = 7
	EvtchnopBindVCPU        = 8
	EvtchnopUnmask          = 9
	EvtchnopReset           = 10
	EvtchnopInitControl     = 11
	EvtchnopExpandArray     = 12
	EvtchnopSetPriority     = 13
)

// Virtual interrupts (VIRQ_* in public xen.h). Global ones go to one domain, the others to each vCPU.
const (
	VIRQTimer     VIRQ = 0 // per vCPU: timebase update or timeout
	VIRQDebug     VIRQ = 1 // per vCPU: the guest shall dump debug information
	VIRQConsole   VIRQ = 2 // global: input on the emergency console
	VIRQDomExc    VIRQ = 3 // global: something happened to some domain
	VIRQTbuf      VIRQ = 4 // global: trace records
	VIRQDebugger  VIRQ = 6 // global: a domain was paused for debugging
	VIRQXenoprof  VIRQ = 7
	VIRQConRing   VIRQ = 8  // global: output on the console
	VIRQPCPUState VIRQ = 9  // global
	VIRQMemEvent  VIRQ = 10 // global
	VIRQArgo      VIRQ = 11 // global: an Argo message
	VIRQEnomem    VIRQ = 12 // global: Xen's heap is low
	VIRQXenpmu    VIRQ = 13
	NumVIRQs           = 24 // NR_VIRQS
)

// ChannelState is the state of an event channel (EVTCHNSTAT_*).
type ChannelState uint32

// The states of an event channel.
const (
	EvtchnClosed      ChannelState = 0
	EvtchnUnbound     ChannelState = 1 // waits for a domain to bind to it
	EvtchnInterdomain ChannelState = 2 // connected to another domain's (or this one's) port
	EvtchnPIRQ        ChannelState = 3
	EvtchnVIRQ        ChannelState = 4
	EvtchnIPI         ChannelState = 5
)

func (s ChannelState) String() string {
	names := [...]string{"closed", "unbound", "interdomain", "pirq", "virq", "ipi"}
	if int64(s) < int64(len(names)) {
		return names[s]
	}
	return "ChannelState(" + strconv.FormatUint(uint64(s), 10) + ")"
}

// EvtchnAllocUnbound makes a channel for a domain to bind to (struct evtchn_alloc_unbound).
type EvtchnAllocUnbound struct {
	Dom, RemoteDom DomID // in
	Port           Port  // out
}

func (m *EvtchnAllocUnbound) layout(c *codec) {
	u16(c, &m.Dom)
	u16(c, &m.RemoteDom)
	u32(c, &m.Port)
}

// EvtchnBindInterdomain binds to another domain's unbound channel (struct evtchn_bind_interdomain).
type EvtchnBindInterdomain struct {
	RemoteDom  DomID // in
	RemotePort Port  // in
	LocalPort  Port  // out
}

func (m *EvtchnBindInterdomain) layout(c *codec) {
	u16(c, &m.RemoteDom)
	u32(c, &m.RemotePort)
	u32(c, &m.LocalPort)
}

// EvtchnBindVIRQ makes a channel for a virtual interrupt (struct evtchn_bind_virq).
type EvtchnBindVIRQ struct {
	VIRQ VIRQ   // in
	VCPU uint32 // in
	Port Port   // out
}

func (m *EvtchnBindVIRQ) layout(c *codec) {
	u32(c, &m.VIRQ)
	u32(c, &m.VCPU)
	u32(c, &m.Port)
}

// EvtchnBindIPI makes a channel to the domain itself (struct evtchn_bind_ipi).
type EvtchnBindIPI struct {
	VCPU uint32 // in
	Port Port   // out
}

func (m *EvtchnBindIPI) layout(c *codec) {
	u32(c, &m.VCPU)
	u32(c, &m.Port)
}

// EvtchnClose frees a port (struct evtchn_close).
type EvtchnClose struct{ Port Port }

func (m *EvtchnClose) layout(c *codec) { u32(c, &m.Port) }

// EvtchnSend notifies the other end (struct evtchn_send).
type EvtchnSend struct{ Port Port }

func (m *EvtchnSend) layout(c *codec) { u32(c, &m.Port) }

// EvtchnUnmask clears a port's mask bit, and delivers what is pending (struct evtchn_unmask).
type EvtchnUnmask struct{ Port Port }

func (m *EvtchnUnmask) layout(c *codec) { u32(c, &m.Port) }

// EvtchnReset closes all channels of a domain (struct evtchn_reset).
type EvtchnReset struct{ Dom DomID }

func (m *EvtchnReset) layout(c *codec) { u16(c, &m.Dom) }

// EvtchnBindVCPU has a port's events delivered to a vCPU (struct evtchn_bind_vcpu).
type EvtchnBindVCPU struct {
	Port Port
	VCPU uint32
}

func (m *EvtchnBindVCPU) layout(c *codec) {
	u32(c, &m.Port)
	u32(c, &m.VCPU)
}

// EvtchnStatus says what a channel is (struct evtchn_status). The members after VCPU share memory; State says which of them count,
// and the others are zero.
type EvtchnStatus struct {
	Dom        DomID        // in: whose
	Port       Port         // in
	State      ChannelState // out
	VCPU       uint32       // out: where events are delivered
	RemoteDom  DomID        // out: for EvtchnUnbound and EvtchnInterdomain
	RemotePort Port         // out: for EvtchnInterdomain
	PIRQ       uint32       // out: for EvtchnPIRQ
	VIRQ       VIRQ         // out: for EvtchnVIRQ
}

func (m *EvtchnStatus) layout(c *codec) {
	u16(c, &m.Dom)
	u32(c, &m.Port)
	u32(c, &m.State)
	u32(c, &m.VCPU)
	if c.mode == reading {
		m.RemoteDom, m.RemotePort, m.PIRQ, m.VIRQ = 0, 0, 0, 0
	}
	switch m.State {
	case EvtchnUnbound:
		u16(c, &m.RemoteDom)
	case EvtchnInterdomain:
		u16(c, &m.RemoteDom)
		u32(c, &m.RemotePort)
	case EvtchnPIRQ:
		u32(c, &m.PIRQ)
	case EvtchnVIRQ:
		u32(c, &m.VIRQ)
	}
	c.pad(evtchnStatusSize)
}

// evtchnStatusSize is the size of struct evtchn_status, whichever member of its union counts.
const evtchnStatusSize = 24

// EvtchnInitControl starts FIFO event channels on a vCPU (struct evtchn_init_control).
type EvtchnInitControl struct {
	ControlGFN uint64 // in
	Offset     uint32 // in
	VCPU       uint32 // in
	LinkBits   uint8  // out
}

func (m *EvtchnInitControl) layout(c *codec) {
	var pad [7]byte
	u64(c, &m.ControlGFN)
	u32(c, &m.Offset)
	u32(c, &m.VCPU)
	u8(c, &m.LinkBits)
	chars(c, pad[:])
}

// EvtchnExpandArray adds a page to the FIFO event array (struct evtchn_expand_array).
type EvtchnExpandArray struct{ ArrayGFN uint64 }

func (m *EvtchnExpandArray) layout(c *codec) { u64(c, &m.ArrayGFN) }

// EvtchnSetPriority sets the priority of a FIFO channel (struct evtchn_set_priority).
type EvtchnSetPriority struct {
	Port     Port
	Priority uint32 // 0, the highest, to 15
}

func (m *EvtchnSetPriority) layout(c *codec) {
	u32(c, &m.Port)
	u32(c, &m.Priority)
}

// AllocUnbound makes a port of dom's (DomSelf for the caller) that the domain remote may bind to.
func AllocUnbound(c Caller, dom, remote DomID) (Port, error) {
	op := EvtchnAllocUnbound{Dom: dom, RemoteDom: remote}
	if _, err := do(c, NrEventChannelOp, EvtchnopAllocUnbound, &op); err != nil {
		return 0, &OpError{"EVTCHNOP_alloc_unbound", fmt.Sprintf("domain %d for domain %d", dom, remote), err}
	}
	return op.Port, nil
}

// BindInterdomain makes a port that is connected to a port of the domain remote, which must be unbound and meant for the caller.
func BindInterdomain(c Caller, remote DomID, port Port) (Port, error) {
	op := EvtchnBindInterdomain{RemoteDom: remote, RemotePort: port}
	if _, err := do(c, NrEventChannelOp, EvtchnopBindInterdomain, &op); err != nil {
		return 0, &OpError{"EVTCHNOP_bind_interdomain", fmt.Sprintf("domain %d, port %d", remote, port), err}
	}
	return op.LocalPort, nil
}

// BindVIRQ makes a port on which a virtual interrupt arrives. Global ones are bound with vCPU 0.
func BindVIRQ(c Caller, v VIRQ, vcpu uint32) (Port, error) {
	op := EvtchnBindVIRQ{VIRQ: v, VCPU: vcpu}
	if _, err := do(c, NrEventChannelOp, EvtchnopBindVIRQ, &op); err != nil {
		return 0, &OpError{"EVTCHNOP_bind_virq", fmt.Sprintf("VIRQ %d, vCPU %d", v, vcpu), err}
	}
	return op.Port, nil
}

// BindIPI makes a port of the domain to itself, delivered on the given vCPU.
func BindIPI(c Caller, vcpu uint32) (Port, error) {
	op := EvtchnBindIPI{VCPU: vcpu}
	if _, err := do(c, NrEventChannelOp, EvtchnopBindIPI, &op); err != nil {
		return 0, &OpError{"EVTCHNOP_bind_ipi", fmt.Sprintf("vCPU %d", vcpu), err}
	}
	return op.Port, nil
}

// BindVCPU has the events of a port delivered on the given vCPU.
func BindVCPU(c Caller, port Port, vcpu uint32) error {
	op := EvtchnBindVCPU{Port: port, VCPU: vcpu}
	if _, err := do(c, NrEventChannelOp, EvtchnopBindVCPU, &op); err != nil {
		return &OpError{"EVTCHNOP_bind_vcpu", fmt.Sprintf("port %d, vCPU %d", port, vcpu), err}
	}
	return nil
}

// ClosePort frees a port. Its other end becomes unbound.
func ClosePort(c Caller, port Port) error {
	return portOp(c, EvtchnopClose, "EVTCHNOP_close", port)
}

// SendEvent notifies the other end of a port. It does nothing if the other end is closed.
func SendEvent(c Caller, port Port) error {
	return portOp(c, EvtchnopSend, "EVTCHNOP_send", port)
}

// UnmaskPort clears the mask bit of a port, and has it delivered if it is pending.
func UnmaskPort(c Caller, port Port) error {
	return portOp(c, EvtchnopUnmask, "EVTCHNOP_unmask", port)
}

// portOp does one of the commands whose structure is a port alone. These are on data paths: it does not allocate.
func portOp(c Caller, cmd uint64, name string, port Port) error {
	abi := c.ABI()
	op := EvtchnSend{Port: port}
	s := newScratch(NrEventChannelOp, cmd, op.Size(abi))
	op.Marshal(abi, s.buf)
	_, err := c.Hypercall(&s.call)
	s.free()
	if err != nil {
		return &OpError{name, "port " + strconv.FormatUint(uint64(port), 10), err}
	}
	return nil
}

// PortStatus returns what a port of dom's (DomSelf for the caller) is.
func PortStatus(c Caller, dom DomID, port Port) (EvtchnStatus, error) {
	op := EvtchnStatus{Dom: dom, Port: port}
	if _, err := do(c, NrEventChannelOp, EvtchnopStatus, &op); err != nil {
		return EvtchnStatus{}, &OpError{"EVTCHNOP_status", fmt.Sprintf("domain %d, port %d", dom, port), err}
	}
	return op, nil
}

// ResetEvents closes all ports of dom, and ends its use of FIFO event channels.
func ResetEvents(c Caller, dom DomID) error {
	if _, err := do(c, NrEventChannelOp, EvtchnopReset, &EvtchnReset{Dom: dom}); err != nil {
		return &OpError{"EVTCHNOP_reset", fmt.Sprintf("domain %d", dom), err}
	}
	return nil
}
