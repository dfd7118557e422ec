package vchan

import (
	"syscall"
)

// Sender is the writing half of a [Core].
type Sender struct {
	ring
	peer
}

// Size returns the size of the ring in bytes.
func (s *Sender) Size() int { return int(s.size) }

// space returns how many bytes can be written. It looks at the peer's index only if fewer than want are known of.
func (s *Sender) space(want int) (int, error) {
	if n := int(s.size - (s.own - s.seen)); n >= want {
		return n, nil
	}
	return s.look()
}

// look loads the peer's index, once, and checks it.
func (s *Sender) look() (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	v := s.ctl.Load32(s.peerOff)
	ahead, err := v.Ahead(s.seen, s.own-s.seen)
	if err != nil {
		return 0, s.fail(s.peerField, v.Unchecked(), err)
	}
	s.seen += ahead
	return int(s.size - (s.own - s.seen)), nil
}

// TryWrite writes what there is space for. It returns 0 and no error when the ring is full, syscall.EPIPE when the peer has closed, and
// syscall.ECONNRESET when it died without closing.
func (s *Sender) TryWrite(p []byte) (n int, notify bool, err error) {
	if err := s.writable(); err != nil || len(p) == 0 {
		return 0, false, err
	}
	free, err := s.space(min(len(p), int(s.chunk)))
	if free == 0 || err != nil {
		return 0, false, err
	}
	n = min(free, len(p), int(s.chunk))
	s.copyIn(s.own, p[:n])
	if err := s.lost(s.mem); err != nil {
		return 0, false, err
	}
	return n, s.publish(n), nil
}

// TrySend writes head and body, one after the other, or nothing: it reports whether it did. The error is a [*TooLargeError] if the ring
// can never hold so many, syscall.EPIPE when the peer has closed, and syscall.ECONNRESET when it died without closing.
func (s *Sender) TrySend(head, body []byte) (ok, notify bool, err error) {
	n := len(head) + len(body)
	if n > int(s.size) {
		return false, false, &TooLargeError{Size: n, Max: int(s.size)}
	}
	if err := s.writable(); err != nil || n == 0 {
		return err == nil, false, err
	}
	free, err := s.space(n)
	if free < n || err != nil {
		return false, false, err
	}
	if len(head) > 0 {
		s.copyIn(s.own, head)
	}
	s.copyIn(s.own+uint32(len(head)), body)
	if err := s.lost(s.mem); err != nil {
		return false, false, err
	}
	return true, s.publish(n), nil
}

// writable returns why nothing can be written any more, if so.
func (s *Sender) writable() error {
	open, err := s.open()
	if !open && err == nil {
		err = s.end(syscall.EPIPE)
	}
	return err
}

// publish shows n bytes to the peer.
func (s *Sender) publish(n int) (notify bool) {
	s.own += uint32(n)
	s.ctl.Store32(s.ownOff, s.own)
	return s.told(notifyWrite)
}

// Arm asks the peer for an event at its next read and then reports whether there is space for want bytes already, or a reason not to
// sleep.
func (s *Sender) Arm(want int) (ready bool, err error) {
	if s.err != nil || s.closed {
		return true, s.err
	}
	s.ask(notifyRead)
	n, err := s.look()
	return n >= want, err
}

// Changed reports whether the peer's index has moved since it was last looked at. It is for loops that spin.
func (s *Sender) Changed() bool { return !s.ctl.Load32(s.peerOff).Is(s.seen) }

// Unread returns how many bytes the peer has not read yet, and whether it ever can.
func (s *Sender) Unread() (n int, open bool, err error) {
	free, err := s.look()
	if err != nil {
		return 0, false, err
	}
	open, err = s.open()
	return int(s.size) - free, open, err
}
