package guest

import (
	"net"
	"os"
	"sync"
)

// fileConn is a device as a connection.
type fileConn struct{ *os.File }

var _ net.Conn = fileConn{}

func (c fileConn) LocalAddr() net.Addr  { return addr(c.Name()) }
func (c fileConn) RemoteAddr() net.Addr { return addr(c.Name()) }

// oneListener is a listener that has one connection, and blocks after it until it or the connection is closed.
type oneListener struct {
	conn net.Conn
	once chan struct{} // holds a value until the connection was accepted
	done chan struct{}
	stop func()
}

func newOneListener(c net.Conn) *oneListener {
	l := &oneListener{once: make(chan struct{}, 1), done: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.done) })
	l.conn = &closeConn{Conn: c, closed: l.stop}
	l.once <- struct{}{}
	return l
}

// closeConn tells when it is closed.
type closeConn struct {
	net.Conn
	closed func()
}

func (c *closeConn) Close() error {
	err := c.Conn.Close()
	c.closed()
	return err
}

func (l *oneListener) Accept() (net.Conn, error) {
	select {
	case <-l.once:
		return l.conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneListener) Close() error {
	l.stop()
	return nil
}

func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }
