package sim

import (
	"fmt"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// port is one event channel of a domain, as Xen's struct evtchn is (common/event_channel.c). The zero port is closed.
type port struct {
	state  hypercall.ChannelState
	remote hypercall.DomID // who may bind (unbound) or is bound (interdomain)
	peer   hypercall.Port  // the other end's number (interdomain)
	virq   hypercall.VIRQ
	back   *hostChannel // the other end, where that is the host itself: the Xenstore server's end of a domain's store channel
	wires  wires
}

// portsPerBucket is how many ports Xen makes room for at a time (EVTCHNS_PER_BUCKET): calls that only look at a port take any number that
// there is room for.
const portsPerBucket = 64

// maxPorts is how many ports a domain has at most: EVTCHN_2L_NR_CHANNELS of its ABI.
func (d *guest) maxPorts() int { return d.abi.SharedInfo().Ports() }

// freePort finds a closed port, or says ENOSPC.
func (d *guest) freePort() (hypercall.Port, error) {
	for i := 1; i < len(d.ports); i++ {
		if d.ports[i].state == hypercall.EvtchnClosed {
			return hypercall.Port(i), nil
		}
	}
	n := max(len(d.ports), 1)
	if n >= min(d.maxPorts(), d.limits.Ports+1) {
		return 0, hypercall.ENOSPC
	}
	d.ports = append(d.ports, make([]port, n+1-len(d.ports))...)
	return hypercall.Port(n), nil
}

// port returns an open port, or EINVAL.
func (d *guest) port(n hypercall.Port) (*port, error) {
	if n == 0 || uint64(n) >= uint64(len(d.ports)) || d.ports[n].state == hypercall.EvtchnClosed {
		return nil, hypercall.EINVAL
	}
	return &d.ports[n], nil
}

// isValid reports whether Xen has room for the port, open or not (port_is_valid).
func (d *guest) isValid(n hypercall.Port) bool {
	buckets := (max(len(d.ports), 1) + portsPerBucket - 1) / portsPerBucket
	return uint64(n) < uint64(min(buckets*portsPerBucket, d.maxPorts()))
}

func (d *guest) allocUnbound(id, remote hypercall.DomID) (hypercall.Port, error) {
	t, err := d.target(id)
	if err != nil {
		return 0, err
	}
	n, err := t.freePort()
	if err != nil {
		return 0, err
	}
	p := port{state: hypercall.EvtchnUnbound, remote: d.self(remote)}
	if t.remote {
		if p.wires, err = unboundWires(); err != nil {
			return 0, hypercall.ENOMEM
		}
	}
	t.ports[n] = p
	return n, nil
}

func (d *guest) bindInterdomain(remoteID hypercall.DomID, remotePort hypercall.Port) (hypercall.Port, error) {
	r, ok := d.xen.domains[d.self(remoteID)]
	if !ok {
		return 0, hypercall.ESRCH
	}
	n, err := d.freePort() // first, since it may move d.ports, which may be r.ports
	if err != nil {
		return 0, err
	}
	rp, err := r.port(remotePort)
	if err != nil || rp.state != hypercall.EvtchnUnbound || rp.remote != d.id {
		return 0, hypercall.EINVAL
	}
	p := port{state: hypercall.EvtchnInterdomain, remote: r.id, peer: remotePort}
	if d.remote || r.remote {
		if err := d.cross(n, &p, r, remotePort, rp); err != nil {
			return 0, hypercall.ENOMEM
		}
	}
	d.ports[n] = p
	rp.state, rp.remote, rp.peer = hypercall.EvtchnInterdomain, d.id, n
	// What was sent while nobody was bound was dropped; Xen makes up for it with one event for the new end. In another process it is
	// made there, so that it has arrived when the call returns.
	if !d.remote {
		d.pend(n)
	}
	return n, nil
}

// isPerVCPU reports whether each vCPU has the virtual interrupt for itself (VIRQ_VCPU of get_virq_type).
func isPerVCPU(v hypercall.VIRQ) bool {
	return v == hypercall.VIRQTimer || v == hypercall.VIRQDebug || v == hypercall.VIRQXenoprof || v == hypercall.VIRQXenpmu
}

func (d *guest) bindVIRQ(v hypercall.VIRQ, vcpu uint32) (hypercall.Port, error) {
	if v >= hypercall.NumVIRQs || !isPerVCPU(v) && vcpu != 0 {
		return 0, hypercall.EINVAL
	}
	if vcpu != 0 {
		return 0, hypercall.ENOENT // one vCPU is all that a simulated domain has
	}
	for i := range d.ports {
		if d.ports[i].state == hypercall.EvtchnVIRQ && d.ports[i].virq == v {
			return 0, hypercall.EEXIST
		}
	}
	return d.bindLocal(port{state: hypercall.EvtchnVIRQ, virq: v})
}

func (d *guest) bindIPI(vcpu uint32) (hypercall.Port, error) {
	if vcpu != 0 {
		return 0, hypercall.ENOENT
	}
	return d.bindLocal(port{state: hypercall.EvtchnIPI})
}

// bindLocal opens a port that has no other end.
func (d *guest) bindLocal(p port) (hypercall.Port, error) {
	n, err := d.freePort()
	if err != nil {
		return 0, err
	}
	if d.remote {
		if p.wires, err = localWires(); err != nil {
			return 0, hypercall.ENOMEM
		}
	}
	d.ports[n] = p
	return n, nil
}

func (d *guest) bindVCPU(n hypercall.Port, vcpu uint32) error {
	if vcpu != 0 {
		return hypercall.ENOENT
	}
	p, err := d.port(n)
	if err != nil || p.state == hypercall.EvtchnIPI || p.state == hypercall.EvtchnVIRQ && isPerVCPU(p.virq) {
		return hypercall.EINVAL
	}
	return nil
}

func (d *guest) closePort(n hypercall.Port) error {
	p, err := d.port(n)
	if err != nil {
		return err
	}
	if p.state == hypercall.EvtchnInterdomain && p.back == nil {
		d.disconnect(p)
	}
	d.xen.dropWires(p)
	if !d.remote {
		d.bits.ClearPending(n) // evtchn_free
	}
	d.ports[n] = port{}
	return nil
}

// disconnect makes the other end of an interdomain channel unbound again, for this domain to bind to.
func (d *guest) disconnect(p *port) {
	r, ok := d.xen.domains[p.remote]
	if !ok {
		return
	}
	if rp, err := r.port(p.peer); err == nil && rp.state == hypercall.EvtchnInterdomain && rp.remote == d.id && rp.back == nil {
		rp.state, rp.peer = hypercall.EvtchnUnbound, 0
	}
}

func (d *guest) send(n hypercall.Port) error {
	p, err := d.port(n)
	if err != nil {
		return err
	}
	switch p.state {
	case hypercall.EvtchnInterdomain:
		if p.back != nil {
			d.xen.after(p.back.taker)
			return nil
		}
		if r, ok := d.xen.domains[p.remote]; ok {
			r.pend(p.peer)
		}
		return nil
	case hypercall.EvtchnIPI:
		d.pend(n)
		return nil
	case hypercall.EvtchnUnbound: // silently dropped, as Xen does
		return nil
	}
	return hypercall.EINVAL
}

// raise sends a virtual interrupt, if the domain has bound it.
func (d *guest) raise(v hypercall.VIRQ) {
	for i := range d.ports {
		if d.ports[i].state == hypercall.EvtchnVIRQ && d.ports[i].virq == v {
			d.pend(hypercall.Port(i))
		}
	}
}

func (d *guest) portStatus(id hypercall.DomID, n hypercall.Port) (hypercall.EvtchnStatus, error) {
	t, err := d.target(id)
	if err != nil {
		return hypercall.EvtchnStatus{}, err
	}
	if !t.isValid(n) {
		return hypercall.EvtchnStatus{}, hypercall.EINVAL
	}
	st := hypercall.EvtchnStatus{Dom: id, Port: n}
	p, err := t.port(n)
	if err != nil {
		return st, nil // a closed port has a status too
	}
	st.State = p.state
	switch p.state {
	case hypercall.EvtchnUnbound:
		st.RemoteDom = p.remote
	case hypercall.EvtchnInterdomain:
		st.RemoteDom, st.RemotePort = p.remote, p.peer
	case hypercall.EvtchnVIRQ:
		st.VIRQ = p.virq
	}
	return st, nil
}

// unmask clears the port's mask bit and delivers what came meanwhile (evtchn_2l_unmask).
func (d *guest) unmask(n hypercall.Port) error {
	if !d.isValid(n) {
		return hypercall.EINVAL
	}
	if d.remote {
		return nil // the process that plays Xen to it does that
	}
	if d.bits.Unmask(n) {
		d.xen.kick(d.vcpu)
	}
	return nil
}

// reset is EVTCHNOP_reset: all ports of a domain are closed. Another domain must be paused for it.
func (d *guest) reset(id hypercall.DomID) (t *guest, err error) {
	if t, err = d.target(id); err != nil {
		return nil, err
	}
	if t != d && t.state != statePaused {
		return nil, hypercall.EINVAL
	}
	t.closePorts()
	return t, nil
}

// closePorts closes every port.
func (d *guest) closePorts() {
	for i := range d.ports {
		if d.ports[i].state != hypercall.EvtchnClosed {
			d.closePort(hypercall.Port(i))
		}
	}
}

// pend makes an event arrive at a port of the domain.
func (d *guest) pend(n hypercall.Port) {
	if d.remote {
		d.ports[n].wires.ring()
		return
	}
	if d.bits.Pend(n) {
		d.xen.kick(d.vcpu)
	}
}

// hostPort opens a port of the domain whose other end is the host.
func (d *guest) hostPort() (*hostChannel, error) {
	n, err := d.freePort()
	if err != nil {
		return nil, fmt.Errorf("open a port to the host: %w", err)
	}
	c := &hostChannel{d: d, port: n, taker: func() {}}
	p := port{state: hypercall.EvtchnInterdomain, remote: 0, peer: n, back: c}
	if d.remote {
		if p.wires, err = hostWires(); err != nil {
			return nil, err
		}
		if err := d.watchHost(c, &p); err != nil {
			d.xen.dropWires(&p)
			return nil, err
		}
	}
	d.ports[n] = p
	return c, nil
}

// hostChannel is the host's own end of a domain's event channel, as hypervisor keeps it. [hostEnd] is the shell around it.
type hostChannel struct {
	d     *guest
	port  hypercall.Port
	taker func() // runs when the domain sends
}

// live reports whether the channel is open still.
func (c *hostChannel) live() bool {
	p, err := c.d.port(c.port)
	return err == nil && p.back == c
}

// notify makes an event arrive in the domain.
func (c *hostChannel) notify() {
	if c.live() {
		c.d.pend(c.port)
	}
}

// rung is what happens when a domain of another process sends.
func (c *hostChannel) rung() {
	if c.live() {
		c.d.xen.after(c.taker)
	}
}

// close closes the channel. The domain's end goes with it: nobody else can bind to it.
func (c *hostChannel) close() {
	if c.live() {
		c.d.closePort(c.port)
	}
}
