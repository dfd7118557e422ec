package attach

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Conn sends and receives messages with their descriptors. One goroutine at a time receives, and one sends.
type Conn struct {
	sock *net.UnixConn
	in   []byte
	oob  []byte
	out  []byte
}

// NewConn returns a connection over a SOCK_SEQPACKET socket.
func NewConn(sock *net.UnixConn) *Conn {
	return &Conn{sock: sock, in: make([]byte, MaxMessage), oob: make([]byte, unix.CmsgSpace(MaxFDs*4))}
}

// Send sends a message and descriptors, which stay the caller's; the caller keeps them open until Send has returned.
func (c *Conn) Send(m *Message, fds ...int) error {
	c.out = m.Append(c.out[:0])
	if len(c.out) > MaxMessage || len(fds) > MaxFDs {
		return fmt.Errorf("attach: %v of %d bytes and %d descriptors: %w", m.Kind, len(c.out), len(fds), errTooLarge)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.sock.WriteMsgUnix(c.out, oob, nil); err != nil {
		return fmt.Errorf("attach: send %v: %w", m.Kind, err)
	}
	return nil
}

var errTooLarge = fmt.Errorf("at most %d bytes and %d descriptors can be sent at once: %w", MaxMessage, MaxFDs, hypercall.E2BIG)

// ErrNoRoom is what a message's descriptors meet in a process that may not open as many: they are lost, the connection is not.
var ErrNoRoom = fmt.Errorf("attach: this process may open no more descriptors (RLIMIT_NOFILE): %w", hypercall.EMFILE)

// Receive returns the next message and its descriptors, which are the caller's to close. The message's data are good until the next
// Receive. At the end of the connection the error is io.EOF. Where it is ErrNoRoom there is a message all the same.
func (c *Conn) Receive() (*Message, FDs, error) {
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(c.in, c.oob)
	fds, derr := descriptors(c.oob[:max(oobn, 0)]) // even an empty message, which reads as the end, may bring descriptors
	if err == nil {
		err = derr
	}
	short := flags&unix.MSG_CTRUNC != 0 && len(fds) < MaxFDs
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 && !short {
		err = fmt.Errorf("%w: more than %d bytes or %d descriptors", ErrMessage, MaxMessage, MaxFDs)
	}
	var m *Message
	if err == nil {
		m, err = Parse(c.in[:n])
	}
	switch {
	case err != nil:
		fds.Close()
		return nil, nil, err
	case short:
		fds.Close()
		return m, nil, ErrNoRoom
	}
	return m, fds, nil
}

// FDs are descriptors that came with a message. Those that were taken out are -1.
type FDs []int

// Close closes those that nobody took.
func (f FDs) Close() {
	for i, fd := range f {
		if fd >= 0 {
			unix.Close(fd)
		}
		f[i] = -1
	}
}

// File takes one out as a file.
func (f FDs) File(i int) *os.File {
	fd := f[i]
	f[i] = -1
	return os.NewFile(uintptr(fd), "hvkit-extent")
}

// Event takes one out as an event.
func (f FDs) Event(i int) *Event {
	fd := f[i]
	f[i] = -1
	return newEvent(fd)
}

// Ear takes one out as an ear.
func (f FDs) Ear(i int) *Ear {
	fd := f[i]
	f[i] = -1
	return &Ear{fd}
}

// descriptors takes the descriptors out of a message's control data.
func descriptors(oob []byte) (FDs, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control data: %w", ErrMessage, err)
	}
	var all FDs
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if errors.Is(err, unix.EINVAL) {
			continue // other control data
		}
		all = append(all, fds...)
	}
	return all, nil
}

// SetSendDeadline bounds how long a Send, also one under way, may wait for the peer to take messages.
func (c *Conn) SetSendDeadline(t time.Time) error { return c.sock.SetWriteDeadline(t) }

// HungUp reports whether the peer has closed its end, by dying for example, or this end was closed. What the peer sent before may not have
// been received yet.
func (c *Conn) HungUp() bool {
	raw, err := c.sock.SyscallConn()
	if err != nil {
		return true
	}
	var n int
	err = raw.Control(func(fd uintptr) {
		n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
	})
	return err != nil || n > 0
}

// Close ends the connection. A Receive under way returns.
func (c *Conn) Close() error { return c.sock.Close() }
