package grant

import (
	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// linuxHold is what shares and mappings of a [Linux] have in common: pages at an offset of a device.
type linuxHold struct {
	hold
	s     *session
	node  xendev.Node
	index uint64 // of the first page in the device
}

// +checklocksignore: where the condition is does not change.
func (s *session) hold(node xendev.Node, index uint64, what string) linuxHold {
	return linuxHold{hold: hold{mu: &s.l.mu, changed: s.l.changed, what: what}, s: s, node: node, index: index}
}

// SetNotify implements [Share] and [Mapping]. Where it fails what was said before was taken back, or is not to be counted on.
func (h *linuxHold) SetNotify(x Notify) error {
	return h.setNotify(x, func(old, x Notify) (Notify, error) {
		if err := h.register(old, x); err != nil {
			return Notify{}, err
		}
		return x, nil
	})
}

// register has the kernel do x in place of old. gntalloc has a notification for each page, gntdev one for each mapping, so one on another
// page is taken back first.
func (h *linuxHold) register(old, x Notify) error {
	if old == x {
		return nil
	}
	if from, to := old.offset()/shm.PageSize, x.offset()/shm.PageSize; old != (Notify{}) && from != to {
		if err := h.setUnmapNotify(from*shm.PageSize, 0, 0); err != nil {
			return err
		}
	}
	action := uint32(0)
	if x.ClearByte {
		action |= xendev.UnmapNotifyClearByte
	}
	if x.Port != 0 {
		action |= xendev.UnmapNotifySendEvent
	}
	return h.setUnmapNotify(x.offset(), action, x.Port)
}

// offset is where the notification is registered.
func (x Notify) offset() int {
	if !x.ClearByte {
		return 0
	}
	return x.Offset
}

func (h *linuxHold) setUnmapNotify(offset int, action uint32, port hypercall.Port) error {
	// The request has the same number and structure for both devices.
	return h.s.l.request(h.node, xendev.GntallocSetUnmapNotify, xendev.NewUnmapNotify(h.index+uint64(offset), action, uint32(port)))
}
