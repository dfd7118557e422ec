package grant

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// nativeHold is what shares and mappings of a [Native] have in common: pages at frame numbers.
type nativeHold struct {
	hold
	n     *Native
	first hypercall.GFN
}

// +checklocksignore: where the condition is does not change.
func (n *Native) hold(first hypercall.GFN, what string) nativeHold {
	return nativeHold{hold: hold{mu: &n.mu, changed: &n.changed, what: what}, n: n, first: first}
}

// SetNotify implements [Share] and [Mapping]. Where it fails what was said before is in force.
func (h *nativeHold) SetNotify(x Notify) error {
	return h.setNotify(x, func(old, x Notify) (Notify, error) {
		if err := h.register(old, x); err != nil {
			return old, err
		}
		return x, nil
	})
}

// register has the platform do x, in place of old, when the domain dies. What happens while it lives is done by fire.
func (h *nativeHold) register(old, x Notify) error {
	if h.n.notifier == nil || x == old {
		return nil
	}
	oldFrame, _ := h.target(old)
	frame, off := h.target(x)
	if old != (Notify{}) && (x == (Notify{}) || oldFrame != frame) {
		if err := h.n.notifier.SetUnmapNotify(oldFrame, -1, 0); err != nil {
			return err
		}
	}
	if x == (Notify{}) {
		return nil
	}
	return h.n.notifier.SetUnmapNotify(frame, off, x.Port)
}

// target returns the frame of a notification, and the byte in it, -1 for none.
func (h *nativeHold) target(x Notify) (hypercall.GFN, int) {
	if !x.ClearByte {
		return h.first, -1
	}
	return h.first + hypercall.GFN(x.Offset/shm.PageSize), x.Offset % shm.PageSize
}

// clearByte is the first half of the notification, and then closes the region.
func (h *nativeHold) clearByte() {
	if h.notify.ClearByte {
		h.region.Store8(h.notify.Offset, 0)
	}
	h.region.Close()
}

// fire is the second half: it sends the event, and has the platform forget the notification, now that the pages are let go but not
// yet anybody else's.
func (h *nativeHold) fire(current bool) error {
	var errs []error
	if h.notify.Port != 0 && current {
		h.n.hypercalls.Add(1)
		if err := hypercall.SendEvent(h.n.c, h.notify.Port); err != nil {
			errs = append(errs, fmt.Errorf("grant: notify the peer on port %d: %w", h.notify.Port, err))
		}
	}
	if err := h.register(h.notify, Notify{}); err != nil && !errors.Is(err, hypercall.ErrStale) { // a resume takes it back too
		errs = append(errs, fmt.Errorf("grant: take back the notification of a %s: %w", h.what, err))
	}
	return errors.Join(errs...)
}

// isCurrent reports whether the incarnation is the table's present one.
func (n *Native) isCurrent(incarnation uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.incarnation == incarnation
}
