package attach

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Machine is what lies under a domain whose host is another process. It is safe for concurrent use.
type Machine struct {
	conn   *Conn
	abi    hypercall.ABI
	bits   *EventBits
	poller *Poller
	done   chan struct{} // closed when the connection has ended

	ports  []atomic.Pointer[line]
	upcall atomic.Pointer[func()]
	id     atomic.Uint32         // the domain's number
	gen    atomic.Uint32         // the incarnation; changed by receive only
	held   atomic.Pointer[pause] // nil unless the domain is paused

	closing sync.Once
	sendMu  sync.Mutex // held while a message is sent: no other lock is taken then

	mu sync.Mutex
	// +checklocks:mu
	calls map[uint32]chan answer // nil once the connection has ended
	// +checklocks:mu
	lastID uint32
	// +checklocks:mu
	broken error // why no call can be made any more
	// +checklocks:mu
	space map[hypercall.GFN]place
	// +checklocks:mu
	alloc *gfn.Allocator
	// +checklocks:mu
	table *source // the grant table
	// +checklocks:mu
	onResume func()
	// +checklocks:mu
	resumed chan struct{} // closed when the next incarnation begins
	// +checklocks:mu
	unheard bool // a resume that nobody was told of
	// +checklocks:mu
	onEnd func()
}

// source is a descriptor whose pages are mapped; it is closed with the last place that needs it.
type source struct {
	file *os.File
	refs int
}

func (s *source) drop() {
	if s == nil {
		return
	}
	if s.refs--; s.refs == 0 {
		s.file.Close()
	}
}

// place is what is behind one frame number.
type place struct {
	src      *source // nil for shared_info
	page     int
	readOnly bool
}

// pause is one time that the domain is paused.
type pause struct{ over chan struct{} }

// answer is a reply, and its descriptors.
type answer struct {
	m   *Message
	fds FDs
}

// ErrEnded is what calls answer once the host or the domain has ended, or the machine was closed. It is a net.ErrClosed.
var ErrEnded = fmt.Errorf("attach: the domain has ended: %w", net.ErrClosed)

// settle takes over the descriptors of a welcome, or of a resumption.
func (m *Machine) settle(w *Message, fds FDs) error {
	m.mu.Lock()
	m.table = &source{file: fds.File(0), refs: 1}
	m.space[gfn.Store] = place{src: &source{file: fds.File(1), refs: 1}}
	m.mu.Unlock()
	m.id.Store(uint32(w.Dom))
	m.gen.Store(w.Gen)
	return m.addLine(w.Port, fds.Ear(2), fds.Event(3))
}

// receive takes in what the host sends until the connection ends.
func (m *Machine) receive() {
	err := m.receiveAll()
	m.conn.Close()
	m.mu.Lock()
	m.broken = err
	calls, onEnd := m.calls, m.onEnd
	m.calls = nil
	m.mu.Unlock()
	for _, ch := range calls {
		close(ch)
	}
	close(m.done)
	if onEnd != nil {
		onEnd()
	}
}

func (m *Machine) receiveAll() error {
	for {
		msg, fds, err := m.conn.Receive()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return ErrEnded
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrEnded, err)
		}
		err = m.take(msg, fds)
		fds.Close()
		if err != nil {
			return err
		}
	}
}

// take acts on one message from the host.
func (m *Machine) take(msg *Message, fds FDs) error {
	switch msg.Kind {
	case Reply:
		m.deliver(msg, fds)
	case Paused:
		m.hold()
	case Unpaused:
		m.goOn()
	case Resumed:
		if len(fds) != welcomeFDs {
			return fmt.Errorf("%w: %w: resumed with %d descriptors", ErrEnded, ErrMessage, len(fds))
		}
		if err := m.resume(msg, fds); err != nil {
			return fmt.Errorf("%w: resume: %w", ErrEnded, err)
		}
	case Ended:
		return fmt.Errorf("%w: %s", ErrEnded, msg.Text)
	}
	return nil
}

// deliver hands a reply to the call that waits for it, and waits until it has been used: its data are in the receive buffer, and what
// it opens or closes must be known before the next reply is.
func (m *Machine) deliver(msg *Message, fds FDs) {
	m.mu.Lock()
	ch := m.calls[msg.ID]
	delete(m.calls, msg.ID)
	m.mu.Unlock()
	if ch != nil {
		ch <- answer{msg, fds}
		<-ch
	}
}

