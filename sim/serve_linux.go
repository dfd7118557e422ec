package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/internal/attach"
)

// Bounds on processes that connect.
const (
	helloTimeout = 5 * time.Second  // to say who it is, by default
	replyTimeout = 10 * time.Second // to take a message
	endTimeout   = time.Second      // to take the last message
	maxStrangers = 64               // connections that have not said yet who they are
	maxProcesses = 1024             // connections in all
	maxName      = 255              // bytes of a name that a process chooses
	acceptPause  = 50 * time.Millisecond
)

// remote is what a host has for processes that connect.
type remote struct {
	mu sync.Mutex
	// +checklocks:mu
	stopped bool
	// +checklocks:mu
	closers map[io.Closer]bool

	running sync.WaitGroup // grows while mu is held and not stopped
}

// track has stop close c. It reports whether the host goes on.
func (r *remote) track(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	if r.closers == nil {
		r.closers = make(map[io.Closer]bool)
	}
	r.closers[c] = true
	return true
}

func (r *remote) forget(c io.Closer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.closers, c)
}

// begin runs f for a connection that stop closes until f forgets it, and reports whether the host goes on.
func (r *remote) begin(c io.Closer, f func()) bool {
	if !r.track(c) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.running.Go(f)
	return true
}

// stop closes the listeners and those connections that are no domains yet.
func (r *remote) stop() {
	r.mu.Lock()
	r.stopped = true
	closers := r.closers
	r.closers = nil
	r.mu.Unlock()
	for c := range closers {
		c.Close()
	}
}

func (r *remote) wait() { r.running.Wait() }

// Serve lets other processes join the host as its domains, over a listener on a SOCK_SEQPACKET Unix socket ("unixpacket"), until ctx
// is done, the host is closed or the listener fails. It closes the listener. Processes that are domains by then stay so.
//
// A process that dies is a domain that is destroyed: its peers see it at once, and pages of it that they have mapped stay valid. One that
// breaks the protocol is told what was wrong, and its domain is destroyed; no other domain notices.
func (h *Host) Serve(ctx context.Context, l *net.UnixListener, cfg *ServeConfig) error {
	defer l.Close()
	if !h.cfg.Shared {
		return errors.New("sim: serve: the host was made without HostConfig.Shared")
	}
	var c ServeConfig
	if cfg != nil {
		c = *cfg
	}
	if c.HelloTimeout <= 0 {
		c.HelloTimeout = helloTimeout
	}
	if !h.remote.track(l) {
		return fmt.Errorf("sim: serve: %w", net.ErrClosed)
	}
	defer h.remote.forget(l)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	d := doorman{h: h, cfg: c, strangers: make(chan struct{}, maxStrangers), all: make(chan struct{}, maxProcesses)}
	for {
		sock, err := l.AcceptUnix()
		switch {
		case err == nil:
			d.admit(sock)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case passing(err):
			h.log.Warn("sim: a process could not be let in", "err", err)
			time.Sleep(acceptPause)
		default:
			return fmt.Errorf("sim: serve: %w", err)
		}
	}
}

// passing reports whether an error of accept is one that goes by.
func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// doorman lets processes in.
type doorman struct {
	h         *Host
	cfg       ServeConfig
	strangers chan struct{} // a place for each connection that has not said yet who it is
	all       chan struct{} // a place for each connection
}

// admit serves a connection, unless there are too many.
func (d *doorman) admit(sock *net.UnixConn) {
	if !take(d.all) {
		d.refuse(sock, "too many processes are connected")
		return
	}
	if !take(d.strangers) {
		<-d.all
		d.refuse(sock, "too many processes are connected that do not say who they are")
		return
	}
	ok := d.h.remote.begin(sock, func() {
		d.serve(sock)
		<-d.all
	})
	if !ok {
		sock.Close()
		<-d.strangers
		<-d.all
	}
}

func take(places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

// refuse says why, as far as that can be said without waiting.
func (d *doorman) refuse(sock *net.UnixConn, why string) {
	d.h.log.Warn("sim: a process is refused: " + why)
	sock.SetDeadline(time.Now().Add(acceptPause))
	attach.NewConn(sock).Send(&attach.Message{Kind: attach.Ended, Text: why})
	sock.Close()
}

// serve serves one process from its hello to its end.
func (d *doorman) serve(sock *net.UnixConn) {
	defer sock.Close()
	defer d.h.remote.forget(sock)
	conn := attach.NewConn(sock)
	sock.SetDeadline(time.Now().Add(d.cfg.HelloTimeout))
	dom, err := d.claim(conn)
	<-d.strangers
	if err != nil {
		d.h.log.Warn("sim: a process could not join", "err", err)
		sock.SetDeadline(time.Now().Add(endTimeout))
		conn.Send(&attach.Message{Kind: attach.Ended, Text: err.Error()})
		return
	}
	d.h.remote.forget(sock) // from here on it is closed when its domain ends
	err = d.h.converse(dom, sock, conn)
	d.h.trace.add(0, "the process of %q has gone: %v", dom.name, err)
	d.h.log.Info("sim: the process of a domain has gone", "domain", dom.name, "err", err)
	dom.destroy(err.Error())
	if d.cfg.OnLeave != nil {
		d.cfg.OnLeave(dom.name)
	}
}

// converse makes the connection the domain's process, and answers it until it goes.
func (h *Host) converse(d *Domain, sock *net.UnixConn, conn *attach.Conn) error {
	gone, forget, err := h.hungUp(sock)
	if err != nil {
		return err
	}
	defer forget()
	sock.SetDeadline(time.Time{})
	if err := d.external.begin(d); err != nil {
		return err
	}
	return d.external.serve(d, gone)
}

// claim takes a process's hello and makes it the domain that it may be.
func (d *doorman) claim(conn *attach.Conn) (*Domain, error) {
	m, fds, err := conn.Receive()
	if err != nil {
		return nil, fmt.Errorf("no hello: %w", err)
	}
	fds.Close()
	if m.Kind != attach.Hello || m.ID != attach.Version {
		return nil, fmt.Errorf("%v with version %d in place of a hello with version %d", m.Kind, m.ID, attach.Version)
	}
	if m.Text != "" {
		dom := d.h.byToken(m.Text)
		if dom == nil {
			return nil, errors.New("no domain has this token")
		}
		if !dom.external.connect(conn) {
			return nil, fmt.Errorf("domain %q has a process already", dom.name)
		}
		return dom, nil
	}
	switch {
	case !d.cfg.Open:
		return nil, errors.New("the host takes only processes with the token of a domain")
	case len(m.Name) > maxName:
		return nil, fmt.Errorf("a name of %d bytes: it has at most %d", len(m.Name), maxName)
	}
	dom, err := d.h.NewDomain(&DomainConfig{Name: m.Name, External: true})
	if err == nil {
		dom.external.connect(conn)
	}
	return dom, err
}

// byToken returns the domain that the token claims, or nil.
func (h *Host) byToken(token string) *Domain {
	for _, d := range h.Domains() {
		if d.token != "" && d.token == token {
			return d
		}
	}
	return nil
}
