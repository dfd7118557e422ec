package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// guest is a domain as Xen keeps it. Like [hypervisor], of which it is a part, it has no lock and does not wait.
type guest struct {
	xen        *hypervisor
	name       string
	abi        hypercall.ABI
	privileged bool
	remote     bool // another process is the domain: there shared_info is, and events go there by wires
	limits     Limits
	vcpu       *vcpu

	id      hypercall.DomID
	gen     uint32 // which incarnation of the domain it is, from 1
	state   domainState
	running chan struct{} // closed while the domain runs, and once it is dead

	space   physmap
	xens    map[xensFrame]hypercall.GFN // where in space Xen's own frames are
	alloc   *gfn.Allocator
	pages   int // of memory, in space
	extents int // that these are parts of
	ports   []port
	grants  grants
	lent    int // mappings that others have of this domain's pages
	params  map[hypercall.Param]uint64
	notify  map[hypercall.GFN]unmapNotify
	store   *hostChannel      // the host's end of the Xenstore channel
	bits    *attach.EventBits // shared_info, of a domain in this process
	timer   *time.Timer
	shell   *Domain // is told of what happens here that the lock must not be held for
}

type domainState uint8

const (
	stateRunning   domainState = iota
	statePaused                // by the toolstack
	stateSuspended             // its image was taken away
	stateShutdown              // it said that it has ended, and waits to be destroyed
	stateDead
)

func (s domainState) String() string {
	return [...]string{"running", "paused", "suspended", "shut down", "dead"}[s]
}

// unmapNotify is what happens to a frame, and on a port, when the domain dies.
type unmapNotify struct {
	off  int // of the byte to clear, or negative
	port hypercall.Port
}

// maxNotify bounds the frames of one domain that have an unmap notification.
const maxNotify = 1 << 16

// boot gives the domain what an incarnation starts with: an empty grant table and shared_info, the Xenstore page and its channel. Where
// it fails it leaves nothing of that.
func (d *guest) boot() error {
	table, err := newExtent(d.limits.GrantFrames, d.xen.cfg.Shared)
	if err != nil {
		return err
	}
	page, err := newExtent(1, d.xen.cfg.Shared)
	if err != nil {
		table.drop()
		return err
	}
	defer page.drop() // space holds it
	d.closePorts()    // which a privileged domain may have opened meanwhile
	d.ports = nil
	d.gen++
	d.params = make(map[hypercall.Param]uint64)
	d.notify = make(map[hypercall.GFN]unmapNotify)
	if d.bits == nil {
		d.bits = attach.NewEventBits(d.abi)
	}
	d.bits.Reset()
	d.grants.begin(table)
	if d.store, err = d.hostPort(); err != nil {
		d.grants.end()
		return err
	}
	d.space.put(gfn.Store, page, xenstoreFrame)
	d.grants.setEntry(hypercall.GrantXenstore, 0, gfn.Store, hypercall.EntryPermitAccess)
	d.params[hypercall.ParamStorePFN] = uint64(gfn.Store)
	d.params[hypercall.ParamStoreEvtchn] = uint64(d.store.port)
	return nil
}

// admit says whether a call that began in incarnation gen may go on: nil, nil if so; what to wait for before asking again; or why it
// fails.
func (d *guest) admit(gen uint32) (wait <-chan struct{}, err error) {
	switch {
	case d.state == stateDead:
		return nil, ErrDestroyed
	case d.gen != gen:
		return nil, hypercall.ErrStale
	case d.state == stateRunning:
		return nil, nil
	}
	return d.running, nil
}

// enter changes the state, and lets hypercalls through or holds them back.
func (d *guest) enter(to domainState) {
	d.note("domain is %v", to)
	runs := func(s domainState) bool { return s == stateRunning || s == stateDead }
	if runs(d.state) && !runs(to) {
		d.running = make(chan struct{})
	}
	if !runs(d.state) && runs(to) {
		close(d.running)
	}
	d.state = to
	d.vcpu.stopped.Store(to != stateRunning)
}

// leave takes the domain out of everybody else's sight: what Xen does when a domain dies or its image is moved away.
func (d *guest) leave() {
	notices := d.notices()
	d.setTimer(0)
	d.closePorts()
	d.ports = nil
	d.dropMaps()
	d.detachGrants()
	for n, f := range d.space { // all but its memory: Xen's own frames are where the next incarnation puts them anew
		if f.kind != ramFrame {
			d.takeOut(n)
		}
	}
	d.grants.end()
	d.xen.fire(notices)
}

