package vchan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// Send writes p whole or not at all, waiting for space for all of it: libxenvchan's packet mode (libxenvchan_send). The wire has no
// mark of where a packet ends: the receiver must know its size. A packet larger than the ring is a [*TooLargeError] at once.
func (c *Conn) Send(p []byte) error {
	c.wr.turn.take()
	err := c.send(nil, p)
	c.wr.turn.leave()
	return c.opError("write", err)
}

// send writes head and p, whole or not at all. The caller has the turn.
func (c *Conn) send(head, p []byte) error {
	for waited := false; ; waited = true {
		if err := c.interrupted(c.wr); err != nil {
			return err
		}
		if c.gone.Load() {
			return syscall.ECONNRESET
		}
		ok, notify, err := c.core.Out.TrySend(head, p)
		if notify {
			if err := c.notify(); err != nil {
				return err
			}
		}
		if ok || err != nil {
			c.wr.count(len(head) + len(p))
			return c.settle(err)
		}
		if err := c.awaitSpace(len(head)+len(p), waited); err != nil {
			return err
		}
	}
}

// Recv reads exactly len(p) bytes, waiting for all of them, or none: libxenvchan's packet mode (libxenvchan_recv). More than the ring
// holds is a [*TooLargeError] at once. When the peer has closed it returns io.EOF if nothing is left, and io.ErrUnexpectedEOF, without
// reading, if something is left but less than len(p).
func (c *Conn) Recv(p []byte) error {
	c.rd.turn.take()
	err := c.recv(p)
	c.rd.turn.leave()
	return c.opError("read", err)
}

// recv reads exactly p or nothing. The caller has the turn.
func (c *Conn) recv(p []byte) error {
	for waited := false; ; waited = true {
		if err := c.interrupted(c.rd); err != nil {
			return err
		}
		gone := c.gone.Load()
		ok, notify, err := c.core.In.TryRecv(p)
		if notify {
			_ = c.notify()
		}
		if ok || err != nil {
			c.rd.count(len(p))
			return c.settle(err)
		}
		if gone {
			return syscall.ECONNRESET
		}
		if err := c.awaitData(len(p), waited); err != nil {
			return err
		}
	}
}

// frameHeader is the length of a frame's header: the payload's length, 32 bits, little-endian.
const frameHeader = 4

// ErrTorn is what a [Framed] answers after a message was cut off in the middle, by a deadline or an error: the two ends no longer
// agree where messages start.
var ErrTorn = errors.New("vchan: a message was cut off before; the framing is lost")

// Framed sends and receives messages of any length over a Conn, each behind its length as a 32-bit little-endian number. It is not part
// of libxenvchan; both ends must use it (or the same format). Messages may be larger than the ring. It is safe for concurrent use, as
// the Conn is; the Conn must not be read or written by other means beside it.
//
// A message that fits into the ring with its header is sent whole or not at all, so a deadline never cuts it.
type Framed struct {
	c *Conn

	// For the holder of the reading turn:
	pending bool // a header was read and its message was not
	size    int  // of that message
	tornIn  bool
	// For the holder of the writing turn:
	tornOut bool
}

// NewFramed returns a Framed over c. The largest message is the Conn's Config.MaxPacket.
func NewFramed(c *Conn) *Framed { return &Framed{c: c} }

// Conn returns the connection under the messages.
func (f *Framed) Conn() *Conn { return f.c }

// WriteMsg sends p, which may be empty, as one message. One that is larger than Config.MaxPacket is a [*TooLargeError].
func (f *Framed) WriteMsg(p []byte) error {
	f.c.wr.turn.take()
	err := f.writeMsg(p)
	f.c.wr.turn.leave()
	return f.c.opError("write", err)
}

func (f *Framed) writeMsg(p []byte) error {
	if f.tornOut {
		return ErrTorn
	}
	if len(p) > f.c.maxPacket {
		return &TooLargeError{Size: len(p), Max: f.c.maxPacket}
	}
	var head [frameHeader]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(p)))
	if frameHeader+len(p) <= f.c.core.Out.Size() {
		return f.c.send(head[:], p)
	}
	if err := f.c.send(nil, head[:]); err != nil {
		return err
	}
	if _, err := f.c.write(p); err != nil {
		f.tornOut = true
		return err
	}
	return nil
}

// Next waits for a message and returns its size. It does not take the message: the next ReadMsg does.
func (f *Framed) Next() (int, error) {
	f.c.rd.turn.take()
	err := f.header()
	n := f.size
	f.c.rd.turn.leave()
	if err != nil {
		return 0, f.c.opError("read", err)
	}
	return n, nil
}

// ReadMsg reads one message into p and returns its size. If p is too short it returns the size and io.ErrShortBuffer, and the message
// can be read again with a larger one. A length above Config.MaxPacket is a [*PeerError].
func (f *Framed) ReadMsg(p []byte) (int, error) {
	f.c.rd.turn.take()
	n, err := f.readMsg(p)
	f.c.rd.turn.leave()
	return n, f.c.opError("read", err)
}

// header reads the header of the next message, if that was not done before.
func (f *Framed) header() error {
	if f.tornIn {
		return ErrTorn
	}
	if f.pending {
		return f.c.interrupted(f.c.rd)
	}
	var head [frameHeader]byte
	if err := f.c.recv(head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if uint64(n) > uint64(f.c.maxPacket) {
		return f.c.fail(&PeerError{Field: "message length", Value: uint64(n),
			Err: fmt.Errorf("a message has at most %d bytes", f.c.maxPacket)})
	}
	f.pending, f.size = true, int(n)
	return nil
}

func (f *Framed) readMsg(p []byte) (int, error) {
	if err := f.header(); err != nil {
		return 0, err
	}
	if len(p) < f.size {
		return f.size, io.ErrShortBuffer
	}
	p = p[:f.size]
	err := f.body(p)
	if err == nil {
		f.pending = false
		return len(p), nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// body reads a message: at once where it fits the ring, piece by piece otherwise.
func (f *Framed) body(p []byte) error {
	if len(p) <= f.c.core.In.Size() {
		return f.c.recv(p)
	}
	for done := 0; done < len(p); {
		n, err := f.c.read(p[done:])
		if err != nil {
			f.tornIn = done > 0
			return err
		}
		done += n
	}
	return nil
}
