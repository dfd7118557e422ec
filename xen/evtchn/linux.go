package evtchn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// maxResets bounds how often in a row the kernel's list of events may overflow. It has room for all ports, so that once is too often.
const maxResets = 8

// Linux is event channels of the domain of a Linux kernel, through /dev/xen/evtchn: one descriptor for all of them, which the Go runtime's
// poller watches. It is a [Table], safe for concurrent use.
//
// The kernel owns the domain's event channels and lends these out. Those that were made before it ran, and those that go from one of its
// vCPUs to another, it keeps: Adopt and BindIPI answer [errors.ErrUnsupported]. A port whose event was read stays masked until this side
// writes it back; here that is when a Wait has returned for it, or a handler has run.
type Linux struct {
	open xendev.Opener
	c    hypercall.Caller
	cfg  Config

	start time.Time

	mu sync.Mutex
	// +checklocks:mu
	now *session
	// +checklocks:mu
	closed bool

	channels  atomic.Int64
	reads     atomic.Uint64
	arrivals  atomic.Uint64
	spurious  atomic.Uint64
	sent      atomic.Uint64
	throttled atomic.Uint64
	overflows atomic.Uint64
}

var _ Table = (*Linux)(nil)

// OpenLinux opens the kernel's device. With c, which may be nil, Xen is asked for the status of channels: the device cannot tell. Of cfg,
// VCPUs does not count.
func OpenLinux(c hypercall.Caller, cfg *Config) (*Linux, error) {
	return openLinux(xendev.Open, c, cfg)
}

func openLinux(open xendev.Opener, c hypercall.Caller, cfg *Config) (*Linux, error) {
	l := &Linux{open: open, c: c, cfg: cfg.withDefaults(), start: time.Now()}
	s, err := l.newSession()
	if err != nil {
		return nil, err
	}
	l.begin(s)
	return l, nil
}

func (l *Linux) begin(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = s
	go s.read()
}

// session is the device, opened once. The channels of one session end together.
type session struct {
	l    *Linux
	node xendev.Node

	mu sync.Mutex
	// +checklocks:mu
	ports map[hypercall.Port]*deviceChannel
	// +checklocks:mu
	binding int // channels that are being made
	// +checklocks:mu
	early map[hypercall.Port]bool // ports that events were read for while a channel was being made, and that nobody had
	// +checklocks:mu
	ended error // why no channel can be made any more
}

func (l *Linux) newSession() (*session, error) {
	node, err := l.open(xendev.DevEvtchn)
	if err != nil {
		return nil, fmt.Errorf("evtchn: %w", err)
	}
	return &session{
		l: l, node: node, ports: make(map[hypercall.Port]*deviceChannel), early: make(map[hypercall.Port]bool),
	}, nil
}

// session returns the present one.
func (l *Linux) session(op string) (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &OpError{Op: op, Err: net.ErrClosed}
	}
	return l.now, nil
}

// portSize is how many bytes a port has in what is read from and written to the device.
const portSize = 4

// maxRead is how many bytes the driver gives at once.
const maxRead = 4096

// read takes events in until the session ends.
func (s *session) read() {
	buf := make([]byte, maxRead)
	for resets := 0; ; {
		n, err := s.node.Read(buf)
		switch {
		case err == nil:
			resets = 0
			s.l.reads.Add(1)
			s.dispatch(buf[:n])
		case errors.Is(err, os.ErrClosed):
			s.end(net.ErrClosed)
			return
		case errors.Is(err, syscall.EFBIG) && resets < maxResets:
			resets++
			if err := s.recover(); err != nil {
				s.fail(err)
				return
			}
		default:
			s.fail(err)
			return
		}
	}
}

// fail ends the session because of an error of the device.
func (s *session) fail(err error) {
	s.l.cfg.Logger.Error("evtchn: the device failed", "error", err)
	s.end(fmt.Errorf("the device failed: %w", err))
	s.node.Close()
}

// recover goes on after the kernel's list of events overflowed, and events were lost. Which, nobody knows: all ports have one.
func (s *session) recover() error {
	s.l.overflows.Add(1)
	s.l.cfg.Logger.Warn("evtchn: the kernel's list of events overflowed")
	if _, err := s.node.Ioctl(xendev.EvtchnReset, nil); err != nil {
		return fmt.Errorf("reset after an overflow: %w", err)
	}
	s.dispatch(s.all())
	return nil
}