// die ends the domain.
func (d *guest) die() {
	d.enter(stateDead)
	d.leave()
	for n := range d.space {
		d.takeOut(n)
	}
	delete(d.xen.domains, d.id)
	d.xen.buryOrKeep(d)
}

// rebuild begins another incarnation, under a new number if newID is set.
func (d *guest) rebuild(newID bool) error {
	id := d.id
	if newID {
		var err error
		if id, err = d.xen.newID(0, false); err != nil {
			return err
		}
	}
	if err := d.boot(); err != nil {
		return err
	}
	delete(d.xen.domains, d.id)
	d.id = id
	d.xen.domains[id] = d
	return nil
}

// notice is what was asked to be done when a frame goes.
type notice struct {
	ext  *extent // held; nil where no byte is to be cleared
	off  int     // of the byte
	to   *guest  // nil where no event is to be sent
	port hypercall.Port
}

// notices takes what is to be done when the domain's frames go, while its ports still say whom they lead to.
func (d *guest) notices() []notice {
	var all []notice
	for _, at := range slices.Sorted(maps.Keys(d.notify)) {
		want, n := d.notify[at], notice{}
		if f, ok := d.space[at]; ok && want.off >= 0 {
			n.ext, n.off = f.ext.hold(), f.page*shm.PageSize+want.off
		}
		// Where there is no such port the program closed it before, so that nobody is to be told. It is not told itself either.
		if p, err := d.port(want.port); err == nil && p.state == hypercall.EvtchnInterdomain && p.back == nil && p.remote != d.id {
			n.to, n.port = d.xen.domains[p.remote], p.peer
		}
		all = append(all, n)
	}
	clear(d.notify)
	return all
}

// fire does it, once the domain has let go of all: first all the bytes are cleared, and then the events are sent. So whoever looks at a
// byte, or is told, finds everything done.
func (x *hypervisor) fire(all []notice) {
	for _, n := range all {
		if n.ext == nil {
			continue
		}
		if r, err := n.ext.window(); err == nil {
			r.Store8(n.off, 0)
		}
		n.ext.drop()
	}
	for _, n := range all {
		if n.to != nil {
			n.to.pend(n.port)
		}
	}
}

// setNotify implements hypercall.UnmapNotifier.
func (d *guest) setNotify(frame hypercall.GFN, off int, port hypercall.Port) error {
	if off < 0 && port == 0 {
		delete(d.notify, frame) // whatever is behind the frame by now
		return nil
	}
	f, ok := d.space[frame]
	if !ok || f.kind != ramFrame && f.kind != foreignFrame || off >= shm.PageSize || off >= 0 && f.readOnly {
		return hypercall.EINVAL
	}
	if port != 0 {
		if _, err := d.port(port); err != nil {
			return err
		}
	}
	if _, again := d.notify[frame]; !again && len(d.notify) >= maxNotify {
		return hypercall.ENOSPC
	}
	d.notify[frame] = unmapNotify{off, port}
	return nil
}

// setTimer is HYPERVISOR_set_timer_op: VIRQ_TIMER at a time in nanoseconds since the host's start, or never for 0.
func (d *guest) setTimer(deadline uint64) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if deadline == 0 {
		return
	}
	const forever = time.Duration(1<<63 - 1)
	at := forever
	if deadline < uint64(forever) {
		at = time.Duration(deadline)
	}
	gen := d.gen
	d.timer = time.AfterFunc(max(0, at-d.xen.uptime()), func() { d.shell.onTimer(gen) })
}

// target resolves the domain that an operation is about, for a caller that needs privilege for others than itself (XSM_TARGET).
func (d *guest) target(id hypercall.DomID) (*guest, error) {
	if id == hypercall.DomSelf || id == d.id {
		return d, nil
	}
	t, ok := d.xen.domains[id]
	if !ok {
		return nil, hypercall.ESRCH
	}
	if !d.privileged {
		return nil, hypercall.EPERM
	}
	return t, nil
}

// self puts the domain's own number in place of DOMID_SELF.
func (d *guest) self(id hypercall.DomID) hypercall.DomID {
	if id == hypercall.DomSelf {
		return d.id
	}
	return id
}

// note adds an event about the domain to the trace.
func (d *guest) note(format string, args ...any) { d.xen.trace.add(d.id, format, args...) }
