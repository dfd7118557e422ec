package xenstore

import (
	"context"
	"errors"
	"iter"
	"net"
	"sync"
	"time"
)

// DefaultWatchQueue is how many paths the queue of a watch holds by default.
const DefaultWatchQueue = 256

// How long the end of a watch or transaction waits for a server that does not answer, and how much longer once the caller's context is
// done. The request goes on without its caller.
const (
	endPatience = 5 * time.Second
	endGrace    = 100 * time.Millisecond
)

// ErrReset is what ends the watches of a client that has called [Client.ResetWatches].
var ErrReset = errors.New("xenstore: watches were reset")

// WatchConfig configures a watch. A field that is zero has its default.
type WatchConfig struct {
	Queue int // different paths that the queue holds, of up to 3 KiB each. Default DefaultWatchQueue
}

// Watch is told of changes to a node and to all under it. Events wait in a bounded queue, in which those of the same path become one,
// and those that do not fit become one with Missed set: a reader that is slow holds up nobody and loses nothing but detail.
//
// Take events with one of Next, Events and C. A Watch is safe for concurrent use; each event goes to one taker.
type Watch struct {
	c     *Client
	path  string
	token string // on the wire; set before anybody else sees the watch
	begun bool   // the core's: the server has answered that it has the watch

	ready chan struct{} // of capacity 1: the queue is not empty
	ended chan struct{} // closed by end

	mu sync.Mutex
	// +checklocks:mu
	queue eventQueue
	// +checklocks:mu
	err error // why it has ended
	// +checklocks:mu
	events chan Event // of C
}

// Watch begins to watch a path: a node, which need not exist, or a special path such as [ReleaseDomain]. An event of the path itself
// comes at once. ctx is for the beginning only; the watch goes on until [Watch.Close].
func (c *Client) Watch(ctx context.Context, path string, cfg *WatchConfig) (*Watch, error) {
	limit := DefaultWatchQueue
	if cfg != nil && cfg.Queue > 0 {
		limit = cfg.Queue
	}
	w := &Watch{
		c: c, path: path, queue: newEventQueue(path, limit),
		ready: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	if err := c.register(ctx, w); err != nil {
		return nil, opError("watch", path, err)
	}
	return w, nil
}

// register enters the watch before it asks for it: its first event may come before the reply.
func (c *Client) register(ctx context.Context, w *Watch) error {
	if err := CheckWatchPath(w.path); err != nil {
		return err
	}
	c.mu.Lock()
	err := c.core.watch(w)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	sent := false
	if err = c.acquire(ctx); err == nil {
		sent = true
		err = c.askToWatch(ctx, w)
	}
	switch {
	case err == nil:
		return nil
	case sent && (ctx.Err() != nil || w.begun): // the server may have it, or get it yet
		_ = w.close(ctx)
		return err
	}
	c.mu.Lock()
	c.core.unwatch(w)
	c.mu.Unlock()
	return err
}

// askToWatch makes the request, for one who has acquired a place.
func (c *Client) askToWatch(ctx context.Context, w *Watch) error {
	req, err := c.post(w, MsgWatch, 0, w.path, append([]byte(w.token), 0))
	if err == nil {
		req, err = c.await(ctx, req)
	}
	if err != nil {
		return err
	}
	return c.acked(req)
}

// Path returns what is watched.
func (w *Watch) Path() string { return w.path }

// push enters an event. The reader of the connection calls it; it never waits for a taker.
func (w *Watch) push(path []byte) {
	w.mu.Lock()
	first := w.err == nil && w.queue.push(path)
	w.mu.Unlock()
	if first {
		wake(w.ready)
	}
}

func (w *Watch) counts() (merged, missed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue.merged, w.queue.missed
}

// end ends the watch, once. What is queued can still be taken.
func (w *Watch) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.ended)
	}
}

