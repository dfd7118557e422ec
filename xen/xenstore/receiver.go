package xenstore

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/hvkit/hvkit/internal/spin"
)

// receiver is what a client takes messages in with. A goroutine reads. Where the connection is a [RingConn], those who wait for a reply
// look at the ring themselves for a while before they sleep, and take in what comes for whomever: where the server is quick, a call is
// made on one goroutine, and costs neither event nor wake-up. The reading goroutine then sleeps.
type receiver struct {
	r    io.Reader
	ring polled // nil where the connection is none

	mu sync.Mutex // held by the one who takes messages in
	// +checklocks:mu
	dec Decoder
	// +checklocks:mu
	empty int // reads in a row that brought nothing
}

// polled is a [RingConn], perhaps in something that embeds it.
type polled interface {
	tryRead(p []byte) (int, error)
	worthReading() bool
	awaitEvent() error
	lookIn()
	lookAway()
	waiter() *spin.Waiter
}

func (r *receiver) init(rw io.Reader) {
	r.r = rw
	r.ring, _ = rw.(polled)
}

// maxEmptyReads is how many reads in a row may bring nothing.
const maxEmptyReads = 100

// receive takes in what has come, and delivers what is whole. Where the connection is a ring it does not wait.
func (r *receiver) receive(deliver func(Header, []byte) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var n int
	var err error
	if r.ring != nil {
		n, err = r.ring.tryRead(r.dec.Space())
	} else {
		n, err = r.r.Read(r.dec.Space()) // only one goroutine is here then
	}
	r.dec.Filled(n)
	if r.empty++; n > 0 || r.ring != nil {
		r.empty = 0
	}
	for {
		h, payload, ok, derr := r.dec.Next()
		if ok {
			derr = deliver(h, payload)
		}
		if derr != nil {
			return derr
		}
		if !ok {
			break
		}
	}
	switch {
	case err == io.EOF && r.dec.Partial() > 0:
		return fmt.Errorf("the server left after %d bytes of a message: %w", r.dec.Partial(), io.ErrUnexpectedEOF)
	case err == nil && r.empty > maxEmptyReads:
		return io.ErrNoProgress
	}
	return err
}

// The client's part.

// readLoop takes messages in until the connection ends. It never waits for anybody but the server.
func (c *Client) readLoop() {
	for {
		var err error
		if c.in.ring != nil {
			err = c.in.ring.awaitEvent()
		}
		if err == nil {
			err = c.in.receive(c.deliver)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Client) newRequest() *request {
	req := &request{wake: make(chan struct{}, 1)}
	req.look = func() bool { return len(req.wake) > 0 || c.in.ring.worthReading() }
	return req
}

// lookFor takes in what comes until the reply to req is there, for as long as that is worth it. Where it has not found it, the caller
// sleeps, and says so with slept.
func (c *Client) lookFor(ctx context.Context, req *request) (wait spin.Wait, found bool) {
	if c.in.ring == nil {
		return spin.Wait{}, len(req.wake) > 0
	}
	c.in.ring.lookIn()
	defer c.in.ring.lookAway()
	for {
		again, wait := c.in.ring.waiter().Spin(req.look, ctx.Done())
		if !again || len(req.wake) > 0 || ctx.Err() != nil {
			return wait, again
		}
		if err := c.in.receive(c.deliver); err != nil {
			c.fail(err) // which answers req
		}
	}
}

// slept says that a wait that lookFor began has ended with a sleep.
func (c *Client) slept(wait spin.Wait) {
	if c.in.ring != nil {
		c.in.ring.waiter().Slept(wait)
	}
}
