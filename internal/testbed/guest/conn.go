package guest

import (
	"bytes"
	"io"
	"net"
	"os"
	"time"
)

type addr string

func (a addr) Network() string { return "guest" }
func (a addr) String() string  { return string(a) }

// readerConn is a connection of which some bytes have been read into a buffer already.
type readerConn struct {
	net.Conn
	r io.Reader
}

func (c *readerConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// hvcConn writes to a console of Linux's hvc driver.
type hvcConn struct{ net.Conn }

// Write writes p with each ^O doubled (hvc_poll in drivers/tty/hvc/hvc_console.c).
func (c *hvcConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(bytes.ReplaceAll(p, []byte{0x0f}, []byte{0x0f, 0x0f})); err != nil {
		return 0, err // how much of p arrived is not known, and the connection is of no more use
	}
	return len(p), nil
}

// pipeConn is a connection over two halves that have no deadlines of their own.
type pipeConn struct {
	io.Reader
	io.WriteCloser
	close func() error
}

var _ net.Conn = (*pipeConn)(nil)

func (c *pipeConn) Close() error                     { return c.close() }
func (c *pipeConn) LocalAddr() net.Addr              { return addr("pipe") }
func (c *pipeConn) RemoteAddr() net.Addr             { return addr("pipe") }
func (c *pipeConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *pipeConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *pipeConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