// take takes the oldest event. Where there is none it returns why the watch has ended, if it has.
func (w *Watch) take() (e Event, ok bool, err error) {
	w.mu.Lock()
	e, ok = w.queue.pop()
	if !ok {
		err = opError("watch", w.path, w.err)
	}
	more := w.queue.len() > 0
	w.mu.Unlock()
	if more {
		wake(w.ready) // for another taker
	}
	return e, ok, err
}

// Next takes the oldest event and waits until there is one. Its errors are *[OpError] of [net.ErrClosed] after Close, of [ErrReset]
// after [Client.ResetWatches], of a *[ConnError] when the connection is over, or of ctx's error.
func (w *Watch) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, opError("watch", w.path, err)
		}
		e, ok, err := w.take()
		if ok || err != nil {
			return e, err
		}
		select {
		case <-w.ready:
		case <-w.ended:
		case <-ctx.Done():
		}
	}
}

// Len returns how many events wait to be taken.
func (w *Watch) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue.len()
}

// Events yields events until the watch is closed. An error is the last thing it yields: the connection is over, or the watches were
// reset.
func (w *Watch) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			e, err := w.Next(context.Background())
			if err != nil && w.Err() == net.ErrClosed {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// C returns a channel of the events, for select. It is closed when the watch has ended; [Watch.Err] says why. What was queued is lost
// then. Every call returns the same channel.
func (w *Watch) C() <-chan Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.events == nil {
		events := make(chan Event)
		w.events = events
		if !w.c.start(func() { w.pump(events) }) {
			close(events)
		}
	}
	return w.events
}

func (w *Watch) pump(ch chan<- Event) {
	defer close(ch)
	for {
		e, err := w.Next(context.Background())
		if err != nil {
			return
		}
		select {
		case ch <- e:
		case <-w.ended:
			return
		}
	}
}

// Err returns nil while the watch goes on, then why it has ended.
func (w *Watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the watch and tells the server. What is queued can still be taken with Next. It waits for the server's answer, but not for
// long. A second Close returns nil.
func (w *Watch) Close() error { return w.close(context.Background()) }

func (w *Watch) close(ctx context.Context) error {
	c := w.c
	c.mu.Lock()
	mine := c.core.unwatch(w)
	c.mu.Unlock()
	if !mine {
		w.end(net.ErrClosed)
		return nil
	}
	merged, missed := w.counts()
	c.mu.Lock()
	c.merged, c.missed = c.merged+merged, c.missed+missed
	c.mu.Unlock()
	w.end(net.ErrClosed)
	return opError("unwatch", w.path, c.inBackground(ctx, func() error {
		return c.tell(context.Background(), MsgUnwatch, 0, w.path, append([]byte(w.token), 0))
	}))
}

// inBackground has f, a call that must reach the server, go on whatever becomes of the caller. It waits for the answer only for a
// while, and forgives that the connection is over: then the server has forgotten what the call was to end.
func (c *Client) inBackground(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	if !c.start(func() { result <- f() }) {
		return nil
	}
	patience := time.NewTimer(endPatience)
	defer patience.Stop()
	canceled := ctx.Done()
	for {
		select {
		case err := <-result:
			if _, over := errors.AsType[*ConnError](err); over {
				return nil
			}
			return err
		case <-canceled:
			canceled = nil
			patience.Reset(endGrace)
		case <-patience.C:
			return nil
		}
	}
}

// Events watches a path and yields its events until ctx is done or the loop is left, and then unwatches it. An error is the last thing
// that it yields, ctx's error among them. See [Client.Watch].
func (c *Client) Events(ctx context.Context, path string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w, err := c.Watch(ctx, path, nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer func() { _ = w.close(ctx) }()
		for {
			e, err := w.Next(ctx)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Wait calls check once the path is watched and after each event of it, until check returns true or an error, or ctx is done. check
// reads what it wants to know; it may be called without a cause. It does not depend on the first event, which a server can lose.
func (c *Client) Wait(ctx context.Context, path string, check func(ctx context.Context) (done bool, err error)) error {
	w, err := c.Watch(ctx, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = w.close(ctx) }()
	for {
		if done, err := check(ctx); done || err != nil {
			return err
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}
