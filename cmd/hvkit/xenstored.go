package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/xenstored"
)

type xenstoredCmd struct {
	Socket  string         `env:"XENSTORED_PATH" placeholder:"PATH" help:"Socket to serve (${env}). Default: beside the host's."`
	Quota   map[string]int `placeholder:"NAME=N" help:"Limit of a guest, by the C server's name: nodes, node-size, watches ..."`
	Dom0    bool           `name:"dom0" help:"Be the Xenstore of this control domain: serve its kernel and the domains above, too. For root, in Xen's dom0."`
	State   string         `placeholder:"FILE" help:"With --dom0, write the store and its connections there at the end. SIGHUP restarts in place."`
	Restore string         `placeholder:"FILE" help:"Begin with what --state has written there."`
	PidFile string         `placeholder:"FILE" help:"Write the process id there once the store is served."`
	Verbose bool           `short:"v" help:"Print what goes wrong with connections."`
}

// Help has the examples.
func (*xenstoredCmd) Help() string {
	return `It serves until ^C. Whoever can connect to the socket is domain 0. A simulated host ('hvkit host') has a Xenstore of its own.

Examples:

    hvkit xenstored --socket /tmp/xs.sock
    XENSTORED_PATH=/tmp/xs.sock hvkit xenstore write /tool/answer 42
    XENSTORED_PATH=/tmp/xs.sock xenstore-ls -f    # Xen's own tools`
}

// Run serves until ctx is done.
func (c *xenstoredCmd) Run(ctx context.Context, s *streams) error {
	cfg := new(xenstored.Config)
	if err := setQuota(&cfg.Quota, c.Quota); err != nil {
		return err
	}
	if c.Verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(s.err, nil))
	}
	if c.Dom0 {
		return c.serveDom0(ctx, s, cfg)
	}
	path := c.Socket
	if path == "" {
		path = filepath.Join(filepath.Dir(defaultHostSocket()), "xenstored.sock")
	}
	l, err := listenUnix("unix", path)
	if err != nil {
		return err
	}
	server, err := c.newServer(cfg)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer server.Close()
	if err := c.writePid(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Xenstore is at %s\nother terminals need export XENSTORED_PATH=%s\n^C ends it.\n", path, path)
	if err := server.Serve(ctx, l); err != nil && ctx.Err() == nil {
		return err
	}
	return whyEnded(ctx)
}

// newServer returns a server that begins with what it was told.
func (c *xenstoredCmd) newServer(cfg *xenstored.Config) (*xenstored.Server, error) {
	if c.Restore == "" {
		return xenstored.New(cfg), nil
	}
	st, err := readState(c.Restore)
	if err != nil {
		return nil, err
	}
	return xenstored.Restore(cfg, &xenstored.State{Version: st.Store.Version, Nodes: st.Store.Nodes}, nil)
}

// whyEnded returns why the context ended, if that was not the user's wish.
func whyEnded(ctx context.Context) error {
	if cause := context.Cause(ctx); !isType[*interrupt](cause) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (c *xenstoredCmd) writePid() error {
	if c.PidFile == "" {
		return nil
	}
	return os.WriteFile(c.PidFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
}

// setQuota sets quotas by the names of the C server's options (xenstored_core.c).
func setQuota(q *xenstored.Quota, values map[string]int) error {
	fields := map[string]*int{
		"nodes": &q.Nodes, "node-size": &q.NodeSize, "watches": &q.Watches, "transactions": &q.Transactions,
		"transaction-nodes": &q.TransactionNodes, "node-permissions": &q.Permissions, "path-max": &q.PathLength,
		"outstanding": &q.Outstanding, "memory": &q.Memory,
	}
	for name, v := range values {
		f := fields[name]
		if f == nil {
			return usagef("no quota is called %q (there are %s)", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		*f = v
	}
	return nil
}
