package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hvkit/hvkit/xen/vchan"
)

type vchanListenCmd struct {
	connFlags
	ringFlags
	stdioFlags
	Count int    `short:"n" placeholder:"N" help:"With --exec: end after so many connections. Default: go on until ^C."`
	Port  string `arg:"" help:"The port to offer, or a path in Xenstore."`
}

// Help has the examples.
func (*vchanListenCmd) Help() string {
	return `Without --exec, standard input and output are for one connection. With it the command runs once for each connection, several at
a time, by the shell, and finds the client's number in HVKIT_PEER.

The end of the input closes the connection (--at-eof=close), or the command goes on receiving until the peer closes (wait). auto
closes, unless the input was empty and no file, as /dev/null: then there was only something to receive.

Examples:

    hvkit vchan listen --domain server 5000 > file
    hvkit vchan listen --domain server --client client --ring 1MiB --stats 5000 > /dev/null
    hvkit vchan listen --domain server --exec 'tar c /etc' backup`
}

// Run serves connections.
func (c *vchanListenCmd) Run(ctx context.Context, s *streams) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Count > 1 && c.Exec == "" {
		return usagef("standard input and output are for one connection: --count needs --exec")
	}
	d, err := c.join(ctx)
	if err != nil {
		return err
	}
	return bounded(ctx, func() error {
		defer d.Close()
		l, err := c.listen(ctx, d, c.Port, c.ringFlags)
		if err != nil {
			return fmt.Errorf("listen %s: %w", c.Port, inner(err))
		}
		defer l.Close()
		return c.serve(ctx, l, s)
	})
}

// serve takes connections until there were enough.
func (c *vchanListenCmd) serve(ctx context.Context, l *vchan.Listener, s *streams) error {
	if c.Exec == "" {
		conn, err := l.AcceptVchan()
		if err != nil {
			return err
		}
		l.Close() // others need not wait for an answer
		return c.handle(ctx, conn, &c.connFlags, s)
	}
	var work sync.WaitGroup
	var failed atomic.Bool
	for n := 0; c.Count <= 0 || n < c.Count; n++ {
		conn, err := l.AcceptVchan()
		if err != nil {
			work.Wait()
			return err
		}
		work.Go(func() {
			if err := c.handle(ctx, conn, &c.connFlags, s); err != nil {
				fmt.Fprintf(s.err, "hvkit: vchan listen: %s\n", oneLine(err))
				failed.Store(true)
			}
		})
	}
	work.Wait()
	if failed.Load() {
		return errSilent
	}
	return nil
}
