package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/dom0"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// serveDom0 is the Xenstore of a control domain, until ctx is done.
func (c *xenstoredCmd) serveDom0(ctx context.Context, s *streams, cfg *xenstored.Config) error {
	path := c.Socket
	if path == "" {
		path = xenstore.DefaultSocket
	}
	host, err := dom0.Open(cfg.Logger)
	if err != nil {
		return err
	}
	defer host.Close()
	cfg.Introducer = host
	l, err := listenUnix("unix", path)
	if err != nil {
		return err
	}
	readOnly, err := listenUnix("unix", filepath.Join(filepath.Dir(path), "socket_ro"))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := xenstored.New(cfg)
	defer server.Close()
	kernel, err := host.Kernel()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	serve := func(what string, f func() error) {
		go func() {
			if err := f(); err != nil && ctx.Err() == nil {
				end(fmt.Errorf("%s: %w", what, err))
			}
		}()
	}
	serve("the kernel's ring", func() error { return server.ServeConn(ctx, kernel, 0) })
	serve("domains", func() error { return host.Watch(ctx, server) })
	for _, l := range []net.Listener{l, readOnly} {
		serve("socket", func() error { return server.Serve(ctx, l) })
	}
	if err := c.writePid(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Xenstore is at %s\n", path)
	<-ctx.Done()
	return whyEnded(ctx)
}
