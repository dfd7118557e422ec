package vchan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// directory knows which domains a listener serves, and keeps a goroutine for each that there is.
type directory struct {
	l     *Listener
	ids   map[hypercall.DomID]bool // clients given by number
	names map[string]bool          // clients given by name

	ctx   context.Context // of the present run
	news  chan struct{}   // of capacity 1: domains may have come or gone, or a goroutine may have ended
	heard atomic.Int32    // how often the watches for domains have fired

	mu sync.Mutex
	// +checklocks:mu
	serving map[hypercall.DomID]*served
}

// served is a client that offers are made to.
type served struct {
	*client
	cancel context.CancelFunc
	done   chan struct{}
}

// Guests may not be told of the coming and death of domains even where they may list them. So a listener looks by itself: often until it
// was told of a domain, and rarely when it knows that it is told.
const (
	oftenInterval  = 250 * time.Millisecond
	rarelyInterval = 5 * time.Second
	// firstEvents are what two watches say when they begin.
	firstEvents = 2
)

// newDirectory sorts the clients out. It fails if what was asked for needs rights that this domain does not have.
func newDirectory(ctx context.Context, l *Listener) (*directory, error) {
	dir := &directory{l: l, ids: make(map[hypercall.DomID]bool), names: make(map[string]bool), news: make(chan struct{}, 1)}
	for _, c := range l.cfg.Clients {
		id, err := l.d.Lookup(ctx, c)
		_, notNumber := xenstore.ParseDomID(c)
		switch {
		case err == nil && notNumber == nil:
			dir.ids[id] = true
		case err == nil || errors.Is(err, fs.ErrNotExist):
			dir.names[c] = true
		default:
			return nil, err
		}
	}
	if l.cfg.Any || len(dir.names) > 0 {
		if _, err := l.d.Store().List(ctx, "/local/domain"); err != nil {
			return nil, fmt.Errorf("listing the domains, as is needed to serve any or by name: %w", err)
		}
	}
	return dir, nil
}

// run follows the coming and going of domains, and what becomes of the offers in Xenstore, until ctx is done.
func (dir *directory) run(ctx context.Context) {
	l := dir.l
	dir.begin(ctx)
	defer dir.stopAll()
	for _, path := range []string{xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		defer subscribe(l.d, path, func(context.Context, xenstore.Event) {
			dir.heard.Add(1)
			poke(dir.news)
		})()
	}
	defer subscribe(l.d, l.root(l.d.ID()), func(_ context.Context, e xenstore.Event) { dir.changed(e) })()
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-dir.news:
		case <-again.C:
		case <-ctx.Done():
			return
		}
		dir.update(ctx)
		again.Reset(dir.interval())
	}
}

func (dir *directory) begin(ctx context.Context) {
	dir.ctx = ctx
	dir.mu.Lock()
	defer dir.mu.Unlock()
	dir.serving = make(map[hypercall.DomID]*served)
}

// interval returns how long to wait for news at most.
func (dir *directory) interval() time.Duration {
	if dir.heard.Load() > firstEvents {
		return rarelyInterval
	}
	return oftenInterval
}

// poke puts something into a channel of capacity 1, if nothing is in it.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// changed has those clients look at their offers whose keys an event may be about.
func (dir *directory) changed(e xenstore.Event) {
	for _, s := range dir.all() {
		if e.Missed > 0 || e.Path == s.base || e.Path == s.base+"/"+keyEventChannel || strings.HasPrefix(s.base, e.Path+"/") {
			poke(s.look)
		}
	}
}

func (dir *directory) all() map[hypercall.DomID]*served {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	return maps.Clone(dir.serving)
}

// update starts to serve the clients that have come and stops serving those that have gone. Those that are served look whether their
// domain is still the one that they were made for: a domain can go and another come with its number between two looks.
func (dir *directory) update(ctx context.Context) {
	for id, s := range dir.all() {
		select {
		case <-s.done:
			dir.stop(id)
		default:
			poke(s.look)
		}
	}
	if dir.l.cfg.Any || len(dir.names) > 0 {
		dir.scan(ctx)
	}
	for id := range dir.ids {
		dir.start(id)
	}
}

// scan goes through the domains that there are.
func (dir *directory) scan(ctx context.Context) {
	names, err := dir.l.d.Store().List(ctx, "/local/domain")
	if err != nil {
		return // the next scan may do better
	}
	there := make(map[hypercall.DomID]bool)
	for _, text := range names {
		if id, err := xenstore.ParseDomID(text); err == nil {
			there[id] = true
		}
	}
	serving := dir.all()
	for id := range serving {
		if !there[id] && !dir.ids[id] {
			dir.stop(id)
		}
	}
	for id := range there {
		if serving[id] == nil && dir.wanted(ctx, id) {
			dir.start(id)
		}
	}
}

// wanted reports whether the domain that has the number now is to be served. What was found is not remembered: the number may be another
// domain's at the next look, and a name may be given late.
func (dir *directory) wanted(ctx context.Context, id hypercall.DomID) bool {
	if dir.l.cfg.Any || dir.ids[id] {
		return true
	}
	name, err := dir.l.d.Store().Read(ctx, xenstore.DomainPath(id)+"/name")
	return err == nil && dir.names[string(name)]
}

// start begins to serve a client, if that was not done.
func (dir *directory) start(id hypercall.DomID) {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if dir.serving[id] != nil || dir.l.path != "" && len(dir.serving) > 0 {
		return // a path is for one, also if several have the name
	}
	ctx, cancel := context.WithCancel(dir.ctx)
	s := &served{client: dir.l.newClient(id, dir.wanted), cancel: cancel, done: make(chan struct{})}
	dir.serving[id] = s
	go func() {
		s.serve(ctx)
		close(s.done)
		poke(dir.news)
	}()
}

// stop stops serving a client and waits until its offer is withdrawn.
func (dir *directory) stop(id hypercall.DomID) {
	dir.mu.Lock()
	s := dir.serving[id]
	delete(dir.serving, id)
	dir.mu.Unlock()
	s.cancel()
	<-s.done
	dir.l.tidy(s.client)
}

func (dir *directory) stopAll() {
	all := dir.all()
	for _, s := range all {
		s.cancel()
	}
	for id := range all {
		dir.stop(id)
	}
}