// all is a list of all ports, as if it had been read.
func (s *session) all() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]byte, 0, portSize*len(s.ports))
	for p := range s.ports {
		list = binary.LittleEndian.AppendUint32(list, uint32(p))
	}
	return list
}

// dispatch hands events to their channels, and writes back the ports of those that are done with theirs.
func (s *session) dispatch(list []byte) {
	back := list[:0]
	for ; len(list) >= portSize; list = list[portSize:] {
		port := hypercall.Port(binary.LittleEndian.Uint32(list))
		if ch := s.channel(port); ch != nil && ch.arrive() {
			back = binary.LittleEndian.AppendUint32(back, uint32(port)) // behind what was looked at
		}
	}
	s.giveBack(back)
}

// channel returns who has the port. An event for a port that a channel is just being made of may be read before the channel is known.
func (s *session) channel(port hypercall.Port) *deviceChannel {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := s.ports[port]
	switch {
	case ch != nil:
	case s.binding > 0:
		s.early[port] = true
	default:
		s.l.spurious.Add(1)
	}
	return ch
}

// giveBack has the kernel unmask ports. It takes at most as many at once as it gives.
func (s *session) giveBack(list []byte) {
	for len(list) > 0 {
		n := min(len(list), maxRead)
		if _, err := s.node.Write(list[:n]); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				s.l.cfg.Logger.Warn("evtchn: give ports back to the device", "error", err)
			}
			return
		}
		list = list[n:]
	}
}

// bind makes a channel of the port that a request returns.
func (l *Linux) bind(op string, req xendev.Request, arg []byte) (Channel, error) {
	s, err := l.session(op)
	if err != nil {
		return nil, err
	}
	if err := s.beginBind(); err != nil {
		return nil, &OpError{Op: op, Err: err}
	}
	port, err := s.node.Ioctl(req, arg)
	if err != nil {
		s.endBind(nil)
		return nil, &OpError{Op: op, Err: deviceError(err)}
	}
	ch := newDeviceChannel(s, hypercall.Port(port))
	if err := s.endBind(ch); err != nil {
		return nil, &OpError{Op: op, Port: ch.port, Err: err}
	}
	return ch, nil
}

// deviceError makes what Xen answered through the device an [hypercall.Errno], as it is elsewhere.
func deviceError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return hypercall.Errno(errno)
	}
	return err
}

func (s *session) beginBind() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.binding++
	}
	return s.ended
}

// endBind makes the channel known, if there is one.
func (s *session) endBind(ch *deviceChannel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.binding--
	early := ch != nil && s.early[ch.port]
	if early {
		delete(s.early, ch.port)
	}
	if s.binding == 0 {
		clear(s.early)
	}
	if ch == nil || s.ended != nil {
		return s.ended
	}
	ch.begin(early)
	s.ports[ch.port] = ch
	s.l.channels.Add(1)
	return nil
}

// begin notes what came before the channel was known. Nobody else has it yet.
func (ch *deviceChannel) begin(early bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.kept, ch.arrived = early, early
}

// remove makes the port unknown.
func (s *session) remove(ch *deviceChannel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[ch.port] == ch {
		delete(s.ports, ch.port)
	}
}

// unbind gives a port back to Xen. An event of it may be in the kernel's list still, and the next channel may have the same number: so what
// is in the list is taken in before.
func (s *session) unbind(port hypercall.Port) error {
	if _, err := s.node.Ioctl(xendev.EvtchnUnbind, xendev.U32s(uint32(port))); err != nil {
		return deviceError(err)
	}
	s.drain()
	return nil
}

// drain takes in what is in the kernel's list. Handlers run on another goroutine: the caller may hold what they wait for.
func (s *session) drain() {
	buf := make([]byte, maxRead)
	for {
		n, err := s.node.TryRead(buf)
		if n == 0 || err != nil {
			return // an error is for whoever reads
		}
		for list := buf[:n]; len(list) >= portSize; list = list[portSize:] {
			ch := s.channel(hypercall.Port(binary.LittleEndian.Uint32(list)))
			if ch == nil {
				continue
			}
			if f := ch.enter(); f != nil {
				go func() {
					f()
					ch.giveBack(ch.release())
				}()
			}
		}
	}
}

