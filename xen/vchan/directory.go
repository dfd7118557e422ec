package vchan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// directory knows which domains a listener serves, and keeps a goroutine for each that there is.
type directory struct {
	l     *Listener
	ids   map[hypercall.DomID]bool // clients given by number
	names map[string]bool          // clients given by name

	ctx     context.Context // of the present run
	serving map[hypercall.DomID]*served
	judged  map[hypercall.DomID]bool // domains whose name is known: whether it is one of names
}

// served is a client that offers are made to.
type served struct {
	cancel context.CancelFunc
	done   chan struct{}
	there  bool // when Xenstore was last asked
}

// rescanInterval is how often a listener looks for clients by itself. Guests may not be told of the coming and death of domains even
// where they may list them, and a name can be written after its domain was introduced.
const rescanInterval = 250 * time.Millisecond

// newDirectory sorts the clients out. It fails if what was asked for needs rights that this domain does not have.
func newDirectory(ctx context.Context, l *Listener) (*directory, error) {
	dir := &directory{l: l, ids: make(map[hypercall.DomID]bool), names: make(map[string]bool)}
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

// run follows the coming and going of domains until ctx is done.
func (dir *directory) run(ctx context.Context) {
	l := dir.l
	dir.ctx, dir.serving, dir.judged = ctx, make(map[hypercall.DomID]*served), make(map[hypercall.DomID]bool)
	defer dir.stopAll()
	changed := make(chan struct{}, 1)
	for _, path := range []string{xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		defer subscribe(l.d, path, func(context.Context) { poke(changed) })()
	}
	again := time.NewTicker(rescanInterval)
	defer again.Stop()
	for {
		dir.update(ctx)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// poke puts something into a channel of capacity 1, if nothing is in it.
func poke(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// update starts to serve the clients that have come and stops serving those that have gone.
func (dir *directory) update(ctx context.Context) {
	if dir.l.cfg.Any || len(dir.names) > 0 {
		dir.scan(ctx)
	}
	for id := range dir.ids {
		dir.follow(ctx, id)
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
	for id := range dir.judged {
		if !there[id] {
			delete(dir.judged, id)
		}
	}
	for id := range there {
		if !dir.ids[id] && dir.wanted(ctx, id) {
			dir.start(id)
		}
	}
	for id := range dir.serving {
		if !there[id] && !dir.ids[id] {
			dir.stop(id)
		}
	}
}

// wanted reports whether a domain that was not given by number is to be served. Its name is asked for until it has one.
func (dir *directory) wanted(ctx context.Context, id hypercall.DomID) bool {
	if dir.l.cfg.Any {
		return true
	}
	yes, known := dir.judged[id]
	if !known {
		name, err := dir.l.d.Store().Read(ctx, "/local/domain/"+strconv.Itoa(int(id))+"/name")
		if err != nil {
			return false
		}
		yes = dir.names[string(name)]
		dir.judged[id] = yes
	}
	return yes
}

// follow serves a client given by number, and makes the offers to it anew when its domain has come or gone: Xenstore forgets the
// permissions of a domain that dies, and does not count those given before it was introduced.
func (dir *directory) follow(ctx context.Context, id hypercall.DomID) {
	there, known := exists(ctx, dir.l.d.Store(), id)
	if s := dir.serving[id]; s != nil && known && s.there != there {
		dir.stop(id)
	}
	dir.start(id) // even if nobody knows of it: this domain may not be allowed to ask
	dir.serving[id].there = there
}

// start begins to serve a client, if that was not done.
func (dir *directory) start(id hypercall.DomID) {
	if dir.serving[id] != nil {
		return
	}
	ctx, cancel := context.WithCancel(dir.ctx)
	s := &served{cancel: cancel, done: make(chan struct{})}
	dir.serving[id] = s
	go func() {
		defer close(s.done)
		dir.l.serve(ctx, id)
	}()
}

// stop stops serving a client and waits until its offer is withdrawn.
func (dir *directory) stop(id hypercall.DomID) {
	s := dir.serving[id]
	delete(dir.serving, id)
	s.cancel()
	<-s.done
}

func (dir *directory) stopAll() {
	for _, s := range dir.serving {
		s.cancel()
	}
	for _, s := range dir.serving {
		<-s.done
	}
}
