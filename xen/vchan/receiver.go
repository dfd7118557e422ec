package vchan

import (
	"io"
)

// Receiver is the reading half of a [Core].
type Receiver struct {
	ring
	peer
	final bool // the final look was made
}

// Size returns the size of the ring in bytes.
func (r *Receiver) Size() int { return int(r.size) }

// known returns how many bytes are known to be readable.
func (r *Receiver) known() int { return int(r.seen - r.own) }

// look loads the peer's index, once, and checks it. After the final look, which follows the peer's close, nothing new is taken.
func (r *Receiver) look() (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.final {
		return r.known(), nil
	}
	v := r.ctl.Load32(r.peerOff)
	ahead, err := v.Ahead(r.seen, r.size-(r.seen-r.own))
	if err != nil {
		return 0, r.fail(r.peerField, v.Unchecked(), err)
	}
	r.seen += ahead
	return r.known(), nil
}

// available returns how many bytes can be read, and the end of the stream when there are fewer than want and never will be more:
// io.EOF, or syscall.ECONNRESET where the peer died. It looks at the peer's index only if fewer than want are known of.
func (r *Receiver) available(want int) (int, error) {
	if n := r.known(); n >= want && r.err == nil {
		return n, nil
	}
	n, err := r.look()
	if n >= want || err != nil {
		return n, err
	}
	open, err := r.open()
	if open || err != nil {
		return n, err
	}
	// The peer may have written between the look at its index and its close: look once more, now that it has ended.
	n, err = r.look()
	r.final = true
	if n >= want || err != nil {
		return n, err
	}
	return n, r.end(io.EOF)
}

// TryRead reads what is there, at most len(p) bytes. It returns 0 and no error when there is nothing, io.EOF when the peer has closed
// and everything was read, and syscall.ECONNRESET then when it died without closing. It is hypercall.ErrStale when the memory was closed
// under this end, as when this domain was resumed or has ended; what p then holds is nothing that the peer sent.
func (r *Receiver) TryRead(p []byte) (n int, notify bool, err error) {
	if len(p) == 0 {
		return 0, false, r.err
	}
	avail, err := r.available(1)
	if avail == 0 {
		return 0, false, err
	}
	if avail < len(p) {
		if avail, err = r.look(); err != nil {
			return 0, false, err
		}
	}
	n = min(avail, len(p), int(r.chunk))
	if notify, err = r.take(p[:n]); err != nil {
		return 0, false, err
	}
	return n, notify, nil
}

// TryRecv reads exactly len(p) bytes, or none: it reports whether it did. The error is a [*TooLargeError] if the ring can never hold so
// many, io.EOF when the peer has closed and nothing is left, io.ErrUnexpectedEOF when something is left but too little, and
// syscall.ECONNRESET in both cases when it died without closing. It is hypercall.ErrStale as for TryRead.
func (r *Receiver) TryRecv(p []byte) (ok, notify bool, err error) {
	if len(p) > int(r.size) {
		return false, false, &TooLargeError{Size: len(p), Max: int(r.size)}
	}
	if len(p) == 0 {
		return r.err == nil, false, r.err
	}
	avail, err := r.available(len(p))
	if avail >= len(p) && err == nil {
		notify, err = r.take(p)
		return err == nil, notify, err
	}
	if err == io.EOF && avail > 0 {
		err = io.ErrUnexpectedEOF
	}
	return false, false, err
}

// TryDiscard reads all there is and throws it away.
func (r *Receiver) TryDiscard() (n int, notify bool, err error) {
	if n, err = r.look(); n == 0 || err != nil {
		return 0, false, err
	}
	r.own += uint32(n)
	r.ctl.Store32(r.ownOff, r.own)
	return n, r.told(notifyRead), nil
}

// take copies p out, which is known to be there, and gives the place back to the peer.
func (r *Receiver) take(p []byte) (notify bool, err error) {
	r.copyOut(p, r.own)
	if err := r.lost(r.mem); err != nil {
		return false, err
	}
	r.own += uint32(len(p))
	r.ctl.Store32(r.ownOff, r.own)
	return r.told(notifyRead), nil
}

// Arm asks the peer for an event at its next write and then reports whether there are want bytes already, or a reason not to sleep.
func (r *Receiver) Arm(want int) (ready bool, err error) {
	if r.err != nil || r.closed {
		return true, r.err
	}
	r.ask(notifyWrite)
	n, err := r.look()
	return n >= want, err
}

// Changed reports whether the peer's index has moved since it was last looked at. It is for loops that spin.
func (r *Receiver) Changed() bool { return !r.ctl.Load32(r.peerOff).Is(r.seen) }

// Buffered returns how many bytes can be read at once.
func (r *Receiver) Buffered() (int, error) { return r.look() }
