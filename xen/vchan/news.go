package vchan

import (
	"context"
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
	path        string // of the watch; "" is the end of the incarnation
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
type reader struct{ f func(context.Context) }

// closePatience is how long the last reader waits for the watch to be taken back.
const closePatience = time.Second

// subscribe has f called after each event at path, until the returned function is called. f must not subscribe.
func subscribe(d *xen.Domain, path string, f func(ctx context.Context)) (stop func()) {
	number, next, _ := d.Incarnation()
	key, r := topic{d, number, path}, &reader{f}
	newsOf.mu.Lock()
	n := newsOf.topics[key]
	if n == nil {
		ctx, cancel := context.WithCancel(context.Background())
		n = &news{stop: cancel, done: make(chan struct{}), readers: make(map[*reader]struct{})}
		newsOf.topics[key] = n
		if path == "" {
			go n.awaitEnd(ctx, key, next)
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
	for _, err := range store.Events(ctx, key.path) {
		if err != nil {
			break
		}
		n.tell(ctx)
	}
	n.forget(key)
}

// awaitEnd tells, once, that the incarnation has ended.
func (n *news) awaitEnd(ctx context.Context, key topic, next <-chan struct{}) {
	defer close(n.done)
	select {
	case <-next:
		n.forget(key)
		n.tell(ctx)
	case <-ctx.Done():
	}
}

// forget has who subscribes later begin anew.
func (n *news) forget(key topic) {
	newsOf.mu.Lock()
	defer newsOf.mu.Unlock()
	if newsOf.topics[key] == n {
		delete(newsOf.topics, key)
	}
}

func (n *news) tell(ctx context.Context) {
	for _, r := range n.snapshot() {
		r.f(ctx)
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
	return subscribe(d, xenstore.ReleaseDomain, func(ctx context.Context) {
		introduced, err := d.Store().IsIntroduced(ctx, peer)
		if ctx.Err() == nil {
			f(introduced, err)
		}
	})
}

// follow keeps a connection informed of what it cannot see in its memory. It returns what ends that.
func (c *Conn) follow(d *xen.Domain, peer hypercall.DomID) (stop func()) {
	death := onRelease(d, peer, c.domainReleased)
	end := subscribe(d, "", func(context.Context) { c.domainResumed() })
	c.domainResumed() // it may have come between the handshake and the subscription
	return func() {
		death()
		end()
	}
}
