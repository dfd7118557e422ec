package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// RefusedError is why a host did not let a process join.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "the host refused: " + e.Reason }

// Join joins the simulated host that serves the Unix socket, as the domain that the token claims; with an empty token, as a new domain
// of that name, if the host lets anybody make one. A host that refuses says why in a [*RefusedError].
func Join(ctx context.Context, socket, token, name string) (*Machine, error) {
	var dialer net.Dialer
	sock, err := dialer.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, fmt.Errorf("attach: join the host at %s: %w", socket, err)
	}
	stop := context.AfterFunc(ctx, func() { sock.Close() })
	m, err := greet(NewConn(sock.(*net.UnixConn)), token, name)
	if !stop() && ctx.Err() != nil {
		if m != nil {
			m.Close()
		}
		err = context.Cause(ctx)
	}
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("attach: join the host at %s: %w", socket, err)
	}
	return m, nil
}

func greet(conn *Conn, token, name string) (*Machine, error) {
	// A host that refuses may have hung up before it read this: what it said is more to the point than that it did.
	sent := conn.Send(&Message{Kind: Hello, ID: Version, Text: token, Name: name})
	w, fds, err := conn.Receive()
	if err != nil {
		if sent != nil {
			return nil, sent
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the host hung up")
		}
		return nil, err
	}
	defer fds.Close()
	if w.Kind == Ended {
		return nil, &RefusedError{w.Text}
	}
	if w.Kind != Welcome || len(fds) != welcomeFDs {
		return nil, fmt.Errorf("%w: %v with %d descriptors in place of a welcome", ErrMessage, w.Kind, len(fds))
	}
	return newMachine(conn, w, fds)
}

// welcomeFDs is how many descriptors an incarnation begins with: the grant table, the Xenstore page, and the Xenstore port's two.
const welcomeFDs = 4

func newMachine(conn *Conn, w *Message, fds FDs) (*Machine, error) {
	poller, err := NewPoller()
	if err != nil {
		return nil, err
	}
	m := &Machine{
		conn: conn, abi: w.ABI, bits: NewEventBits(w.ABI), poller: poller, done: make(chan struct{}),
		calls: make(map[uint32]chan answer), space: make(map[hypercall.GFN]place), alloc: gfn.New(), resumed: make(chan struct{}),
		ports: make([]atomic.Pointer[line], w.ABI.SharedInfo().Ports()),
	}
	if err := m.settle(w, fds); err != nil {
		m.drop()
		return nil, err
	}
	go m.receive()
	return m, nil
}
