package sim

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// request is a request of a domain's process, and the reply that is made for it.
type request struct {
	m     *attach.Message
	fds   attach.FDs
	reply *attach.Message
	send  handed
}

// check finds what makes a message no request at all. The error ends the connection.
func (r *request) check(d *Domain) error {
	want := 0
	switch r.m.Kind {
	case attach.Hypercall:
		if r.m.Call == nil {
			return fmt.Errorf("%w: a hypercall without a call", attach.ErrMessage)
		}
		if err := r.m.Call.Validate(d.abi()); err != nil {
			return fmt.Errorf("%w: %w", attach.ErrMessage, err)
		}
	case attach.AddMemory:
		want = 1
	case attach.FreeMem, attach.SetNotify, attach.Locate:
	default:
		return fmt.Errorf("%w: %v is no request", attach.ErrMessage, r.m.Kind)
	}
	if len(r.fds) != want {
		return fmt.Errorf("%w: %v with %d descriptors, not %d", attach.ErrMessage, r.m.Kind, len(r.fds), want)
	}
	return nil
}

func (d *Domain) abi() hypercall.ABI {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return d.guest.abi
}

// isMemory reports whether the request is about the domain's own memory, which outlives its incarnations.
func (r *request) isMemory() bool { return r.m.Kind == attach.AddMemory || r.m.Kind == attach.FreeMem }

// gen is the incarnation that the request is of.
func (r *request) gen(d *Domain) uint32 {
	if r.isMemory() {
		return d.gen.Load()
	}
	return r.m.Gen
}

// fail makes the reply say the error.
func (r *request) fail(err error) {
	r.reply.Call, r.reply.Places, r.reply.Port = nil, nil, 0
	r.reply.Text = err.Error()
	r.reply.Stale = errors.Is(err, hypercall.ErrStale)
	if errno, ok := errors.AsType[hypercall.Errno](err); ok {
		r.reply.Errno = errno
	}
}

// act does what the request asks for.
func (r *request) act(g *guest) error {
	r.reply.Gen = g.gen
	switch r.m.Kind {
	case attach.Hypercall:
		return r.hypercall(g)
	case attach.AddMemory:
		return g.adopt(r.m.GFN, r.m.Pages, func() *os.File { return r.fds.File(0) })
	case attach.FreeMem:
		return g.disown(r.m.GFN, r.m.Pages)
	case attach.SetNotify:
		return g.setNotify(r.m.GFN, r.m.Offset, r.m.Port)
	}
	r.locate(g, r.m.Places)
	return nil
}

// hypercall makes the hypercall, and adds to the reply the descriptors of what it opened or mapped.
func (r *request) hypercall(g *guest) error {
	c := r.m.Call
	if c.Nr == hypercall.NrMulticall {
		return hypercall.ENOSYS // the process makes the calls one by one, since some have something to be sent back
	}
	result, err := g.hypercall(c)
	if err != nil {
		return err
	}
	r.reply.Result, r.reply.Call = result, c
	switch {
	case c.Nr == hypercall.NrEventChannelOp:
		r.handPort(g, c)
	case c.Nr == hypercall.NrGrantTableOp && c.Args[0] == hypercall.GnttabopMapGrantRef:
		r.handPages(g, c)
	}
	return nil
}

// handPort adds the wires of a port that the call opened in this domain.
func (r *request) handPort(g *guest, c *hypercall.Call) {
	n := openedPort(g, c)
	if n == 0 {
		return
	}
	r.reply.Port = n
	p := &g.ports[n]
	r.send.addEar(p.wires.rx)
	switch p.state {
	case hypercall.EvtchnIPI:
		r.send.addEvent(p.wires.rx) // what is sent arrives at the same port
	case hypercall.EvtchnVIRQ: // nothing can be sent
	default:
		r.send.addEvent(p.wires.tx)
	}
}

// openedPort is the port that the call opened in this domain, or 0.
func openedPort(g *guest, c *hypercall.Call) hypercall.Port {
	switch c.Args[0] {
	case hypercall.EvtchnopAllocUnbound:
		var op hypercall.EvtchnAllocUnbound
		if c.Decode(g.abi, 0, &op) == nil && g.self(op.Dom) == g.id {
			return op.Port
		}
	case hypercall.EvtchnopBindInterdomain:
		var op hypercall.EvtchnBindInterdomain
		if c.Decode(g.abi, 0, &op) == nil {
			return op.LocalPort
		}
	case hypercall.EvtchnopBindVIRQ:
		var op hypercall.EvtchnBindVIRQ
		if c.Decode(g.abi, 0, &op) == nil {
			return op.Port
		}
	case hypercall.EvtchnopBindIPI:
		var op hypercall.EvtchnBindIPI
		if c.Decode(g.abi, 0, &op) == nil {
			return op.Port
		}
	}
	return 0
}

// handPages adds the extents of the pages that the call mapped, and says where each page is.
func (r *request) handPages(g *guest, c *hypercall.Call) {
	var op hypercall.MapGrantRef
	for i := 0; i < int(c.Args[2]) && c.Decode(g.abi, i, &op) == nil; i++ {
		if op.Status == hypercall.StatusOkay {
			r.place(g, hypercall.GFN(op.HostAddr/shm.PageSize))
		}
	}
}

// locate adds the extents of granted pages that the domain has mapped.
func (r *request) locate(g *guest, frames []attach.Place) {
	for _, p := range frames {
		r.place(g, p.GFN)
	}
}

// place says where a granted page is, if the reply takes another descriptor.
func (r *request) place(g *guest, at hypercall.GFN) {
	f, ok := g.space[at]
	if !ok || f.kind != foreignFrame {
		return
	}
	if fd, ok := r.send.addExtent(f.ext); ok {
		r.reply.Places = append(r.reply.Places, attach.Place{GFN: at, FD: fd, Page: f.page, ReadOnly: f.readOnly})
	}
}

// handed are the descriptors that go with a message, held until it has been sent.
type handed struct {
	fds     []int
	extents []*extent // those of them that are extents, at the same places
	wires   []*wire
	ears    []*attach.Ear
}

// release lets go of what was held for a message.
func (h *Host) release(s *handed) {
	if len(s.fds) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range s.extents {
		e.drop()
	}
	for _, w := range s.wires {
		w.drop()
	}
	for _, e := range s.ears {
		e.Close()
	}
	*s = handed{}
}

// addExtent adds an extent's descriptor, once, and returns which it is; false where there is no room.
func (s *handed) addExtent(e *extent) (int, bool) {
	if k := len(s.extents) - 1; k >= 0 && s.extents[k] == e { // which most often is the one
		return k, true
	}
	for i, x := range s.extents {
		if x == e {
			return i, true
		}
	}
	if len(s.fds) >= attach.MaxFDs {
		return 0, false
	}
	s.extents = append(s.extents, e.hold())
	s.fds = append(s.fds, int(e.file.Fd()))
	return len(s.fds) - 1, true
}

// addEvent adds what a process rings a wire with, after all extents.
func (s *handed) addEvent(w *wire) {
	w.refs++
	s.wires = append(s.wires, w)
	s.fds = append(s.fds, w.event.FD())
}

// addEar adds what a process hears a wire with, after all extents. The process has it alone from then on.
func (s *handed) addEar(w *wire) {
	s.ears = append(s.ears, w.ear)
	s.fds = append(s.fds, w.ear.FD())
	w.ear = nil
}
