package sim

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// external is the process that is a domain.
type external struct {
	conn   atomic.Pointer[attach.Conn] // nil until a process claimed the domain
	ending atomic.Bool

	mu sync.Mutex // held while a message is sent, for replyTimeout at most; the host's lock may be taken with it held
	// +checklocks:mu
	welcomed bool
	// +checklocks:mu
	gen uint32 // the incarnation that the process was told of last
}

func newExternal() *external { return new(external) }

// connect makes a connection the one of the domain's process, if there is none yet.
func (x *external) connect(conn *attach.Conn) bool { return x.conn.CompareAndSwap(nil, conn) }

// hungUp reports whether a process was the domain and is so no more.
func (x *external) hungUp() bool {
	conn := x.conn.Load()
	return conn != nil && conn.HungUp()
}

// begin welcomes the process.
func (x *external) begin(d *Domain) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	w, paused, err := d.welcome()
	if err != nil {
		return x.refuseLocked(err)
	}
	err = x.sendLocked(w.msg, w.send.fds...)
	x.welcomed, x.gen = err == nil, w.msg.Gen
	d.host.release(&w.send)
	if err == nil && paused {
		err = x.sendLocked(&attach.Message{Kind: attach.Paused})
	}
	return err
}

// refuseLocked tells the process why it cannot be the domain.
//
// +checklocks:x.mu
func (x *external) refuseLocked(why error) error {
	return errors.Join(why, x.sendLocked(&attach.Message{Kind: attach.Ended, Text: why.Error()}))
}

// sendLocked sends a message. A process that does not take it in time is cut off, and the error says so.
//
// +checklocks:x.mu
func (x *external) sendLocked(m *attach.Message, fds ...int) error {
	timeout := replyTimeout
	if x.ending.Load() {
		timeout = endTimeout
	}
	conn := x.conn.Load()
	conn.SetSendDeadline(time.Now().Add(timeout))
	err := conn.Send(m, fds...)
	if err != nil {
		conn.Close()
	}
	return err
}

// tell sends a message that is no reply, if there is a process. It is cut off if it does not take it.
func (x *external) tell(m *attach.Message) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.welcomed {
		_ = x.sendLocked(m) // the serving goroutine sees that the process was cut off
	}
}

// greet sends what an incarnation begins with to a process that knows of an earlier one.
func (x *external) greet(d *Domain) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.welcomed {
		return
	}
	d.host.mu.Lock()
	g := d.guest
	if g.gen == x.gen || g.state != stateRunning {
		d.host.mu.Unlock()
		return
	}
	w := g.welcome(attach.Resumed)
	d.host.mu.Unlock()
	x.gen = w.msg.Gen
	_ = x.sendLocked(w.msg, w.send.fds...)
	d.host.release(&w.send)
}

// end tells the process that its domain is no more, and hangs up. A message that is being sent has endTimeout left.
func (x *external) end(why string) {
	x.ending.Store(true)
	conn := x.conn.Load()
	if conn == nil {
		return
	}
	conn.SetSendDeadline(time.Now().Add(endTimeout))
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.welcomed {
		_ = x.sendLocked(&attach.Message{Kind: attach.Ended, Text: why})
	}
	conn.Close()
}

// welcome is a message that an incarnation begins with, and its descriptors.
type welcome struct {
	msg  *attach.Message
	send handed
}

// welcome returns what to greet the domain's process with.
func (d *Domain) welcome() (w *welcome, paused bool, err error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	g := d.guest
	switch g.state {
	case stateRunning:
	case statePaused:
		paused = true
	case stateDead:
		return nil, false, ErrDestroyed
	default:
		return nil, false, fmt.Errorf("domain %q is %v", g.name, g.state)
	}
	g.note("a process joined as the domain")
	return g.welcome(attach.Welcome), paused, nil
}

func (g *guest) welcome(kind attach.Kind) *welcome {
	n := g.store.port
	w := &welcome{msg: &attach.Message{Kind: kind, Gen: g.gen, Dom: g.id, Name: g.name, ABI: g.abi, Port: n}}
	w.send.addExtent(g.grants.table)
	w.send.addExtent(g.space[gfn.Store].ext)
	w.send.addEar(g.ports[n].wires.rx)
	w.send.addEvent(g.ports[n].wires.tx)
	return w
}

// serve answers the process until it goes. gone is closed when it has, even while a request of it waits.
func (x *external) serve(d *Domain, gone <-chan struct{}) error {
	conn := x.conn.Load()
	for {
		m, fds, err := conn.Receive()
		if errors.Is(err, attach.ErrNoRoom) { // it is this process that is short of them, not the other
			d.host.log.Error("sim: a request's descriptors were lost", "domain", d.name, "err", err)
			if err = x.refuse(m, errHostFiles); err == nil {
				continue
			}
		}
		if err != nil {
			return x.farewell(err)
		}
		err = x.answer(d, gone, m, fds)
		fds.Close()
		if err != nil {
			return x.farewell(err)
		}
	}
}

var errHostFiles = fmt.Errorf("the host may open no more descriptors (RLIMIT_NOFILE of its process): %w", hypercall.EMFILE)

// refuse answers a request that could not be looked at.
func (x *external) refuse(m *attach.Message, why error) error {
	r := request{m: m, reply: &attach.Message{Kind: attach.Reply, ID: m.ID, Gen: m.Gen}}
	r.fail(why)
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sendLocked(r.reply)
}

// farewell tells a process that broke the protocol what was wrong.
func (x *external) farewell(err error) error {
	if errors.Is(err, attach.ErrMessage) {
		x.end(err.Error())
	}
	return err
}

// answer acts on one request and replies.
func (x *external) answer(d *Domain, gone <-chan struct{}, m *attach.Message, fds attach.FDs) error {
	r := request{m: m, fds: fds, reply: &attach.Message{Kind: attach.Reply, ID: m.ID}}
	err := r.check(d)
	if err != nil {
		return err
	}
	err = d.enter(r.gen(d), gone, r.act)
	for r.isMemory() && errors.Is(err, hypercall.ErrStale) { // memory outlives incarnations
		err = d.enter(r.gen(d), gone, r.act)
	}
	if errors.Is(err, ErrDestroyed) || errors.Is(err, errHungUp) {
		return err
	}
	if err != nil {
		r.fail(err)
	}
	defer d.host.release(&r.send)
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sendLocked(r.reply, r.send.fds...)
}
