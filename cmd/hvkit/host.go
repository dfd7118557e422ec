package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

type hostCmd struct {
	Socket   string   `env:"HVKIT_HOST" default:"${hostsocket}" placeholder:"PATH" help:"Socket to serve domains on (${env}; ${default})."`
	Xenstore string   `placeholder:"PATH" help:"Socket to serve Xenstore on, as domain 0. Default: beside --socket."`
	Make     []string `placeholder:"NAME" help:"Make a domain that a process claims by the token that is printed. Repeatable."`
	Closed   bool     `help:"Let in only processes that have a token."`
	Verbose  bool     `short:"v" help:"Print what goes wrong as well, and the last events at the end."`
	JSON     bool     `name:"json" help:"Print each event as a line of JSON."`
}

// Help has the examples.
func (*hostCmd) Help() string {
	return `The host is a hypervisor, a Xenstore server and a toolstack, simulated in one process. Other processes join it as
domains until it ends (by ^C); a process that dies is a domain that dies. It needs Linux, and no Xen and no root.

Examples:

    hvkit host
    hvkit host --socket /tmp/h.sock --make server --make client --closed
    XENSTORED_PATH=/tmp/h.xenstore.sock xenstore-ls /    # the unmodified tools of Xen`
}

// Run serves a host until ctx is done, and then says what domains left behind.
func (c *hostCmd) Run(ctx context.Context, s *streams) error {
	if err := needLinux(); err != nil {
		return err
	}
	cfg := &sim.HostConfig{Shared: true, Console: func(dom hypercall.DomID, text string) {
		fmt.Fprintf(s.err, "d%d: %s\n", dom, text)
	}}
	if c.Verbose {
		cfg.Logger = slog.New(slog.NewTextHandler(s.err, nil))
	}
	h := sim.NewHost(cfg)
	defer h.Close()
	domains, stores, err := c.listen()
	if err != nil {
		return err
	}
	report := &hostReport{w: s.out, json: c.JSON, now: time.Now}
	report.serving(c.Socket, c.storePath(), !c.Closed)
	for _, name := range c.Make {
		d, err := h.NewDomain(&sim.DomainConfig{Name: name, External: true})
		if err != nil {
			return errors.Join(err, domains.Close(), stores.Close())
		}
		report.token(d)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	work.Go(func() { cancel(h.Serve(ctx, domains, &sim.ServeConfig{Open: !c.Closed})) })
	work.Go(func() { cancel(h.Store().Serve(ctx, stores)) })
	work.Go(func() {
		if err := watchDomains(ctx, h, report); err != nil {
			cancel(err)
		}
	})
	<-ctx.Done()
	work.Wait()
	report.end(h)
	if c.Verbose {
		h.WriteTrace(s.err)
	}
	if cause := context.Cause(ctx); !isType[*interrupt](cause) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (c *hostCmd) storePath() string {
	if c.Xenstore != "" {
		return c.Xenstore
	}
	return storeSocket(c.Socket)
}

func (c *hostCmd) listen() (domains, stores *net.UnixListener, err error) {
	if domains, err = listenUnix("unixpacket", c.Socket); err != nil {
		return nil, nil, err
	}
	if stores, err = listenUnix("unix", c.storePath()); err != nil {
		domains.Close()
		return nil, nil, err
	}
	return domains, stores, nil
}

// watchDomains reports domains that come and go, as Xenstore tells of them, until ctx is done.
func watchDomains(ctx context.Context, h *sim.Host, r *hostReport) error {
	client := h.Store().LocalClient()
	defer client.Close()
	come, err := client.Watch(ctx, xenstore.IntroduceDomain, nil)
	if err != nil {
		return err
	}
	defer come.Close()
	leave, err := client.Watch(ctx, xenstore.ReleaseDomain, nil)
	if err != nil {
		return err
	}
	defer leave.Close()
	known := make(map[hypercall.DomID]string)
	for {
		select {
		case <-come.C():
		case <-leave.C():
		case <-ctx.Done():
			return nil
		}
		r.changes(known, h.Domains())
	}
}

// hostReport prints what happens on a host, for people or for machines.
type hostReport struct {
	w    io.Writer
	json bool
	now  func() time.Time
}

// hostEvent is one line of JSON.
type hostEvent struct {
	Time     time.Time        `json:"time"`
	Event    string           `json:"event"` // serving, token, joined, left, ended
	Socket   string           `json:"socket,omitempty"`
	Xenstore string           `json:"xenstore,omitempty"`
	Domain   *hypercall.DomID `json:"domain,omitempty"`
	Name     string           `json:"name,omitempty"`
	Token    string           `json:"token,omitempty"`
	Leaks    []string         `json:"leaks,omitempty"`
}

// say prints an event: as JSON, or as the text.
func (r *hostReport) say(e hostEvent, format string, args ...any) {
	e.Time = r.now()
	if r.json {
		json.NewEncoder(r.w).Encode(e)
		return
	}
	fmt.Fprintf(r.w, format+"\n", args...)
}

func (r *hostReport) serving(socket, store string, open bool) {
	text := "A simulated host. Domains join at " + socket + "\n" +
		"Xenstore, as domain 0, is at      " + store + "\n"
	if socket != defaultHostSocket() {
		text += "Other terminals need              export HVKIT_HOST=" + socket + "\n"
	}
	if open {
		text += "Try in two other terminals:\n" +
			"    hvkit vchan listen --domain server 5000\n" +
			"    hvkit vchan dial --domain client server 5000\n"
	}
	r.say(hostEvent{Event: "serving", Socket: socket, Xenstore: store}, "%s^C ends it.", text)
}

func (r *hostReport) token(d *sim.Domain) {
	id := d.ID()
	r.say(hostEvent{Event: "token", Domain: &id, Name: d.Name(), Token: d.Token()}, "domain %d %s: HVKIT_TOKEN=%s",
		id, strconv.Quote(d.Name()), d.Token())
}

// changes reports how the domains differ from the known ones, and makes these known.
func (r *hostReport) changes(known map[hypercall.DomID]string, now []*sim.Domain) {
	alive := make(map[hypercall.DomID]bool)
	for _, d := range now {
		id, name := d.ID(), d.Name()
		alive[id] = true
		if _, ok := known[id]; !ok {
			known[id] = name
			r.say(hostEvent{Event: "joined", Domain: &id, Name: name}, "%s domain %d %s is there", r.clock(), id, strconv.Quote(name))
		}
	}
	for id, name := range known {
		if !alive[id] {
			delete(known, id)
			r.say(hostEvent{Event: "left", Domain: &id, Name: name}, "%s domain %d %s has gone", r.clock(), id, strconv.Quote(name))
		}
	}
}

func (r *hostReport) clock() string { return r.now().Format(time.TimeOnly) }

// shownLeaks is how many things that were not given back are listed for people.
const shownLeaks = 20

// end says what is left: nothing, where all domains have gone.
func (r *hostReport) end(h *sim.Host) {
	leaks := h.Leaks()
	n := len(h.Domains())
	text := "nothing is left behind."
	if n > 0 || len(leaks) > 0 {
		text = fmt.Sprintf("domains still there: %d.", n)
	}
	if len(leaks) > 0 {
		text += " Not given back:"
		for _, l := range leaks[:min(len(leaks), shownLeaks)] {
			text += "\n  " + l
		}
		if more := len(leaks) - shownLeaks; more > 0 {
			text += fmt.Sprintf("\n  and %d more", more)
		}
	}
	r.say(hostEvent{Event: "ended", Leaks: leaks}, "The host ends: %s", text)
}
