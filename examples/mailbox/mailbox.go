package mailbox

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
)

// The page: two counters that only grow, and wrap; whether the receiver sleeps; and the slots, each with a length before its bytes.
const (
	offPut    = 0 // u32: how many messages were put
	offTaken  = 4 // u32: how many were taken
	offAsleep = 8 // u8: 1 when the receiver wants an event for the next message
	offSlots  = 64

	slots    = 8
	slotSize = 64

	// MaxMessage is the longest message, in bytes.
	MaxMessage = slotSize - 4
)

// Field names what lies at an offset of the page, for listings.
func Field(off, _ int) string {
	names := map[int]string{offPut: "put", offTaken: "taken", offAsleep: "asleep"}
	if off >= offSlots {
		return fmt.Sprintf("slot %d", (off-offSlots)/slotSize)
	}
	return names[off]
}

func slot(n uint32) int { return offSlots + int(n%slots)*slotSize }

// Sender is the end that puts messages. Its counter is private: what the receiver does to the page cannot change it.
type Sender struct {
	page *shm.Region
	put  uint32
}

// NewSender returns the sending end of a zeroed page.
func NewSender(page *shm.Region) *Sender { return &Sender{page: page} }

// Put puts a message, if there is room, and reports whether there was and whether the receiver must be told.
func (s *Sender) Put(msg []byte) (ok, notify bool, err error) {
	if len(msg) > MaxMessage {
		return false, false, fmt.Errorf("mailbox: a message of %d bytes: at most %d fit", len(msg), MaxMessage)
	}
	// The receiver is at most a mailbox behind, and never ahead.
	room, err := s.page.Load32(offTaken).Ahead(s.put-slots, slots)
	if err != nil {
		return false, false, fmt.Errorf("mailbox: taken: %w", err)
	}
	if room == 0 {
		return false, false, nil
	}
	at := slot(s.put)
	s.page.CopyIn(at+4, msg)
	s.page.Store32(at, uint32(len(msg)))
	s.put++
	s.page.Store32(offPut, s.put) // now the message is there
	return true, s.page.Load8(offAsleep).Is(1), nil
}

// Receiver is the end that takes messages.
type Receiver struct {
	page  *shm.Region
	taken uint32
}

// NewReceiver returns the receiving end.
func NewReceiver(page *shm.Region) *Receiver { return &Receiver{page: page} }

// waiting returns how many messages there are.
func (r *Receiver) waiting() (uint32, error) {
	n, err := r.page.Load32(offPut).Ahead(r.taken, slots)
	if err != nil {
		return 0, fmt.Errorf("mailbox: put: %w", err)
	}
	return n, nil
}

// Take takes a message into buf, which has room for MaxMessage bytes, and reports whether there was one.
func (r *Receiver) Take(buf []byte) (n int, ok bool, err error) {
	if waiting, err := r.waiting(); waiting == 0 || err != nil {
		return 0, false, err
	}
	at := slot(r.taken)
	size, err := r.page.Load32(at).AtMost(MaxMessage)
	if err != nil {
		return 0, false, fmt.Errorf("mailbox: length of message %d: %w", r.taken, err)
	}
	r.page.CopyOut(buf[:size], at+4)
	r.taken++
	r.page.Store32(offTaken, r.taken)
	return int(size), true, nil
}

// Sleep asks to be told of the next message, and reports whether the caller may sleep: not if a message has come meanwhile.
func (r *Receiver) Sleep() (may bool, err error) {
	r.page.Store8(offAsleep, 1)
	n, err := r.waiting()
	return n == 0, err
}

// Wake takes the request back.
func (r *Receiver) Wake() { r.page.Store8(offAsleep, 0) }
