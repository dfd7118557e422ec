package evtchn

import (
	"encoding/binary"
	"sync"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// fakeXen is as much of Xen as event channels of one domain need: channels may connect the domain to itself.
type fakeXen struct {
	abi    hypercall.ABI
	layout hypercall.SharedInfo
	id     hypercall.DomID
	upcall func()

	mu    sync.Mutex
	info  *shm.Region
	ports map[hypercall.Port]*hypercall.EvtchnStatus
	next  hypercall.Port // the port that is given next; 0 for the lowest that is free
	fail  map[uint64]error
	calls map[uint64]int
	gen   int // the incarnation
}

func newFakeXen(abi hypercall.ABI) *fakeXen {
	return &fakeXen{
		abi: abi, id: 7, layout: abi.SharedInfo(), info: shm.New(1), ports: make(map[hypercall.Port]*hypercall.EvtchnStatus),
		fail: make(map[uint64]error), calls: make(map[uint64]int),
	}
}

// resume is what Xen does: no port is open, and shared_info is empty. Native is told later.
func (x *fakeXen) resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.info, x.ports = shm.New(1), make(map[hypercall.Port]*hypercall.EvtchnStatus)
	x.gen++
}

// inside reports whether a hypercall is under way. Nothing comes between its accesses.
//
// +checklocksignore: the analyser does not know TryLock.
func (x *fakeXen) inside() bool {
	if !x.mu.TryLock() {
		return true
	}
	x.mu.Unlock()
	return false
}

// Incarnation implements hypercall.Incarnations.
func (x *fakeXen) Incarnation() hypercall.Caller {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fakeIncarnation{x, x.gen}
}

type fakeIncarnation struct {
	*fakeXen
	gen int
}

func (i fakeIncarnation) Hypercall(c *hypercall.Call) (uint64, error) { return i.call(i.gen, c) }

func (x *fakeXen) ABI() hypercall.ABI { return x.abi }

func (x *fakeXen) Hypercall(c *hypercall.Call) (uint64, error) { return x.call(-1, c) }

// call makes a hypercall in incarnation gen, or in the present one for -1.
func (x *fakeXen) call(gen int, c *hypercall.Call) (uint64, error) {
	x.mu.Lock()
	if gen >= 0 && gen != x.gen {
		x.mu.Unlock()
		return 0, hypercall.ErrStale
	}
	interrupt, err := x.answer(c)
	x.mu.Unlock()
	if interrupt && x.upcall != nil {
		x.upcall()
	}
	return 0, err
}

func (x *fakeXen) answer(c *hypercall.Call) (interrupt bool, err error) {
	if c.Nr != hypercall.NrEventChannelOp {
		return false, hypercall.ENOSYS
	}
	cmd := c.Args[0]
	x.calls[cmd]++
	if err := x.fail[cmd]; err != nil {
		return false, err
	}
	switch cmd {
	case hypercall.EvtchnopSend:
		return x.send(hypercall.Port(binary.LittleEndian.Uint32(c.Data))) // Decode would allocate
	case hypercall.EvtchnopUnmask:
		return x.unmask(hypercall.Port(binary.LittleEndian.Uint32(c.Data))), nil
	case hypercall.EvtchnopClose:
		var op hypercall.EvtchnClose
		c.Decode(x.abi, 0, &op)
		return false, x.close(op.Port)
	case hypercall.EvtchnopStatus:
		var op hypercall.EvtchnStatus
		c.Decode(x.abi, 0, &op)
		if p := x.ports[op.Port]; p != nil {
			op = *p
		}
		return false, c.Encode(x.abi, 0, &op)
	}
	return x.open(c)
}

