package hypercall

import "fmt"

// SetTimer has [VIRQTimer] come on this vCPU when the system time is deadlineNS nanoseconds (set_timer_op, public xen.h); 0 ends it.
// The word is passed whole in 64-bit ABIs, and in two halves on 32-bit x86. Xen on ARM does not have it.
func SetTimer(c Caller, deadlineNS uint64) error {
	call := Call{Nr: NrSetTimerOp, Args: [5]uint64{deadlineNS}, N: 1}
	if c.ABI() == X86_32 {
		call.Args, call.N = [5]uint64{deadlineNS & 0xFFFFFFFF, deadlineNS >> 32}, 2
	}
	if _, err := c.Hypercall(&call); err != nil {
		return &OpError{Op: "set_timer_op", On: fmt.Sprintf("deadline %d ns", deadlineNS), Err: err}
	}
	return nil
}

// TimerDeadline is what a set_timer_op call asks for, in nanoseconds of system time.
func (c *Call) TimerDeadline(abi ABI) uint64 {
	if abi == X86_32 {
		return c.Args[1]<<32 | c.Args[0]&0xFFFFFFFF
	}
	return c.Args[0]
}
