package grant

import (
	"fmt"
	"net"
	"sync"

	"github.com/hvkit/hvkit/shm"
)

// hold is what the shares and mappings of every table have in common: pages, whether they are in use, and what happens when they are let
// go. The fields below the line are guarded by the table's mu.
type hold struct {
	mu      *sync.Mutex // the table's
	changed condition   // the table's: broadcast when a handle's state or uses changed
	region  *shm.Region
	what    string // "share" or "mapping", for errors
	// ────────
	at     int // the place among the table's handles
	state  holdState
	uses   int  // operations under way that need the pages to stay
	arming bool // whether one of them is SetNotify
	stale  bool // whether it was a resume that ended it
	told   bool // whether Close has said so
	notify Notify
}

// condition is a condition variable, such as [sync.Cond].
type condition interface {
	Wait()
	Broadcast()
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
	h.mu.Lock()
	defer h.mu.Unlock()
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
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uses--
	h.changed.Broadcast()
}

// begin makes the caller the one who lets the pages go, once nothing is under way with them any more. It returns false where
// somebody else has done that already.
func (h *hold) begin(leave func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.state == ending {
		h.changed.Wait()
	}
	if h.state == ended {
		return false
	}
	h.state = ending
	leave() // before the wait, so that a resume meanwhile leaves the handle to its ender
	for h.uses > 0 {
		h.changed.Wait()
	}
	return true
}

// setNotify sets the notification. register has the platform do it, in place of the one before, and returns which one is in force then.
func (h *hold) setNotify(x Notify, register func(old, x Notify) (Notify, error)) error {
	if err := checkNotify(h.region, h.what, x); err != nil {
		return err
	}
	old, err := h.beginArming()
	if err != nil {
		return err
	}
	now, err := register(old, x)
	h.endArming(now)
	if err != nil {
		return fmt.Errorf("grant: set the notification of a %s: %w", h.what, err)
	}
	return nil
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
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.arming {
		h.changed.Wait()
	}
	if err := h.useLocked("set the notification"); err != nil {
		return Notify{}, err
	}
	h.arming = true
	return h.notify, nil
}

func (h *hold) endArming(now Notify) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notify = now
	h.arming = false
	h.uses--
	h.changed.Broadcast()
}

// awaitUses waits until no operation is under way with the pages; no new one begins, for the handle is ended.
func (h *hold) awaitUses() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.uses > 0 {
		h.changed.Wait()
	}
}
