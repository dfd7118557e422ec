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

// wire is an event descriptor. Both ends of a channel may hold it.
type wire struct {
	event *attach.Event
	refs  int
}

func (w *wire) drop() {
	if w.refs--; w.refs == 0 {
		w.event.Close()
	}
}

// hold keeps the descriptor open until ringHeld.
func (w *wire) hold() bool { return w.event.Hold() }

func (w *wire) ringHeld() {
	w.event.RingHeld()
	w.event.Release()
}

// wires are the event descriptors of a port of which at least one end is in another process: rx is rung for this port, tx for its peer.
type wires struct {
	rx, tx *wire
	// watched is what the host's poller looks at where the end itself, or its peer's, is in this process.
	watched *wire
	watch   int32
}

func newWires() (wires, error) {
	rx, err := attach.NewEvent()
	if err != nil {
		return wires{}, err
	}
	tx, err := attach.NewEvent()
	if err != nil {
		rx.Close()
		return wires{}, err
	}
	return wires{rx: &wire{rx, 1}, tx: &wire{tx, 1}}, nil
}

// crossed are the wires of the other end of the channel.
func (w wires) crossed() wires {
	w.rx.refs++
	w.tx.refs++
	return wires{rx: w.tx, tx: w.rx}
}

// ringWires makes an event arrive at a port of a domain in another process, once the lock is free: what that process has done to the
// descriptor may have the ringer wait.
func (d *guest) ringWires(n hypercall.Port) {
	if rx := d.ports[n].wires.rx; rx != nil {
		d.xen.ring(rx)
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
	w.rx.drop()
	w.tx.drop()
}

// cross gives the new port n of d, which is being bound to r's port rn, the wires that it shares with it.
func (d *guest) cross(n hypercall.Port, p *port, r *guest, rn hypercall.Port, rp *port) error {
	if rp.wires.rx == nil { // r is in this process
		w, err := newWires()
		if err != nil {
			return err
		}
		if err := r.watchPeer(&w, rn); err != nil {
			w.rx.drop()
			w.tx.drop()
			return err
		}
		rp.wires = w
	}
	p.wires = rp.wires.crossed()
	if d.remote {
		return nil
	}
	if err := d.watchPeer(&p.wires, n); err != nil {
		d.xen.dropWires(p)
		return err
	}
	return nil
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
