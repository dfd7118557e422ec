package attach

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// line is this domain's end of an event channel.
type line struct {
	rx    *Ear
	tx    *Event // nil where nothing can be sent: on a virtual interrupt's port
	watch int32

	mu sync.Mutex
	// +checklocks:mu
	gone bool // nothing arrives any more
}

// eventChannelOp answers what concerns pending bits and sends here, and has the host answer the rest.
func (m *Machine) eventChannelOp(gen uint32, c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.EvtchnopSend:
		return m.send(gen, c)
	case hypercall.EvtchnopUnmask:
		return m.unmask(gen, c)
	case hypercall.EvtchnopClose:
		_, err := m.forward(gen, c, func(*Message, FDs) error {
			if n, ok := portOf(c); ok {
				m.dropLine(n)
			}
			return nil
		})
		return err
	case hypercall.EvtchnopReset:
		_, err := m.forward(gen, c, func(*Message, FDs) error {
			var op hypercall.EvtchnReset
			if c.Decode(m.abi, 0, &op) == nil && (op.Dom == hypercall.DomSelf || uint32(op.Dom) == m.id.Load()) {
				m.dropLines()
			}
			return nil
		})
		return err
	}
	_, err := m.forward(gen, c, func(r *Message, fds FDs) error {
		err := m.open(r, fds)
		if err == nil && c.Args[0] == hypercall.EvtchnopBindInterdomain {
			m.arrive(r.Port) // Xen's first event, for what may have been lost before
		}
		return err
	})
	return err
}

// portOf reads the port that a call's structure consists of.
func portOf(c *hypercall.Call) (hypercall.Port, bool) {
	if len(c.Data) < 4 {
		return 0, false
	}
	return hypercall.Port(binary.LittleEndian.Uint32(c.Data)), true
}

func (m *Machine) line(n hypercall.Port) *line {
	if uint64(n) >= uint64(len(m.ports)) {
		return nil
	}
	return m.ports[n].Load()
}

// send is one write to the peer's descriptor.
func (m *Machine) send(gen uint32, c *hypercall.Call) error {
	if n, ok := portOf(c); ok {
		if l := m.line(n); l != nil && l.tx != nil {
			l.tx.Ring()
			return nil
		}
	}
	_, err := m.forward(gen, c, nil) // which is an error: the host has the word for it
	return err
}

func (m *Machine) unmask(gen uint32, c *hypercall.Call) error {
	n, ok := portOf(c)
	if !ok {
		return hypercall.EFAULT
	}
	if m.line(n) == nil {
		_, err := m.forward(gen, c, nil)
		return err
	}
	if m.bits.Unmask(n) {
		m.kick()
	}
	return nil
}

// open takes over the descriptors of a port that a call opened.
func (m *Machine) open(r *Message, fds FDs) error {
	switch {
	case len(fds) == 1 && r.Port != 0:
		return m.addLine(r.Port, fds.Ear(0), nil)
	case len(fds) == 2 && r.Port != 0:
		return m.addLine(r.Port, fds.Ear(0), fds.Event(1))
	case len(fds) == 0 && r.Port == 0:
		return nil
	}
	return fmt.Errorf("%w: %d descriptors with port %d", ErrMessage, len(fds), r.Port)
}

func (m *Machine) addLine(n hypercall.Port, rx *Ear, tx *Event) error {
	l := &line{rx: rx, tx: tx}
	if n == 0 || uint64(n) >= uint64(len(m.ports)) {
		l.close()
		return fmt.Errorf("%w: port %d", ErrMessage, n)
	}
	m.dropLine(n) // which the host must have closed
	watch, err := m.poller.Watch(rx, func() {
		if l.pend(m.bits, n) {
			m.kick()
		}
	})
	if err != nil {
		l.close()
		return err
	}
	l.watch = watch
	m.ports[n].Store(l)
	return nil
}

// pend makes an event pending on the port, unless it was closed: then the port may be another's already.
func (l *line) pend(bits *EventBits, n hypercall.Port) (kick bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.gone && bits.Pend(n)
}

// leave has nothing arrive any more. What was pending is dropped, as when Xen closes a port (evtchn_free of
// xen/common/event_channel.c).
func (l *line) leave(bits *EventBits, n hypercall.Port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	bits.ClearPending(n)
}

func (l *line) close() {
	l.rx.Close()
	if l.tx != nil {
		l.tx.Close()
	}
}

// arrive is what Xen does when an event arrives at the port.
func (m *Machine) arrive(n hypercall.Port) {
	if m.bits.Pend(n) {
		m.kick()
	}
}

// dropLine is the end of a port.
func (m *Machine) dropLine(n hypercall.Port) {
	if uint64(n) >= uint64(len(m.ports)) {
		return
	}
	if l := m.ports[n].Swap(nil); l != nil {
		m.poller.Forget(l.watch, l.rx)
		l.leave(m.bits, n)
		l.close()
	}
}

func (m *Machine) dropLines() {
	for n := range m.ports {
		m.dropLine(hypercall.Port(n))
	}
}
