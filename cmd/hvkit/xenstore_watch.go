package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/hvkit/hvkit/xen/xenstore"
)

type xenstoreWatchCmd struct {
	Count int      `short:"n" placeholder:"N" help:"End after so many events. Default: go on until ^C."`
	JSON  bool     `name:"json" help:"Print each event as a line of JSON."`
	Path  []string `arg:"" help:"Nodes to watch, or @introduceDomain or @releaseDomain."`
}

// Help has the examples.
func (*xenstoreWatchCmd) Help() string {
	return `Each watched path is printed once at the start, which counts as an event. Events of one path that come faster than they are
printed are printed once.

Examples:

    hvkit xenstore watch /local/domain
    hvkit xenstore watch -n 2 @introduceDomain    # end when the next domain has come`
}

// watchEvent is one line of JSON.
type watchEvent struct {
	Watch  string `json:"watch"`
	Path   string `json:"path"`
	Merged uint64 `json:"merged,omitempty"` // further events of the same path
	Missed uint64 `json:"missed,omitempty"` // events of unknown paths below
}

// Run prints events until there were enough.
func (c *xenstoreWatchCmd) Run(ctx context.Context, s *streams, x *xenstoreCmd) error {
	store, closeStore, err := x.dial(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	events := make(chan watchEvent)
	failed := make(chan error, len(c.Path))
	for _, path := range c.Path {
		work.Go(func() { failed <- follow(ctx, store, path, events) })
	}
	for n := 0; c.Count <= 0 || n < c.Count; n++ {
		select {
		case e := <-events:
			if err := c.print(s.out, e); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
	return nil
}

// dial connects within the timeout; the watching itself has none.
func (f *storeFlags) dial(ctx context.Context) (*xenstore.Client, func(), error) {
	ctx, cancel := within(ctx, f.Timeout)
	defer cancel()
	return f.open(ctx)
}

// follow passes on the events of one path until ctx is done or the store fails.
func follow(ctx context.Context, store *xenstore.Client, path string, to chan<- watchEvent) error {
	for e, err := range store.Events(ctx, path) {
		if err != nil {
			return err
		}
		select {
		case to <- watchEvent{path, e.Path, e.Merged, e.Missed}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *xenstoreWatchCmd) print(w io.Writer, e watchEvent) (err error) {
	switch {
	case c.JSON:
		err = json.NewEncoder(w).Encode(e)
	case e.Missed > 0:
		_, err = fmt.Fprintf(w, "%s (and %d more below it)\n", e.Path, e.Missed)
	default:
		_, err = fmt.Fprintln(w, e.Path)
	}
	return err
}
