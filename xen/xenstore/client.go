package xenstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of [Config], and their reasons. The quotas are those of the C server for one connection of a guest.
const (
	DefaultOutstanding  = 16                     // requests; the server stops reading at 20
	DefaultTransactions = 8                      // at once; the server refuses more than 10
	DefaultAttempts     = 64                     // of one transaction
	DefaultBackoff      = 200 * time.Microsecond // before the second attempt, twice as long before each further one
	DefaultMaxBackoff   = 50 * time.Millisecond
)

// Config configures a [Client]. A field that is zero has its default.
type Config struct {
	MaxOutstanding  int           // requests under way at once, at most 256; further calls wait. Default DefaultOutstanding
	MaxTransactions int           // transactions under way at once; further ones wait. Default DefaultTransactions
	MaxAttempts     int           // how often a transaction that meets EAGAIN is tried. Default DefaultAttempts
	Backoff         time.Duration // longest wait before the second attempt; the wait is random below it. Default DefaultBackoff
	MaxBackoff      time.Duration // the wait doubles up to this. Default DefaultMaxBackoff
	Logger          *slog.Logger  // nil is silent
}

func (c *Config) withDefaults() Config {
	var conf Config
	if c != nil {
		conf = *c
	}
	setDefault(&conf.MaxOutstanding, DefaultOutstanding)
	setDefault(&conf.MaxTransactions, DefaultTransactions)
	setDefault(&conf.MaxAttempts, DefaultAttempts)
	setDefault(&conf.Backoff, DefaultBackoff)
	setDefault(&conf.MaxBackoff, DefaultMaxBackoff)
	conf.MaxOutstanding = min(conf.MaxOutstanding, maxOutstanding)
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	return conf
}

func setDefault[T int | time.Duration](p *T, v T) {
	if *p <= 0 {
		*p = v
	}
}

// ClientStats counts what a [Client] did and holds.
type ClientStats struct {
	Requests    uint64 // sent
	Replies     uint64 // came, errors and late ones included
	Errors      uint64 // replies that were errors
	Late        uint64 // replies that nobody waited for any more
	Events      uint64 // watch events that came
	Merged      uint64 // events that were merged into a queued one of the same path
	Missed      uint64 // events whose path did not fit the queue of their watch
	Stray       uint64 // events of watches that nobody has here
	Retries     uint64 // transactions begun anew after a conflict
	Outstanding int    // requests that the server has not answered yet
	Watches     int    // open
}

// Client is a connection to the store. It is safe for concurrent use: many calls may be under way at once, and are matched to their
// replies by request id, in whatever order these come. Every call ends when its context does; the reply that comes later is swallowed.
//
// A server that breaks the protocol, or goes away, ends the connection: calls under way and later ones answer a [*ConnError].
type Client struct {
	rw   io.ReadWriteCloser
	conf Config
	out  sender
	in   receiver

	slots        chan struct{} // holds one value for each request that the server has not answered
	transactions chan struct{} // holds one value for each transaction
	dead         chan struct{} // closed when the connection is over
	work         sync.WaitGroup

	mu sync.Mutex
	// +checklocks:mu
	core core
	// +checklocks:mu
	merged uint64 // events of watches that are closed
	// +checklocks:mu
	missed uint64

	retries atomic.Uint64
	pool    sync.Pool // of *request
}

// ConnError says that the connection is over, and why: a *[ProtocolError], a *[RingError], [io.EOF], [net.ErrClosed] after Close, or
// what reading or writing answered.
type ConnError struct{ Err error }

func (e *ConnError) Error() string { return "the connection to the store is over: " + e.Err.Error() }

// Unwrap returns why.
func (e *ConnError) Unwrap() error { return e.Err }

// OpError is the error of a call.
type OpError struct {
	Op   string // "read", "write", ...
	Path string // what it was about; "" where there is no path
	Err  error  // an [Errno], an [*UnknownErrno], a [*ConnError], a context's error, ...
}

func (e *OpError) Error() string {
	if e.Path == "" {
		return "xenstore: " + e.Op + ": " + e.Err.Error()
	}
	return "xenstore: " + e.Op + " " + e.Path + ": " + e.Err.Error()
}

// Unwrap returns the error behind it.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether a deadline ended the call.
func (e *OpError) Timeout() bool { return errors.Is(e.Err, context.DeadlineExceeded) }

// NewClient returns a client that speaks over rw: a Unix socket, a [RingConn], a net.Pipe. It owns rw: Close closes it, and closing must
// make its Read and Write return.
func NewClient(rw io.ReadWriteCloser, cfg *Config) *Client {
	conf := cfg.withDefaults()
	c := &Client{
		rw: rw, conf: conf, dead: make(chan struct{}),
		slots:        make(chan struct{}, conf.MaxOutstanding),
		transactions: make(chan struct{}, conf.MaxTransactions),
		core:         newCore(conf.MaxOutstanding),
	}
	c.pool.New = func() any { return c.newRequest() }
	c.out.init(rw)
	c.in.init(rw)
	c.work.Go(c.readLoop)
	c.work.Go(func() {
		if err := c.out.loop(c.dead); err != nil {
			c.fail(err)
		}
	})
	return c
}

