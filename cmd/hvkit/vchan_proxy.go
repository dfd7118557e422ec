package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

type vchanProxyCmd struct {
	connFlags
	ringFlags
	Timeout time.Duration `default:"10s" help:"How long to wait for the other side of a connection; 0 waits for ever."`
	From    string        `arg:"" help:"Where to take connections: vchan:PORT, tcp:ADDRESS:PORT or unix:PATH."`
	To      string        `arg:"" help:"Where to carry them: vchan:DOMAIN:PORT, tcp:HOST:PORT or unix:PATH."`
}

// Help has the examples.
func (*vchanProxyCmd) Help() string {
	return `It serves until ^C. When one side of a connection ends, what it said is brought to the other side, and both are closed.

Examples:

    hvkit vchan proxy --domain web vchan:80 tcp:127.0.0.1:8080           # offers a web server to other domains
    hvkit vchan proxy --domain browser tcp:127.0.0.1:9000 vchan:web:80   # curl http://127.0.0.1:9000/
    hvkit vchan proxy --domain browser unix:/tmp/web.sock vchan:web:80`
}

// endpoint is one side of a proxy.
type endpoint struct {
	network string // vchan, tcp or unix
	domain  string // of a vchan that is dialed
	addr    string // port, address or path
}

func (e endpoint) String() string {
	if e.domain != "" {
		return e.network + ":" + e.domain + ":" + e.addr
	}
	return e.network + ":" + e.addr
}

// parseEndpoint parses a side of a proxy. A vchan has a domain only where it is dialed.
func parseEndpoint(text string, dialed bool) (endpoint, error) {
	network, addr, _ := strings.Cut(text, ":")
	e := endpoint{network: network, addr: addr}
	switch {
	case addr == "":
	case network == "unix":
		return e, nil
	case network == "tcp":
		if _, _, err := net.SplitHostPort(addr); err == nil {
			return e, nil
		}
	case network == "vchan" && !dialed:
		if !strings.Contains(addr, ":") {
			return e, nil
		}
	case network == "vchan":
		var ok bool
		if e.domain, e.addr, ok = strings.Cut(addr, ":"); ok && e.domain != "" && e.addr != "" {
			return e, nil
		}
	}
	forms := "vchan:PORT, tcp:ADDRESS:PORT or unix:PATH"
	if dialed {
		forms = "vchan:DOMAIN:PORT, tcp:HOST:PORT or unix:PATH"
	}
	return endpoint{}, usagef("%q is none of %s", text, forms)
}

// Run carries connections until ctx is done.
func (c *vchanProxyCmd) Run(ctx context.Context, s *streams) error {
	from, err := parseEndpoint(c.From, false)
	if err != nil {
		return err
	}
	to, err := parseEndpoint(c.To, true)
	if err != nil {
		return err
	}
	if from.network != "vchan" && to.network != "vchan" {
		return usagef("neither side is a vchan")
	}
	d, err := c.join(ctx)
	if err != nil {
		return err
	}
	return bounded(ctx, func() error {
		defer d.Close()
		p := &proxy{c: c, d: d, to: to, stderr: s.err}
		return p.serve(ctx, from)
	})
}

// proxy carries connections of one listener.
type proxy struct {
	c      *vchanProxyCmd
	d      *xen.Domain
	to     endpoint
	stderr io.Writer
}

func (p *proxy) serve(ctx context.Context, from endpoint) error {
	l, err := p.listen(ctx, from)
	if err != nil {
		return fmt.Errorf("%v: %w", from, inner(err))
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	fmt.Fprintf(p.stderr, "%v -> %v\n", shown(from, l), p.to)
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		work.Go(func() {
			if err := p.carry(ctx, near); err != nil {
				fmt.Fprintf(p.stderr, "hvkit: vchan proxy: %s\n", oneLine(err))
			}
		})
	}
}

// shown is the endpoint with the port that the system chose for port 0.
func shown(from endpoint, l net.Listener) endpoint {
	if from.network == "tcp" {
		from.addr = l.Addr().String()
	}
	return from
}

func (p *proxy) listen(ctx context.Context, from endpoint) (net.Listener, error) {
	switch from.network {
	case "vchan":
		return p.c.listen(ctx, p.d, from.addr, p.c.ringFlags)
	case "unix":
		return listenUnix("unix", from.addr)
	}
	var cfg net.ListenConfig
	return cfg.Listen(ctx, "tcp", from.addr)
}

// carry connects to the other side and moves bytes until one side ends.
func (p *proxy) carry(ctx context.Context, near net.Conn) error {
	limited, cancel := within(ctx, p.c.Timeout)
	defer cancel()
	far, err := p.dial(limited)
	if err != nil {
		abort(near)
		return fmt.Errorf("%v: %w", p.to, inner(err))
	}
	start := time.Now()
	err = relay(near, far)
	for _, c := range []net.Conn{near, far} {
		if v, ok := c.(*vchan.Conn); ok {
			p.c.report(p.stderr, v, time.Since(start))
		}
	}
	return err
}

func (p *proxy) dial(ctx context.Context) (net.Conn, error) {
	if p.to.network != "vchan" {
		var d net.Dialer
		return d.DialContext(ctx, p.to.network, p.to.addr)
	}
	c, err := p.c.dial(ctx, p.d, p.to.domain, p.to.addr)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// abort closes a connection whose other side is not to be had, or has broken off, so that this side does not take it for the end of what
// there was to say. On a Unix socket there is no way to tell.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *vchan.Conn:
		c.Abort()
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}

// moved is the end of one direction of a relay.
type moved struct {
	err    error // why it ended
	broken bool  // whether that is because the side which was read from broke off
}

// relay moves bytes both ways until one side ends, brings the other side what was said until then, and closes both. Where a side breaks
// off, the other one is broken off too. One that closed before it took everything is heard to its end. That a side was closed is no error.
func relay(a, b net.Conn) error {
	ended := make(chan moved, 2)
	move := func(to, from net.Conn) {
		r := &brokenReader{r: from}
		_, err := io.Copy(to, r)
		ended <- moved{err, r.broken() != nil}
	}
	go move(a, b)
	go move(b, a)
	last := <-ended
	first := last.err
	if last.broken || last.err == nil {
		defer func() { <-ended }()
	} else { // the side that was written to takes no more: what it has to say, and how it ends, is still to come
		last = <-ended
	}
	if last.broken {
		abort(a)
		abort(b)
		return firstError(first, last.err)
	}
	closed := make(chan error, 2)
	for _, c := range []net.Conn{a, b} {
		go func() { closed <- finish(c) }()
	}
	err := firstError(first, <-closed, <-closed)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// socketLinger is how long a socket's peer may take to read what was sent to it.
const socketLinger = 2 * time.Second

// finish closes a connection so that what was written is not lost. A vchan does that by itself. A socket that is closed while it has
// unread bytes resets its peer, so they are read.
func finish(c net.Conn) error {
	half, ok := c.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(socketLinger))
		io.Copy(io.Discard, c)
	}
	return c.Close()
}
