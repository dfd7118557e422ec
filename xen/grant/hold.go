package grant

import (
	"errors"
	"fmt"
	"net"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// hold is what shares and mappings have in common: pages, whether they are in use, and what happens when they are let go. The fields
// below the line are guarded by the table's mu.
type hold struct {
	n      *Native
	first  hypercall.GFN
	region *shm.Region
	what   string // "share" or "mapping", for errors
	// ────────
	at     int // the place among the table's handles
	state  holdState
	uses   int  // operations under way that need the pages to stay
	arming bool // whether one of them is SetNotify
	stale  bool // whether it was a resume that ended it
	told   bool // whether Close has said so
	notify Notify
}

type holdState uint8

const (
	open   holdState = iota
	ending           // somebody is at it
	ended
)

func (h *hold) place() *int { return &h.at }

// Region implements [Share] and [Mapping].
func (h *hold) Region() *shm.Region { return h.region }

// use keeps the pages where they are until unuse.
func (h *hold) use(op string) error {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	return h.useLocked(op)
}

// useLocked is use for callers that hold the table's mu.
func (h *hold) useLocked(op string) error {
	switch {
	case h.state == open:
		h.uses++
		return nil
	case h.stale:
		return stale(op)
	}
	return fmt.Errorf("grant: %s: the %s was ended: %w", op, h.what, net.ErrClosed)
}

func (h *hold) unuse() {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.uses--
	h.n.changed.Broadcast()
}

// begin makes the caller the one who lets the pages go, once nothing is under way with them any more. It returns false where
// somebody else has done that already.
func (h *hold) begin(leave func()) bool {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for h.state == ending {
		h.n.changed.Wait()
	}
	if h.state == ended {
		return false
	}
	h.state = ending
	leave() // before the wait, so that a resume meanwhile leaves the handle to its ender
	for h.uses > 0 {
		h.n.changed.Wait()
	}
	return true
}

// SetNotify implements [Share] and [Mapping].
func (h *hold) SetNotify(x Notify) error {
	if err := checkNotify(h.region, h.what, x); err != nil {
		return err
	}
	old, err := h.beginArming()
	if err != nil {
		return err
	}
	if err = h.register(old, x); err != nil {
		x = old
		err = fmt.Errorf("grant: set the notification of a %s: %w", h.what, err)
	}
	h.endArming(x)
	return err
}

// checkNotify returns why the notification cannot be one of the region.
func checkNotify(r *shm.Region, what string, x Notify) error {
	if !x.ClearByte {
		return nil
	}
	if x.Offset < 0 || x.Offset >= r.Size() {
		return fmt.Errorf("grant: set the notification of a %s: %w", what,
			&shm.BoundsError{Op: "clear", Off: int64(x.Offset), Len: 1, Size: r.Size()})
	}
	if !r.Writable() {
		return fmt.Errorf("grant: set the notification of a %s: %w", what, &shm.ReadOnlyError{Op: "clear", Off: int64(x.Offset)})
	}
	return nil
}

func (h *hold) beginArming() (old Notify, err error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	for h.arming {
		h.n.changed.Wait()
	}
	if err := h.useLocked("set the notification"); err != nil {
		return Notify{}, err
	}
	h.arming = true
	return h.notify, nil
}

func (h *hold) endArming(now Notify) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.notify = now
	h.arming = false
	h.uses--
	h.n.changed.Broadcast()
}

// register has the platform do x, in place of old, when the domain dies. What happens while it lives is done by fire.
func (h *hold) register(old, x Notify) error {
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
func (h *hold) target(x Notify) (hypercall.GFN, int) {
	if !x.ClearByte {
		return h.first, -1
	}
	return h.first + hypercall.GFN(x.Offset/shm.PageSize), x.Offset % shm.PageSize
}

// clearByte is the first half of the notification, and then closes the region.
func (h *hold) clearByte() {
	if h.notify.ClearByte {
		h.region.Store8(h.notify.Offset, 0)
	}
	h.region.Close()
}

// fire is the second half: it sends the event, and has the platform forget the notification, now that the pages are let go but not
// yet anybody else's.
func (h *hold) fire(current bool) error {
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