// Close ends the connection. Calls under way and watches end with [net.ErrClosed]. It returns when nothing of the client runs any more.
// A second Close returns nil.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	c.work.Wait()
	return nil
}

// Done returns a channel that is closed when the connection is over. [Client.Err] says why.
func (c *Client) Done() <-chan struct{} { return c.dead }

// Err returns nil while the connection works, then why it is over.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.core.err
}

// Stats returns the counters.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	s := c.core.stats
	s.Outstanding, s.Watches = c.core.outstanding(), len(c.core.watches)
	s.Merged, s.Missed = c.merged, c.missed
	open := make([]*Watch, 0, len(c.core.watches))
	for _, w := range c.core.watches {
		open = append(open, w)
	}
	c.mu.Unlock()
	for _, w := range open {
		merged, missed := w.counts()
		s.Merged, s.Missed = s.Merged+merged, s.Missed+missed
	}
	s.Retries = c.retries.Load()
	return s
}

// fail ends the connection, once, and wakes all who wait for it.
func (c *Client) fail(cause error) {
	err := &ConnError{cause}
	c.mu.Lock()
	if c.core.err != nil {
		c.mu.Unlock()
		return
	}
	done := c.core.fail(err)
	watches := c.core.takeWatches()
	c.mu.Unlock()
	close(c.dead)
	for _, req := range done {
		req.wake <- struct{}{}
	}
	for _, w := range watches {
		w.end(err)
	}
	if cause != net.ErrClosed {
		c.conf.Logger.Warn("xenstore: connection lost", "err", cause)
	}
	if err := c.rw.Close(); err != nil {
		c.conf.Logger.Debug("xenstore: close", "err", err)
	}
}

func (c *Client) deliver(h Header, payload []byte) error {
	c.mu.Lock()
	if c.core.err != nil {
		c.mu.Unlock()
		return net.ErrClosed
	}
	o, err := c.core.receive(h, payload)
	c.mu.Unlock()
	if o.freed {
		<-c.slots
	}
	if o.done != nil {
		o.done.wake <- struct{}{}
	}
	if o.watch != nil {
		o.watch.push(o.path)
	}
	for _, w := range o.ended {
		w.end(ErrReset)
	}
	return err
}

// start runs f in a goroutine that Close waits for. Where the connection is over it does not, and reports false.
func (c *Client) start(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.core.err != nil {
		return false // Close may have waited already
	}
	c.work.Go(f)
	return true
}

// call sends a request and waits for the reply. Its payload is head, a NUL, and tail: the form that all requests have. The caller
// returns the request with [Client.release] after it has used the reply.
func (c *Client) call(ctx context.Context, typ MsgType, tx uint32, head string, tail []byte) (*request, error) {
	if size := len(head) + 1 + len(tail); size > MaxPayload {
		return nil, fmt.Errorf("message of %d bytes, more than %d: %w", size, MaxPayload, E2BIG)
	}
	if err := c.acquire(ctx); err != nil {
		return nil, err
	}
	return c.exchange(ctx, typ, tx, head, tail)
}

// exchange is call for one who has acquired a place. Whatever it returns, the server may have got the request.
func (c *Client) exchange(ctx context.Context, typ MsgType, tx uint32, head string, tail []byte) (*request, error) {
	req, err := c.post(nil, typ, tx, head, tail)
	if err != nil {
		return nil, err
	}
	return c.await(ctx, req)
}

// post sends a request for one who has acquired a place. w is the watch that it is to begin, nil if it is none.
func (c *Client) post(w *Watch, typ MsgType, tx uint32, head string, tail []byte) (*request, error) {
	req := c.pool.Get().(*request)
	req.watch = w
	c.mu.Lock()
	err := c.core.begin(req, typ)
	c.mu.Unlock()
	if err != nil {
		c.pool.Put(req)
		return nil, err
	}
	msg := Header{Type: typ, ReqID: req.id, TxID: tx, Len: uint32(len(head) + 1 + len(tail))}.Append(req.msg[:0])
	msg = append(append(msg, head...), 0)
	req.msg = append(msg, tail...)
	if err := c.out.send(req.msg); err != nil {
		c.fail(err)
	}
	return req, nil
}

// acquire takes a place for a request, and waits until there is one.
func (c *Client) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-c.dead:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await waits for the reply to a request that was sent. Where ctx ends first, nobody waits for it any more.
func (c *Client) await(ctx context.Context, req *request) (*request, error) {
	if !c.wait(ctx, req) {
		c.mu.Lock()
		under := c.core.abandon(req)
		c.mu.Unlock()
		if under {
			c.release(req)
			return nil, ctx.Err()
		}
		<-req.wake
	}
	return c.answer(req)
}

// wait waits for the reply to a request that was sent. It reports false where ctx ended first: the request is the caller's still.
func (c *Client) wait(ctx context.Context, req *request) bool {
	wait, found := c.lookFor(ctx, req)
	if !found {
		defer c.slept(wait)
	}
	select {
	case <-req.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer returns the request that has been answered, or the error that the answer was.
func (c *Client) answer(req *request) (*request, error) {
	if err := req.err; err != nil {
		c.release(req)
		return nil, err
	}
	return req, nil
}

func (c *Client) release(req *request) {
	req.err, req.watch = nil, nil
	c.pool.Put(req)
}
