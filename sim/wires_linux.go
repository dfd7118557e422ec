package sim

import (
	"net"
	"sync"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// wiring is what a host has for events to and from other processes. The host's lock guards it, but for the poller's own.
type wiring struct {
	host   *Host
	poller *attach.Poller
}

func newWiring(h *Host) *wiring { return &wiring{host: h} }

// start makes the poller, once.
func (w *wiring) start() error {
	if w.poller != nil {
		return nil
	}
	p, err := attach.NewPoller()
	if err == nil {
		w.poller = p
	}
	return err
}

// close ends the poller, and waits for what it is doing. The lock is not held, and no domain is left.
func (w *wiring) close() error {
	if w.poller == nil {
		return nil
	}
	return w.poller.Close()
}

// wire is one direction of an event channel of which at least one end is in another process. Who rings and who hears must not be able to
// get in each other's way, nor in the host's: each that rings has an event of its own, and a process that hears has an ear.
type wire struct {
	event *attach.Event // rung by the process that sends; nil where that is the host
	host  *attach.Event // rung by the host, for a process that hears; no process has it
	ear   *attach.Ear   // which such a process is given, once
	refs  int
}

// newWire makes a wire that a process rings, or that a process hears, or both.
func newWire(rung, heard bool) (*wire, error) {
	w := &wire{refs: 1}
	if rung {
		var err error
		if w.event, err = attach.NewEvent(); err != nil {
			return nil, err
		}
	}
	if heard {
		if err := w.hear(); err != nil {
			w.drop()
			return nil, err
		}
	}
	return w, nil
}

// hear makes the ear for a process that is about to hear the wire. One that had it before hears the host no more.
func (w *wire) hear() error {
	host, err := attach.NewEvent()
	if err != nil {
		return err
	}
	events := []*attach.Event{host}
	if w.event != nil {
		events = append(events, w.event)
	}
	ear, err := attach.NewEar(events...)
	if err != nil {
		host.Close()
		return err
	}
	w.deafen()
	w.host, w.ear = host, ear
	return nil
}

// deafen takes back what hear made.
func (w *wire) deafen() {
	if w.host != nil {
		w.host.Close()
	}
	if w.ear != nil {
		w.ear.Close()
	}
	w.host, w.ear = nil, nil
}

func (w *wire) drop() {
	if w.refs--; w.refs > 0 {
		return
	}
	if w.event != nil {
		w.event.Close()
	}
	w.deafen()
}

// wires are those of a port: rx is rung for this port, tx for its peer.
type wires struct {
	rx, tx *wire // tx is nil where there is no peer
	// watched is what the host's poller looks at where the end itself, or its peer's, is in this process.
	watched *wire
	watch   int32
}

// newWires makes wires, of each of which a process rings it or not, and hears it or not.
func newWires(rxRung, rxHeard, txRung, txHeard bool) (wires, error) {
	rx, err := newWire(rxRung, rxHeard)
	if err != nil {
		return wires{}, err
	}
	tx, err := newWire(txRung, txHeard)
	if err != nil {
		rx.drop()
		return wires{}, err
	}
	return wires{rx: rx, tx: tx}, nil
}

// unboundWires are those of a process's port to which any domain may be bound.
func unboundWires() (wires, error) { return newWires(true, true, true, false) }

// hostWires are those of a process's port whose other end is the host.
func hostWires() (wires, error) { return newWires(false, true, true, false) }

// localWires are those of a process's port that has no other end: an IPI, or a virtual interrupt.
func localWires() (wires, error) {
	rx, err := newWire(true, true)
	return wires{rx: rx}, err
}

// crossed are the wires of the other end of the channel.
func (w wires) crossed() wires {
	w.rx.refs++
	w.tx.refs++
	return wires{rx: w.tx, tx: w.rx}
}

// ring makes an event arrive at a port of a process.
func (w wires) ring() {
	if w.rx != nil && w.rx.host != nil {
		w.rx.host.Ring()
	}
}

// dropWires lets go of a port's wires.
func (x *hypervisor) dropWires(p *port) {
	w := p.wires
	p.wires = wires{}
	if w.rx == nil {
		return
	}
	if w.watched != nil {
		x.wiring.poller.Forget(w.watch, w.watched.event)
	}
	w.drop()
}

func (w wires) drop() {
	w.rx.drop()
	if w.tx != nil {
		w.tx.drop()
	}
}

// cross gives the new port n of d, which is being bound to r's port rn, the wires that it shares with it.
func (d *guest) cross(n hypercall.Port, p *port, r *guest, rn hypercall.Port, rp *port) error {
	if rp.wires.rx == nil { // r is in this process
		w, err := newWires(true, false, false, false)
		if err != nil {
			return err
		}
		if err := r.watchPeer(&w, rn); err != nil {
			w.drop()
			return err
		}
		rp.wires = w
	}
	p.wires = rp.wires.crossed()
	var err error
	if d.remote {
		err = p.wires.rx.hear()
	} else {
		err = d.watchPeer(&p.wires, n)
	}
	if err != nil {
		d.xen.dropWires(p)
	}
	return err
}

// watchPeer has the host take what the other end of a port of this process's domain sends.
func (d *guest) watchPeer(w *wires, n hypercall.Port) error {
	rx := w.rx
	return d.xen.wiring.watch(w, rx, func() {
		if p, err := d.port(n); err == nil && p.wires.rx == rx { // it is that port still
			d.pend(n)
		}
	})
}

// watchHost has the host take what a domain of another process sends on a port whose other end is the host itself.
func (d *guest) watchHost(c *hostChannel, p *port) error {
	return d.xen.wiring.watch(&p.wires, p.wires.tx, c.rung)
}

// watch has f run, with the lock held, each time that the wire was rung.
func (w *wiring) watch(ws *wires, what *wire, f func()) error {
	h := w.host
	id, err := w.poller.Watch(what.event, func() {
		h.mu.Lock()
		f()
		h.unlock()
	})
	if err != nil {
		return err
	}
	ws.watched, ws.watch = what, id
	return nil
}

// hungUp returns a channel that is closed when the peer of the socket has gone, even while nobody reads. forget ends that.
func (h *Host) hungUp(sock *net.UnixConn) (gone <-chan struct{}, forget func(), err error) {
	h.mu.Lock()
	poller := h.hv.wiring.poller
	h.mu.Unlock()
	ch := make(chan struct{})
	var once sync.Once
	id, err := poller.WatchHangup(sock, func() { once.Do(func() { close(ch) }) })
	return ch, func() { poller.Forget(id, nil) }, err
}