// end ends the session's channels, and has no new ones made.
func (s *session) end(why error) {
	for _, ch := range s.leave(why) {
		ch.shut(why)
	}
}

func (s *session) leave(why error) []*deviceChannel {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = why
	}
	list := make([]*deviceChannel, 0, len(s.ports))
	for _, ch := range s.ports {
		list = append(list, ch)
	}
	clear(s.ports)
	return list
}

// AllocUnbound implements [Table].
func (l *Linux) AllocUnbound(remote hypercall.DomID) (Channel, error) {
	return l.bind("allocate", xendev.EvtchnBindUnboundPort, xendev.U32s(uint32(remote)))
}

// BindInterdomain implements [Table].
func (l *Linux) BindInterdomain(remote hypercall.DomID, port hypercall.Port) (Channel, error) {
	return l.bind("bind", xendev.EvtchnBindInterdomain, xendev.U32s(uint32(remote), uint32(port)))
}

// BindVIRQ implements [Table]. The kernel takes them in on vCPU 0 only.
func (l *Linux) BindVIRQ(virq hypercall.VIRQ, vcpu uint32) (Channel, error) {
	if vcpu != 0 {
		return nil, &OpError{Op: "bind VIRQ", Err: fmt.Errorf("of vCPU %d: %w", vcpu, errors.ErrUnsupported)}
	}
	return l.bind("bind VIRQ", xendev.EvtchnBindVIRQ, xendev.U32s(uint32(virq)))
}

// BindIPI implements [Table]. Linux does not lend such channels out: the error is [errors.ErrUnsupported].
func (l *Linux) BindIPI(uint32) (Channel, error) {
	return nil, l.unsupported("bind IPI", 0)
}

// Adopt implements [Table]. What was made before the kernel ran is the kernel's: the error is [errors.ErrUnsupported].
func (l *Linux) Adopt(port hypercall.Port) (Channel, error) {
	return nil, l.unsupported("adopt", port)
}

func (l *Linux) unsupported(op string, port hypercall.Port) error {
	if _, err := l.session(op); err != nil {
		return err
	}
	return &OpError{Op: op, Port: port, Err: fmt.Errorf("Linux keeps such channels to itself: %w", errors.ErrUnsupported)}
}

// Restrict has the device bind channels with that domain only, from now on: what a process does before it serves a peer that it does not
// trust. It cannot be undone. VIRQs cannot be bound then.
func (l *Linux) Restrict(dom hypercall.DomID) error {
	s, err := l.session("restrict")
	if err != nil {
		return err
	}
	if _, err := s.node.Ioctl(xendev.EvtchnRestrictDomID, xendev.RestrictDomID(uint16(dom))); err != nil {
		return &OpError{Op: fmt.Sprintf("restrict to domain %d", dom), Err: deviceError(err)}
	}
	return nil
}

// Stats implements [Table]. Upcalls are reads of the device that brought events.
func (l *Linux) Stats() Stats {
	return Stats{
		Open: int(l.channels.Load()), Upcalls: l.reads.Load(), Arrivals: l.arrivals.Load(), Spurious: l.spurious.Load(),
		Sent: l.sent.Load(), Throttled: l.throttled.Load(), Overflows: l.overflows.Load(),
	}
}

// Resume is for the platform: the domain was suspended and runs again. Channels made before answer [hypercall.ErrStale] from now on, and
// the device is opened anew.
func (l *Linux) Resume() error {
	s, err := l.newSession()
	if err != nil {
		return err
	}
	old, ok := l.swap(s)
	if !ok {
		return errors.Join(&OpError{Op: "resume", Err: net.ErrClosed}, s.node.Close())
	}
	old.end(hypercall.ErrStale)
	return old.node.Close()
}

func (l *Linux) swap(s *session) (old *session, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	old, l.now = l.now, s
	go s.read()
	return old, true
}

// Close implements [Table].
func (l *Linux) Close() error {
	s := l.shut()
	if s == nil {
		return nil
	}
	s.end(net.ErrClosed)
	return s.node.Close()
}

func (l *Linux) shut() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return l.now
}