// request sends a request and has use act on the reply before the next one is taken in. use takes the descriptors that it wants.
func (m *Machine) request(msg *Message, fds []int, use func(*Message, FDs) error) error {
	ch, err := m.expect(msg)
	if err != nil {
		return err
	}
	m.sendMu.Lock()
	err = m.conn.Send(msg, fds...)
	m.sendMu.Unlock()
	if err != nil && m.cancel(msg.ID) {
		if errors.Is(err, errTooLarge) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	a, ok := <-ch
	if !ok {
		return m.failed()
	}
	defer func() { ch <- answer{} }()
	return use(a.m, a.fds)
}

// expect gives the request its number, and the channel on which its reply comes.
func (m *Machine) expect(msg *Message) (chan answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	m.lastID++
	msg.ID = m.lastID
	ch := make(chan answer)
	m.calls[msg.ID] = ch
	return ch, nil
}

// cancel forgets a request that could not be sent, and reports whether nothing can come for it any more.
func (m *Machine) cancel(id uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, waiting := m.calls[id]
	delete(m.calls, id)
	return waiting
}

// failed is why no call can be made any more.
func (m *Machine) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken
}

// failure is the error that a reply says.
func failure(r *Message) error {
	switch {
	case r.Stale:
		return hypercall.ErrStale
	case r.Errno != 0:
		return r.Errno
	case r.Text != "":
		return errors.New(r.Text)
	}
	return nil
}

// SetUpcall implements xen.Machine.
func (m *Machine) SetUpcall(f func()) {
	m.upcall.Store(&f)
	m.kickIfOutstanding()
}

func (m *Machine) kickIfOutstanding() {
	if m.bits.Outstanding() {
		m.kick()
	}
}

// kick makes the upcall, unless the domain is paused: then it is made when the domain goes on.
func (m *Machine) kick() {
	if m.held.Load() != nil {
		return
	}
	if f := m.upcall.Load(); f != nil && *f != nil {
		(*f)()
	}
}

// hold stops the domain as far as this process can: its calls wait, and no upcall comes.
func (m *Machine) hold() {
	m.held.CompareAndSwap(nil, &pause{make(chan struct{})})
}

// goOn ends a pause.
func (m *Machine) goOn() {
	if p := m.held.Swap(nil); p != nil {
		close(p.over)
		m.kickIfOutstanding()
	}
}

// enter waits while the domain is paused, and fails where it is another incarnation than gen.
func (m *Machine) enter(gen uint32) error {
	if p := m.held.Load(); p != nil {
		select {
		case <-p.over:
		case <-m.done:
			return m.failed()
		}
	}
	if m.gen.Load() != gen {
		return hypercall.ErrStale
	}
	return nil
}

// SetResume implements xen.Machine.
func (m *Machine) SetResume(f func()) {
	m.mu.Lock()
	m.onResume = f
	late := m.unheard && f != nil
	m.unheard = m.unheard && !late
	m.mu.Unlock()
	if late {
		f()
	}
}

// SetEnd implements xen.Machine.
func (m *Machine) SetEnd(f func()) {
	m.mu.Lock()
	m.onEnd = f
	ended := m.broken != nil
	m.mu.Unlock()
	if ended && f != nil {
		f()
	}
}

// resume begins another incarnation: Xen's frames, mappings and channels of the last one are gone.
func (m *Machine) resume(w *Message, fds FDs) error {
	m.hold() // should the host not have said it
	m.dropLines()
	m.bits.Reset()
	m.leave()
	if err := m.settle(w, fds); err != nil {
		return err
	}
	m.goOn()
	m.mu.Lock()
	close(m.resumed)
	m.resumed = make(chan struct{})
	f := m.onResume
	m.unheard = f == nil
	m.mu.Unlock()
	if f != nil {
		go f() // which makes calls, whose replies this goroutine takes in
	}
	return nil
}

// following returns what is closed when the next incarnation begins.
func (m *Machine) following() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resumed
}

// leave takes away everything but the domain's own memory.
func (m *Machine) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.space {
		if !gfn.IsRAM(n) {
			m.forgetLocked(n)
		}
	}
	m.table.drop()
	m.table = nil
}

// forgetLocked takes away what is behind the frame number.
//
// +checklocks:m.mu
func (m *Machine) forgetLocked(n hypercall.GFN) {
	if p, ok := m.space[n]; ok {
		delete(m.space, n)
		p.src.drop()
	}
}

// Close leaves the host, which ends the domain. A second Close does nothing.
func (m *Machine) Close() error {
	m.closing.Do(func() {
		m.upcall.Store(nil)
		m.conn.Close()
		<-m.done
		m.drop()
	})
	return nil
}

// drop lets go of everything once nothing comes from the host any more.
func (m *Machine) drop() {
	m.poller.Close()
	m.dropLines()
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.space {
		m.forgetLocked(n)
	}
	m.table.drop()
	m.table = nil
}
