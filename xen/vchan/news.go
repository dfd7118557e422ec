package vchan

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// newsOf is what connections, listeners and dials of a domain share to learn of the coming (@introduceDomain) and the death
// (@releaseDomain) of domains, and of the end of their own domain's incarnation. Xenstore allows a domain only so many watches, so there
// is one of each.
var newsOf = newsByTopic{topics: make(map[topic]*news)}

type newsByTopic struct {
	mu sync.Mutex
	// +checklocks:mu
	topics map[topic]*news
}

type topic struct {
	d           *xen.Domain
	incarnation uint64
	path        string // of the watch; "" is the end of the incarnation or of the domain
}

// news passes the events of one topic on. A guest that may not watch is told nothing.
type news struct {
	stop context.CancelFunc
	done chan struct{}

	mu sync.Mutex
	// +checklocks:mu
	readers map[*reader]struct{}
}

// reader is who wants to be told. f may be called once more after it has unsubscribed.
type reader struct {
	f func(context.Context, xenstore.Event)
}

// closePatience is how long the last reader waits for the watch to be taken back.
const closePatience = time.Second

// subscribe has f called after each event at path, until the returned function is called. f must not subscribe.
func subscribe(d *xen.Domain, path string, f func(context.Context, xenstore.Event)) (stop func()) {
	number, next, _ := d.Incarnation()
	key, r := topic{d, number, path}, &reader{f}
	newsOf.mu.Lock()
	n := newsOf.topics[key]
	if n == nil {
		ctx, cancel := context.WithCancel(context.Background())
		n = &news{stop: cancel, done: make(chan struct{}), readers: make(map[*reader]struct{})}
		newsOf.topics[key] = n
		if path == "" {
			go n.awaitEnd(ctx, key, next, d.Done())
		} else {
			go n.watch(ctx, key, d.Store())
		}
	}
	n.mu.Lock()
	n.readers[r] = struct{}{}
	n.mu.Unlock()
	newsOf.mu.Unlock()
	return func() { unsubscribe(key, n, r) }
}

func unsubscribe(key topic, n *news, r *reader) {
	newsOf.mu.Lock()
	n.mu.Lock()
	delete(n.readers, r)
	last := len(n.readers) == 0
	n.mu.Unlock()
	if last && newsOf.topics[key] == n {
		delete(newsOf.topics, key)
	}
	newsOf.mu.Unlock()
	if !last {
		return
	}
	n.stop()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-n.done:
	case <-patience.C:
	}
}

// watch passes the events on until ctx is done or the watch ends: it was not allowed, or the connection to Xenstore is over.
func (n *news) watch(ctx context.Context, key topic, store *xenstore.Client) {
	defer close(n.done)
	for e, err := range store.Events(ctx, key.path) {
		if err != nil {
			break
		}
		n.tell(ctx, e)
	}
	n.forget(key)
}

// awaitEnd tells, once, that the incarnation or the domain has ended.
func (n *news) awaitEnd(ctx context.Context, key topic, next, done <-chan struct{}) {
	defer close(n.done)
	select {
	case <-next:
	case <-done:
	case <-ctx.Done():
		return
	}
	n.forget(key)
	n.tell(ctx, xenstore.Event{})
}

// forget has who subscribes later begin anew.
func (n *news) forget(key topic) {
	newsOf.mu.Lock()
	defer newsOf.mu.Unlock()
	if newsOf.topics[key] == n {
		delete(newsOf.topics, key)
	}
}

func (n *news) tell(ctx context.Context, e xenstore.Event) {
	for _, r := range n.snapshot() {
		r.f(ctx, e)
	}
}

func (n *news) snapshot() []*reader {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*reader, 0, len(n.readers))
	for r := range n.readers {
		all = append(all, r)
	}
	return all
}

// onRelease has f called whenever some domain has died: with whether Xenstore still knows peer, or why it does not say.
func onRelease(d *xen.Domain, peer hypercall.DomID, f func(introduced bool, err error)) (stop func()) {
	return subscribe(d, xenstore.ReleaseDomain, func(ctx context.Context, _ xenstore.Event) {
		introduced, err := d.Store().IsIntroduced(ctx, peer)
		if ctx.Err() == nil {
			f(introduced, err)
		}
	})
}

// follow keeps a connection informed of what it cannot see in its memory. It returns what ends that.
func (c *Conn) follow(d *xen.Domain, peer hypercall.DomID) (stop func()) {
	death := onRelease(d, peer, c.domainReleased)
	end := subscribe(d, "", func(context.Context, xenstore.Event) { c.homeChanged() })
	c.homeChanged() // it may have come between the handshake and the subscription
	return func() {
		death()
		end()
	}
}

// ErrEnded says that this program's own domain has ended: it was destroyed, its host went away, or xen.Domain's Close was called. It is
// also net.ErrClosed.
var ErrEnded = fmt.Errorf("vchan: this program's domain has ended: %w", net.ErrClosed)

// ended reports whether the domain has ended.
func ended(d *xen.Domain) bool {
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

// home is the domain of a connection, in the incarnation that the connection belongs to. A nil *home never changes.
type home struct {
	d    *xen.Domain
	next <-chan struct{} // closed when the incarnation has ended
}

func homeOf(d *xen.Domain) *home {
	_, next, _ := d.Incarnation()
	return &home{d, next}
}

// lost returns ErrEnded or hypercall.ErrStale if the domain or its incarnation has ended, and nil while it goes on.
func (h *home) lost() error {
	if h == nil {
		return nil
	}
	if ended(h.d) {
		return ErrEnded
	}
	select {
	case <-h.next:
		return hypercall.ErrStale
	default:
		return nil
	}
}

// verdictPatience is how long a call that finds its memory or channel gone waits to be told why. They go a moment before.
const verdictPatience = time.Second

// verdict is lost for one who knows by err that it must be so, or nearly: it waits for the answer, and returns err if none comes.
func (h *home) verdict(err error) error {
	if h == nil {
		return err
	}
	patience := time.NewTimer(verdictPatience)
	defer patience.Stop()
	select {
	case <-h.d.Done():
	case <-h.next:
	case <-patience.C:
	}
	if lost := h.lost(); lost != nil {
		return lost
	}
	return err
}