func (x *fakeXen) open(c *hypercall.Call) (interrupt bool, err error) {
	n := x.next
	for p := hypercall.Port(1); n == 0; p++ {
		if x.ports[p] == nil {
			n = p
		}
	}
	st := &hypercall.EvtchnStatus{Port: n}
	switch c.Args[0] {
	case hypercall.EvtchnopAllocUnbound:
		var op hypercall.EvtchnAllocUnbound
		c.Decode(x.abi, 0, &op)
		st.State, st.RemoteDom, op.Port = hypercall.EvtchnUnbound, op.RemoteDom, n
		c.Encode(x.abi, 0, &op)
	case hypercall.EvtchnopBindInterdomain:
		var op hypercall.EvtchnBindInterdomain
		c.Decode(x.abi, 0, &op)
		r := x.ports[op.RemotePort]
		if r == nil || r.State != hypercall.EvtchnUnbound || op.RemoteDom != x.id || r.RemoteDom != x.id {
			return false, hypercall.EINVAL
		}
		r.State, r.RemotePort = hypercall.EvtchnInterdomain, n
		st.State, st.RemoteDom, st.RemotePort, op.LocalPort = hypercall.EvtchnInterdomain, op.RemoteDom, op.RemotePort, n
		c.Encode(x.abi, 0, &op)
		interrupt = x.pend(n)
	case hypercall.EvtchnopBindVIRQ:
		var op hypercall.EvtchnBindVIRQ
		c.Decode(x.abi, 0, &op)
		for _, p := range x.ports {
			if p.State == hypercall.EvtchnVIRQ && p.VIRQ == op.VIRQ {
				return false, hypercall.EEXIST
			}
		}
		if op.VIRQ >= hypercall.NumVIRQs {
			return false, hypercall.EINVAL
		}
		st.State, st.VIRQ, op.Port = hypercall.EvtchnVIRQ, op.VIRQ, n
		c.Encode(x.abi, 0, &op)
	case hypercall.EvtchnopBindIPI:
		var op hypercall.EvtchnBindIPI
		c.Decode(x.abi, 0, &op)
		st.State, op.Port = hypercall.EvtchnIPI, n
		c.Encode(x.abi, 0, &op)
	default:
		return false, hypercall.ENOSYS
	}
	x.ports[n] = st
	return interrupt, nil
}

func (x *fakeXen) close(n hypercall.Port) error {
	p := x.ports[n]
	if p == nil {
		return hypercall.EINVAL
	}
	if r := x.ports[p.RemotePort]; p.State == hypercall.EvtchnInterdomain && r != nil {
		r.State = hypercall.EvtchnUnbound
	}
	delete(x.ports, n)
	if int(n) < x.layout.Ports() {
		off, bit := x.locate(n)
		x.and(x.layout.EvtchnPending+off, ^bit)
	}
	return nil
}

func (x *fakeXen) send(n hypercall.Port) (interrupt bool, err error) {
	p := x.ports[n]
	switch {
	case p == nil:
		return false, hypercall.EINVAL
	case p.State == hypercall.EvtchnInterdomain:
		return x.pend(p.RemotePort), nil
	case p.State == hypercall.EvtchnIPI:
		return x.pend(n), nil
	}
	return false, nil
}

// inject makes an event arrive at a port, open or not, and interrupts the domain.
func (x *fakeXen) inject(n hypercall.Port) {
	x.mu.Lock()
	interrupt := x.pend(n)
	x.mu.Unlock()
	if interrupt && x.upcall != nil {
		x.upcall()
	}
}

// pend is evtchn_2l_set_pending of Xen's common/event_2l.c. It reports whether the domain is to be interrupted.
func (x *fakeXen) pend(n hypercall.Port) bool {
	off, bit := x.locate(n)
	if x.or(x.layout.EvtchnPending+off, bit)&bit != 0 || x.load(x.layout.EvtchnMask+off)&bit != 0 {
		return false
	}
	return x.selectWord(n)
}

// unmask is evtchn_2l_unmask.
func (x *fakeXen) unmask(n hypercall.Port) bool {
	off, bit := x.locate(n)
	if x.and(x.layout.EvtchnMask+off, ^bit)&bit == 0 || x.load(x.layout.EvtchnPending+off)&bit == 0 {
		return false
	}
	return x.selectWord(n)
}

func (x *fakeXen) selectWord(n hypercall.Port) bool {
	sel := uint64(1) << (int(n) / (x.layout.WordBytes * 8))
	if x.or(x.layout.PendingSel, sel)&sel != 0 {
		return false
	}
	return x.info.Or8(x.layout.UpcallPending, 1).Unchecked() == 0
}

func (x *fakeXen) locate(n hypercall.Port) (off int, bit uint64) {
	per := x.layout.WordBytes * 8
	return int(n) / per * x.layout.WordBytes, 1 << (int(n) % per)
}

func (x *fakeXen) load(off int) uint64 {
	if x.layout.WordBytes == 4 {
		return uint64(x.info.Load32(off).Unchecked())
	}
	return x.info.Load64(off).Unchecked()
}

func (x *fakeXen) or(off int, m uint64) uint64 {
	if x.layout.WordBytes == 4 {
		return uint64(x.info.Or32(off, uint32(m)).Unchecked())
	}
	return x.info.Or64(off, m).Unchecked()
}

func (x *fakeXen) and(off int, m uint64) uint64 {
	if x.layout.WordBytes == 4 {
		return uint64(x.info.And32(off, uint32(m)).Unchecked())
	}
	return x.info.And64(off, m).Unchecked()
}
