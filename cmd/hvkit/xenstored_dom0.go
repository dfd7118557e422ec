package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/dom0"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// stateFile is what --state writes: the store, and after SIGHUP the descriptors that the next program inherits.
type stateFile struct {
	Store     *xenstored.State
	Listeners []int `json:",omitempty"` // of the two sockets, in this order: the one that may write, the one that may not
}

func readState(name string) (*stateFile, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	st := new(stateFile)
	if err := json.Unmarshal(text, st); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if st.Store == nil {
		return nil, fmt.Errorf("%s has no store", name)
	}
	return st, nil
}

// write puts the file in the place of what is there, for its owner alone: it has all that the store has.
func (st *stateFile) write(name string) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	tmp := name + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// errRestart is why the daemon ended if it is to begin again in place.
var errRestart = errors.New("restart")

// dom0Store is the Xenstore of a control domain.
type dom0Store struct {
	host      *dom0.Host
	server    *xenstored.Server
	listeners []*net.UnixListener
	path      string // of the socket
}

// serveDom0 is the Xenstore of a control domain, until ctx is done.
func (c *xenstoredCmd) serveDom0(ctx context.Context, s *streams, cfg *xenstored.Config) error {
	st, why, err := c.begin()
	if err != nil {
		return err
	}
	beginHistory, endHistory, err := c.keepHistory(cfg)
	if err != nil {
		return err
	}
	d, err := c.openDom0(cfg, st)
	if err != nil {
		return err
	}
	if err := errors.Join(beginHistory(d.server, why), c.writePid()); err != nil {
		return errors.Join(err, d.server.Close(), endHistory(), d.host.Close())
	}
	fmt.Fprintf(s.out, "Xenstore is at %s\n", d.path)
	ended := d.serve(ctx, c.State != "")
	restart := errors.Is(ended, errRestart)
	st, err = d.end(restart)
	if c.State != "" {
		err = errors.Join(err, st.write(c.State))
	}
	err = errors.Join(err, endHistory())
	switch {
	case err != nil:
		return err
	case restart:
		return execSelf(c.State)
	case isType[*interrupt](ended), errors.Is(ended, context.Canceled):
		return nil
	}
	return ended
}

// openDom0 opens devices and sockets, and makes the server, new or from a state.
func (c *xenstoredCmd) openDom0(cfg *xenstored.Config, st *stateFile) (_ *dom0Store, err error) {
	d := &dom0Store{path: c.Socket}
	if d.path == "" {
		d.path = xenstore.DefaultSocket
	}
	if st == nil {
		st = new(stateFile)
	}
	if d.host, err = dom0.Open(cfg.Logger); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, l := range d.listeners {
				_ = l.Close()
			}
			err = errors.Join(err, d.host.Close())
		}
	}()
	cfg.Introducer = d.host
	if err := d.listen(st.Listeners); err != nil {
		return nil, err
	}
	if st.Store == nil {
		d.server = xenstored.New(cfg)
	} else if d.server, err = xenstored.Restore(cfg, st.Store, d.attach); err != nil {
		return nil, err
	}
	if st.Store == nil || !slices.ContainsFunc(st.Store.Conns, isKernel) {
		kernel, err := d.host.Kernel()
		if err != nil {
			return nil, errors.Join(err, d.server.Close())
		}
		go func() { _ = d.server.ServeConn(context.Background(), kernel, 0) }()
	}
	return d, nil
}

// isKernel reports whether a connection is that of the control domain's kernel.
func isKernel(sc xenstored.StateConn) bool {
	return sc.Dom == 0 && !strings.HasPrefix(sc.Handle, socketHandle)
}

// listen opens the two sockets, or takes them over.
func (d *dom0Store) listen(inherited []int) error {
	for i, path := range []string{d.path, filepath.Join(filepath.Dir(d.path), "socket_ro")} {
		var l *net.UnixListener
		var err error
		if i < len(inherited) {
			l, err = inheritListener(inherited[i])
		} else {
			l, err = listenUnix("unix", path)
		}
		if err != nil {
			return err
		}
		d.listeners = append(d.listeners, l)
	}
	return nil
}

func (d *dom0Store) attach(sc xenstored.StateConn) (io.ReadWriteCloser, error) {
	if fd, ok := strings.CutPrefix(sc.Handle, socketHandle); ok {
		return inheritSocket(fd)
	}
	return d.host.Attach(sc.Dom, sc.Handle)
}

// serve serves until ctx is done, something fails, or SIGHUP asks for a restart, and returns why it ended.
func (d *dom0Store) serve(ctx context.Context, mayRestart bool) error {
	ended := make(chan error, 3)
	watching, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { ended <- d.host.Watch(watching, d.server) }()
	// Clients are to be there still when the server is frozen.
	go func() { ended <- d.server.Serve(context.Background(), d.listeners[0]) }()
	go func() { ended <- d.server.ServeReadOnly(context.Background(), d.listeners[1]) }()
	hangup := make(chan os.Signal, 1)
	if mayRestart {
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-hangup:
		return errRestart
	case err := <-ended:
		return err
	}
}

// end freezes the server and gives everything back. If the program goes on as another one, it keeps the sockets and their clients.
func (d *dom0Store) end(restart bool) (*stateFile, error) {
	st := new(stateFile)
	var errs []error
	var err error
	for i := 0; restart && i < len(d.listeners); i++ { // who connects meanwhile waits
		fd, err := holdListener(d.listeners[i])
		errs = append(errs, err)
		st.Listeners = append(st.Listeners, fd)
	}
	held := map[string]bool{}
	st.Store, err = d.server.Freeze(func(_ hypercall.DomID, rw io.ReadWriteCloser) string {
		if handle := dom0.Hold(rw); handle != "" || !restart {
			return handle
		}
		handle := holdSocket(rw)
		held[handle] = handle != ""
		return handle
	})
	for _, sc := range st.Store.Conns {
		delete(held, sc.Handle)
	}
	for handle, yes := range held { // its client has left meanwhile
		if conn, err := inheritSocket(strings.TrimPrefix(handle, socketHandle)); yes && err == nil {
			errs = append(errs, conn.Close())
		}
	}
	errs = append(errs, err, d.host.Close())
	return st, errors.Join(errs...)
}
