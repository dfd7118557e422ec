package grant

import (
	"fmt"
	"net"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// linuxHold is what shares and mappings of a [Linux] have in common: pages at an offset of a device. The fields below the line are
// guarded by the table's mu.
type linuxHold struct {
	s      *session
	node   xendev.Node
	index  uint64 // of the first page in the device
	region *shm.Region
	what   string // "share" or "mapping", for errors
	// ────────
	at     int // the place among the table's handles
	state  holdState
	uses   int
	arming bool
	stale  bool
	told   bool
	notify Notify
}

func (h *linuxHold) place() *int { return &h.at }

// Region implements [Share] and [Mapping].
func (h *linuxHold) Region() *shm.Region { return h.region }

// use keeps the pages where they are until unuse.
func (h *linuxHold) use(op string) error {
	h.s.l.mu.Lock()
	defer h.s.l.mu.Unlock()
	return h.useLocked(op)
}

func (h *linuxHold) useLocked(op string) error {
	switch {
	case h.state == open:
		h.uses++
		return nil
	case h.stale:
		return stale(op)
	}
	return fmt.Errorf("grant: %s: the %s was ended: %w", op, h.what, net.ErrClosed)
}

func (h *linuxHold) unuse() {
	h.s.l.mu.Lock()
	defer h.s.l.mu.Unlock()
	h.uses--
	h.s.l.changed.Broadcast()
}

// begin makes the caller the one who lets the pages go, once nothing is under way with them any more. It returns false where somebody
// else has done that already.
func (h *linuxHold) begin(leave func()) bool {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.state == ending {
		l.changed.Wait()
	}
	if h.state == ended {
		return false
	}
	h.state = ending
	leave()
	for h.uses > 0 {
		l.changed.Wait()
	}
	return true
}

// SetNotify implements [Share] and [Mapping].
func (h *linuxHold) SetNotify(x Notify) error {
	if err := checkNotify(h.region, h.what, x); err != nil {
		return err
	}
	old, err := h.beginArming()
	if err != nil {
		return err
	}
	if err = h.register(old, x); err != nil {
		err = fmt.Errorf("grant: set the notification of a %s: %w", h.what, err)
		x = Notify{} // the old one was taken back, or is not to be counted on
	}
	h.endArming(x)
	return err
}

func (h *linuxHold) beginArming() (old Notify, err error) {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.arming {
		l.changed.Wait()
	}
	if err := h.useLocked("set the notification"); err != nil {
		return Notify{}, err
	}
	h.arming = true
	return h.notify, nil
}

func (h *linuxHold) endArming(now Notify) {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	h.notify, h.arming = now, false
	h.uses--
	l.changed.Broadcast()
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

// awaitUses waits until no operation is under way with the pages; no new one begins, for the handle is ended.
func (h *linuxHold) awaitUses() {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.uses > 0 {
		l.changed.Wait()
	}
}
