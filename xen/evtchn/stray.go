package evtchn

import (
	"maps"
	"slices"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// A stray is a port that Xen opened for an operation that then ended with ErrStale. Xen lets a resumed domain run before Resume is
// called, and what opens a port in between, or calls Xen at that moment, learns of the number but not of the incarnation that it is of.
// If it is the former one the port went with it, and the number may be anybody's now; if it is the present one the port stays open, and
// nobody would ever close it.
//
// So the number is noted, and looked into when no operation that opens a port is under way. Each such operation of the present
// incarnation takes the number that it gets off the notes, for what Xen has just given to it was no stray. A port that Xen called
// open, and that is on the notes when all who were under way at that time have come back, is thus nobody's, and is closed. There is
// one exception: the ports that the toolstack made for the new incarnation, which it has put into the domain's parameters.
//
// Nobody waits for this: the last of those under way does it, or else Resume.

// begin makes inc the present incarnation. Of the channels of the one before, those that were opened here may be strays: they may be
// of the new one, as Xen sees it.
func (n *Native) begin(inc *incarnation) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.now.Load()
	n.now.Store(inc)
	n.strays = make(map[hypercall.Port]struct{})
	if old == nil {
		return
	}
	for i := range old.slots {
		if ch := old.slots[i].Load(); ch != nil && !ch.adopted {
			n.strays[ch.port] = struct{}{}
		}
	}
}

// claim takes the port that Xen has just given to a channel off the notes. Where the channel's incarnation is over it notes it.
func (n *Native) claim(ch *channel) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.now.Load() == ch.inc:
		delete(n.strays, ch.port)
		return true
	case !ch.adopted:
		n.strays[ch.port] = struct{}{}
	}
	return false
}

func (n *Native) beginBind() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.binding++
}

// endBind looks into the strays if there are any and nobody else will.
func (n *Native) endBind() {
	n.mu.Lock()
	n.binding--
	look := n.binding == 0 && len(n.strays) > 0
	n.mu.Unlock()
	if look {
		n.sweep()
	}
}

// sweep closes the strays that are open, unless operations are under way, the last of which will do it.
func (n *Native) sweep() {
	n.mu.Lock()
	inc := n.now.Load()
	ports := slices.Sorted(maps.Keys(n.strays))
	n.mu.Unlock()
	for _, port := range ports {
		st, err := hypercall.PortStatus(n.c, hypercall.DomSelf, port)
		isOpen := err == nil && st.State != hypercall.EvtchnClosed && !n.isToolstacks(port)
		found, goOn := n.pick(inc, port)
		if !goOn {
			return
		}
		if !found || !isOpen || inc.slots[port].Load() != nil {
			continue
		}
		if err := hypercall.ClosePort(n.c, port); err != nil {
			n.cfg.Logger.Warn("evtchn: close a port that was opened during a resume", "port", port, "error", err)
		}
	}
}

// pick takes a port off the notes, and reports whether it was there; goOn is false where it is not the time for this.
func (n *Native) pick(inc *incarnation, port hypercall.Port) (found, goOn bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.binding > 0 || n.now.Load() != inc {
		return false, false
	}
	_, found = n.strays[port]
	delete(n.strays, port)
	return found, true
}

// isToolstacks reports whether the port is Xenstore's or the console's. Where Xen does not say it may be.
func (n *Native) isToolstacks(port hypercall.Port) bool {
	for _, p := range []hypercall.Param{hypercall.ParamStoreEvtchn, hypercall.ParamConsoleEvtchn} {
		if v, err := hypercall.GetParam(n.c, hypercall.DomSelf, p); err != nil || v == uint64(port) {
			return true
		}
	}
	return false
}
