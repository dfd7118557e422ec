package hypercall

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// The commands of sched_op(cmd, arg) (SCHEDOP_* in public sched.h).
const (
	SchedopYield          = 0
	SchedopBlock          = 1
	SchedopShutdown       = 2
	SchedopPoll           = 3
	SchedopRemoteShutdown = 4
	SchedopShutdownCode   = 5
	SchedopWatchdog       = 6
	SchedopPinOverride    = 7
)

// ShutdownReason says why a domain stops (SHUTDOWN_*).
type ShutdownReason uint32

// Why a domain stops.
const (
	ShutdownPoweroff  ShutdownReason = 0
	ShutdownReboot    ShutdownReason = 1
	ShutdownSuspend   ShutdownReason = 2
	ShutdownCrash     ShutdownReason = 3
	ShutdownWatchdog  ShutdownReason = 4
	ShutdownSoftReset ShutdownReason = 5
)

func (r ShutdownReason) String() string {
	names := [...]string{"poweroff", "reboot", "suspend", "crash", "watchdog", "soft reset"}
	if int64(r) < int64(len(names)) {
		return names[r]
	}
	return "ShutdownReason(" + strconv.FormatUint(uint64(r), 10) + ")"
}

// SchedShutdown stops the caller (struct sched_shutdown).
type SchedShutdown struct{ Reason ShutdownReason }

func (m *SchedShutdown) layout(c *codec) { u32(c, &m.Reason) }

// SchedPoll waits for ports (struct sched_poll).
type SchedPoll struct {
	Ports   uint64 // guest handle of NrPorts evtchn_port_t
	NrPorts uint32
	Timeout uint64 // system time in nanoseconds, or 0 for none
}

func (m *SchedPoll) layout(c *codec) {
	guestHandle(c, &m.Ports)
	u32(c, &m.NrPorts)
	u64(c, &m.Timeout)
}

// PortsOffset is where the guest handle is, for [Call.Ref].
func (m *SchedPoll) PortsOffset(abi ABI) int {
	c := measure(abi)
	m.layout(&c)
	return c.handle
}

// SchedRemoteShutdown stops another domain (struct sched_remote_shutdown).
type SchedRemoteShutdown struct {
	Dom    DomID
	Reason ShutdownReason
}

func (m *SchedRemoteShutdown) layout(c *codec) {
	u16(c, &m.Dom)
	u32(c, &m.Reason)
}

// SchedWatchdog sets a watchdog (struct sched_watchdog).
type SchedWatchdog struct {
	ID      uint32 // 0 for a new one
	Timeout uint32 // seconds; 0 ends it
}

func (m *SchedWatchdog) layout(c *codec) {
	u32(c, &m.ID)
	u32(c, &m.Timeout)
}

// Yield lets other vCPUs run.
func Yield(c Caller) error {
	return schedNull(c, SchedopYield, "SCHEDOP_yield")
}

// Block enables event delivery on this vCPU and stops it until an event is pending. A bare guest calls it with events disabled, so
// that none is lost between its last look and here.
func Block(c Caller) error {
	return schedNull(c, SchedopBlock, "SCHEDOP_block")
}

func schedNull(c Caller, cmd uint64, name string) error {
	s := newScratch(NrSchedOp, cmd, 0)
	s.call.Data, s.call.Ptr = nil, 0
	_, err := c.Hypercall(&s.call)
	s.free()
	if err != nil {
		return &OpError{Op: name, Err: err}
	}
	return nil
}

// Shutdown stops the domain. On bare Xen it does not return, but for [ShutdownSuspend], which [Suspend] is for.
func Shutdown(c Caller, reason ShutdownReason) error {
	if _, err := do(c, NrSchedOp, SchedopShutdown, &SchedShutdown{Reason: reason}); err != nil {
		return &OpError{Op: "SCHEDOP_shutdown", On: reason.String(), Err: err}
	}
	return nil
}

// Suspend stops the domain, to be resumed by its toolstack: here, or elsewhere with another id. It returns when the domain runs again.
// cancelled says that the suspending came to nothing (Xen's answer is 1): the domain is what it was, and its grants, ports and
// shared_info page are still there.
func Suspend(c Caller) (cancelled bool, err error) {
	r, err := do(c, NrSchedOp, SchedopShutdown, &SchedShutdown{Reason: ShutdownSuspend})
	if err != nil {
		return false, &OpError{Op: "SCHEDOP_shutdown", On: ShutdownSuspend.String(), Err: err}
	}
	return r == 1, nil
}

// MaxPollPorts is the most ports that [Poll] can wait for (Xen's common/sched/core.c).
const MaxPollPorts = 128

// Poll stops the vCPU until one of the ports is pending (masked ones count), or the system time is timeoutNS nanoseconds; 0 is no
// timeout. It returns at once if one is pending already. Which one it is, and whether any, is for the caller to see.
func Poll(c Caller, ports []Port, timeoutNS uint64) error {
	if len(ports) > MaxPollPorts {
		return &OpError{Op: "SCHEDOP_poll", On: fmt.Sprintf("%d ports", len(ports)), Err: EINVAL}
	}
	abi := c.ABI()
	op := SchedPoll{NrPorts: uint32(len(ports)), Timeout: timeoutNS}
	s := newScratch(NrSchedOp, SchedopPoll, op.Size(abi))
	op.Marshal(abi, s.buf)
	list := s.withList(op.PortsOffset(abi), 4*len(ports))
	for i, p := range ports {
		binary.LittleEndian.PutUint32(list[4*i:], uint32(p))
	}
	_, err := c.Hypercall(&s.call)
	s.free()
	if err != nil {
		return &OpError{Op: "SCHEDOP_poll", On: fmt.Sprintf("%d ports", len(ports)), Err: err}
	}
	return nil
}

// SetWatchdog has Xen stop the domain unless it is called again within timeout seconds. id is 0 for a new watchdog, whose id is
// returned. A timeout of 0 ends the watchdog.
func SetWatchdog(c Caller, id, timeout uint32) (uint32, error) {
	r, err := do(c, NrSchedOp, SchedopWatchdog, &SchedWatchdog{ID: id, Timeout: timeout})
	if err != nil {
		return 0, &OpError{Op: "SCHEDOP_watchdog", On: fmt.Sprintf("watchdog %d, %d s", id, timeout), Err: err}
	}
	return uint32(r), nil
}
