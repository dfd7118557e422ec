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

	"github.com/hvkit/hvkit/cmd/hvkit/internal/history"
	"github.com/hvkit/hvkit/xen/xenstored"
)

type xenstoredCmd struct {
	Socket  string         `env:"XENSTORED_PATH" placeholder:"PATH" help:"Socket to serve (${env}). Default: beside the host's."`
	Quota   map[string]int `placeholder:"NAME=N" help:"Limit of a guest, by the C server's name: nodes, node-size, watches ..."`
	Dom0    bool           `name:"dom0" help:"Be the Xenstore of this control domain, its kernel and its guests. For root in Xen's dom0."`
	State   string         `placeholder:"FILE" help:"With --dom0, leave the store and its connections there. SIGHUP restarts in place."`
	Restore string         `placeholder:"FILE" help:"Begin with what --state has written there."`
	History string         `placeholder:"DIR" help:"Keep each change as a commit of the Git repository there."`
	From    string         `name:"restore-from" placeholder:"DIR@COMMIT" help:"Begin with what a commit of a history has (HEAD~3, a hash)."`
	PidFile string         `placeholder:"FILE" help:"Write the process id there once the store is served."`
	Verbose bool           `short:"v" help:"Print what goes wrong with connections."`
}

// Help has the examples.
func (*xenstoredCmd) Help() string {
	return `It serves until ^C. Whoever can connect to the socket is domain 0. A simulated host ('hvkit host') has a Xenstore of its own.

Examples:

    hvkit xenstored --socket /tmp/xs.sock
    XENSTORED_PATH=/tmp/xs.sock hvkit xenstore write /tool/answer 42
    XENSTORED_PATH=/tmp/xs.sock xenstore-ls -f    # Xen's own tools

    hvkit xenstored --history /tmp/xs.git         # then: git -C /tmp/xs.git log --stat
    hvkit xenstored --restore-from /tmp/xs.git@HEAD~3

In a real dom0, in place of Xen's daemon (a restart keeps domains, watches and the store):

    hvkit xenstored --dom0 --state /run/xenstored/state --pid-file /run/xenstored.pid
    kill -HUP $(cat /run/xenstored.pid)           # the same with another binary in its place`
}

// Run serves until ctx is done.
func (c *xenstoredCmd) Run(ctx context.Context, s *streams) (err error) {
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
	st, why, err := c.begin()
	if err != nil {
		return err
	}
	begin, end, err := c.keepHistory(cfg)
	if err != nil {
		return err
	}
	server, err := newServer(cfg, st)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close(), end()) }()
	if err := begin(server, why); err != nil {
		return err
	}
	l, err := listenUnix("unix", path)
	if err != nil {
		return err
	}
	if err := c.writePid(); err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(s.out, "Xenstore is at %s\nother terminals need export XENSTORED_PATH=%s\n^C ends it.\n", path, path)
	if err := server.Serve(ctx, l); err != nil && ctx.Err() == nil {
		return err
	}
	return whyEnded(ctx)
}

// newServer returns a server that begins with the tree of a state, if there is one.
func newServer(cfg *xenstored.Config, st *stateFile) (*xenstored.Server, error) {
	if st == nil {
		return xenstored.New(cfg), nil
	}
	return xenstored.Restore(cfg, &xenstored.State{Version: st.Store.Version, Nodes: st.Store.Nodes}, nil)
}

// begin returns the state that the server begins with, and why; nil for an empty store.
func (c *xenstoredCmd) begin() (*stateFile, string, error) {
	switch {
	case c.Restore != "" && c.From != "":
		return nil, "", usagef("--restore and --restore-from: the store begins with one of them")
	case c.Restore != "":
		st, err := readState(c.Restore)
		return st, "the store goes on", err
	case c.From != "":
		i := strings.LastIndexByte(c.From, '@')
		if i < 0 {
			return nil, "", usagef("--restore-from %s: there is no @COMMIT", c.From)
		}
		store, err := history.Read(c.From[:i], c.From[i+1:])
		return &stateFile{Store: store}, "the store begins with " + c.From[i+1:], err
	}
	return nil, "the store begins", nil
}

// keepHistory has what the server changes written, if that is wanted. What it returns ends it once the server is closed.
func (c *xenstoredCmd) keepHistory(cfg *xenstored.Config) (begin func(*xenstored.Server, string) error, end func() error, err error) {
	if c.History == "" {
		return func(*xenstored.Server, string) error { return nil }, func() error { return nil }, nil
	}
	log, err := history.Open(c.History, cfg.Logger)
	if err != nil {
		return nil, nil, err
	}
	cfg.Changed = log.Record
	return func(s *xenstored.Server, why string) error { return log.Begin(s.Snapshot(), why) }, log.Close, nil
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
