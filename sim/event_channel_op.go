package sim

import "github.com/hvkit/hvkit/xen/hypercall"

// eventChannelOp is event_channel_op. Sends and unmasks are on the data path.
func (d *guest) eventChannelOp(c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.EvtchnopSend:
		n, err := onPort(c)
		if err != nil {
			return err
		}
		return d.send(n)
	case hypercall.EvtchnopUnmask:
		n, err := onPort(c)
		if err != nil {
			return err
		}
		return d.unmask(n)
	case hypercall.EvtchnopAllocUnbound, hypercall.EvtchnopBindInterdomain, hypercall.EvtchnopBindVIRQ, hypercall.EvtchnopBindIPI:
		return d.openPort(c)
	case hypercall.EvtchnopStatus:
		return answer(c, d.abi, new(hypercall.EvtchnStatus), func(op *hypercall.EvtchnStatus) (err error) {
			*op, err = d.portStatus(op.Dom, op.Port)
			return err
		})
	case hypercall.EvtchnopClose:
		return answer(c, d.abi, new(hypercall.EvtchnClose), func(op *hypercall.EvtchnClose) error {
			d.note("close port %d", op.Port)
			return d.closePort(op.Port)
		})
	case hypercall.EvtchnopBindVCPU:
		return answer(c, d.abi, new(hypercall.EvtchnBindVCPU), func(op *hypercall.EvtchnBindVCPU) error {
			return d.bindVCPU(op.Port, op.VCPU)
		})
	case hypercall.EvtchnopReset:
		return answer(c, d.abi, new(hypercall.EvtchnReset), func(op *hypercall.EvtchnReset) error {
			t, err := d.reset(op.Dom)
			if err == nil {
				t.note("all ports were reset")
			}
			return err
		})
	}
	return hypercall.ENOSYS
}

// openPort is the commands that open a port.
func (d *guest) openPort(c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.EvtchnopAllocUnbound:
		return answer(c, d.abi, new(hypercall.EvtchnAllocUnbound), func(op *hypercall.EvtchnAllocUnbound) (err error) {
			op.Port, err = d.allocUnbound(op.Dom, op.RemoteDom)
			d.note("alloc_unbound for d%d: port %d, %v", op.RemoteDom, op.Port, err)
			return err
		})
	case hypercall.EvtchnopBindInterdomain:
		return answer(c, d.abi, new(hypercall.EvtchnBindInterdomain), func(op *hypercall.EvtchnBindInterdomain) (err error) {
			op.LocalPort, err = d.bindInterdomain(op.RemoteDom, op.RemotePort)
			d.note("bind_interdomain d%d port %d: port %d, %v", op.RemoteDom, op.RemotePort, op.LocalPort, err)
			return err
		})
	case hypercall.EvtchnopBindVIRQ:
		return answer(c, d.abi, new(hypercall.EvtchnBindVIRQ), func(op *hypercall.EvtchnBindVIRQ) (err error) {
			op.Port, err = d.bindVIRQ(op.VIRQ, op.VCPU)
			d.note("bind_virq %d: port %d, %v", op.VIRQ, op.Port, err)
			return err
		})
	}
	return answer(c, d.abi, new(hypercall.EvtchnBindIPI), func(op *hypercall.EvtchnBindIPI) (err error) {
		op.Port, err = d.bindIPI(op.VCPU)
		d.note("bind_ipi: port %d, %v", op.Port, err)
		return err
	})
}
