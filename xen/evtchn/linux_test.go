package evtchn

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// modelXen is a model of Xen's event channels and of Linux's driver for them (drivers/xen/evtchn.c), for several domains.
type modelXen struct {
	mu      sync.Mutex
	ports   map[hypercall.DomID]map[hypercall.Port]*modelPort
	devices []*modelDevice
}

// modelPort is a port: Xen's half of it, and the driver's.
type modelPort struct {
	dom     hypercall.DomID
	port    hypercall.Port
	remote  hypercall.DomID
	peer    *modelPort
	virq    int // -1 for none
	dev     *modelDevice
	enabled bool
	pending bool
}

func newModelXen() *modelXen {
	return &modelXen{ports: make(map[hypercall.DomID]map[hypercall.Port]*modelPort)}
}

// opener opens the devices of a domain's kernel.
func (x *modelXen) opener(dom hypercall.DomID) xendev.Opener {
	return func(name string) (xendev.Node, error) {
		if name != xendev.DevEvtchn {
			return nil, os.ErrNotExist
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.ports[dom] == nil {
			x.ports[dom] = make(map[hypercall.Port]*modelPort)
		}
		d := &modelDevice{x: x, dom: dom, wake: sync.NewCond(&x.mu)}
		x.devices = append(x.devices, d)
		return d, nil
	}
}

// modelDevice is an open /dev/xen/evtchn.
type modelDevice struct {
	x       *modelXen
	dom     hypercall.DomID
	wake    *sync.Cond
	ring    []hypercall.Port
	over    bool  // the list has overflowed
	broken  error // what Read answers
	onlyFor hypercall.DomID
	limited bool
	closed  bool
	resets  int
}

// +checklocksignore: the analyser loses the deferred unlock among the returns.
func (d *modelDevice) Ioctl(req xendev.Request, arg []byte, _ ...xendev.Pointer) (uint64, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(arg[4*i:]) }
	if req == xendev.EvtchnBindInterdomain || req == xendev.EvtchnBindUnboundPort {
		if d.limited && hypercall.DomID(word(0)) != d.onlyFor {
			return 0, syscall.EACCES
		}
		if hypercall.DomID(word(0)) >= hypercall.DomFirstReserved {
			return 0, syscall.ESRCH
		}
	}
	switch req {
	case xendev.EvtchnBindUnboundPort:
		p := d.bind()
		p.remote = hypercall.DomID(word(0))
		return uint64(p.port), nil
	case xendev.EvtchnBindInterdomain:
		there := d.x.ports[hypercall.DomID(word(0))][hypercall.Port(word(1))]
		if there == nil || there.peer != nil || there.virq >= 0 || there.remote != d.dom {
			return 0, syscall.EINVAL
		}
		p := d.bind()
		p.remote, p.peer, there.peer = there.dom, there, p
		d.x.raise(p)
		return uint64(p.port), nil
	case xendev.EvtchnBindVIRQ:
		if word(0) >= 24 {
			return 0, syscall.EINVAL
		}
		for _, p := range d.x.ports[d.dom] {
			if p.virq == int(word(0)) {
				return 0, syscall.EEXIST
			}
		}
		p := d.bind()
		p.virq = int(word(0))
		return uint64(p.port), nil
	case xendev.EvtchnUnbind, xendev.EvtchnNotify:
		p := d.x.ports[d.dom][hypercall.Port(word(0))]
		if p == nil || p.dev != d {
			return 0, syscall.ENOTCONN
		}
		if req == xendev.EvtchnNotify {
			d.x.raise(p.peer)
		} else {
			d.x.drop(p)
		}
		return 0, nil
	case xendev.EvtchnReset:
		d.ring, d.over = nil, false
		d.resets++
		return 0, nil
	case xendev.EvtchnRestrictDomID:
		if dom := hypercall.DomID(binary.LittleEndian.Uint16(arg)); d.limited {
			return 0, syscall.EACCES
		} else if dom == 0 || dom >= hypercall.DomFirstReserved {
			return 0, syscall.EINVAL
		} else {
			d.onlyFor, d.limited = dom, true
		}
		return 0, nil
	}
	return 0, syscall.ENOSYS
}

// bind takes the lowest free port, as Xen does.
func (d *modelDevice) bind() *modelPort {
	ports := d.x.ports[d.dom]
	n := hypercall.Port(1)
	for ports[n] != nil {
		n++
	}
	ports[n] = &modelPort{dom: d.dom, port: n, virq: -1, dev: d, enabled: true}
	return ports[n]
}

// raise has an event arrive at a port.
func (x *modelXen) raise(p *modelPort) {
	switch {
	case p == nil:
	case !p.enabled:
		p.pending = true
	default:
		p.enabled = false
		p.dev.ring = append(p.dev.ring, p.port)
		p.dev.wake.Broadcast()
	}
}

// drop closes a port. What is in the driver's list stays there.
func (x *modelXen) drop(p *modelPort) {
	if p.peer != nil {
		p.peer.peer = nil
	}
	delete(x.ports[p.dom], p.port)
}

// virq has a virtual interrupt arrive.
func (x *modelXen) virq(dom hypercall.DomID, virq int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.ports[dom] {
		if p.virq == virq {
			x.raise(p)
		}
	}
}

func (d *modelDevice) Read(p []byte) (int, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	for len(d.ring) == 0 && !d.over && d.broken == nil && !d.closed {
		d.wake.Wait()
	}
	return d.readLocked(p)
}

func (d *modelDevice) TryRead(p []byte) (int, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	return d.readLocked(p)
}

func (d *modelDevice) readLocked(p []byte) (int, error) {
	switch {
	case d.closed:
		return 0, os.ErrClosed
	case d.broken != nil:
		return 0, &os.PathError{Op: "read", Path: "evtchn", Err: d.broken}
	case d.over:
		return 0, &os.PathError{Op: "read", Path: "evtchn", Err: syscall.EFBIG}
	}
	n := min(len(d.ring), len(p)/4)
	for i := range n {
		binary.LittleEndian.PutUint32(p[4*i:], uint32(d.ring[i]))
	}
	d.ring = d.ring[n:]
	return 4 * n, nil
}

func (d *modelDevice) Write(p []byte) (int, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	for b := p; len(b) >= 4; b = b[4:] {
		port := d.x.ports[d.dom][hypercall.Port(binary.LittleEndian.Uint32(b))]
		if port == nil || port.dev != d || port.enabled {
			continue
		}
		port.enabled = true
		if port.pending {
			port.pending = false
			d.x.raise(port)
		}
	}
	return len(p), nil
}

func (d *modelDevice) Map(uint64, int, bool) (*shm.Region, error) { return nil, syscall.ENODEV }

func (d *modelDevice) Close() error {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.closed = true
	for _, p := range slices.Collect(maps.Values(d.x.ports[d.dom])) {
		if p.dev == d {
			d.x.drop(p)
		}
	}
	d.wake.Broadcast()
	return nil
}

// overflow loses what is in the list, as the driver does where it has no room.
func (d *modelDevice) overflow() {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.ring, d.over = nil, true
	d.wake.Broadcast()
}

func (d *modelDevice) fail(err error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	d.broken = err
	d.wake.Broadcast()
}

// left is how many ports are open.
func (x *modelXen) left() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, ports := range x.ports {
		n += len(ports)
	}
	return n
}

// modelLinux is a table over the model, and its device.
func modelLinux(t *testing.T, x *modelXen, dom hypercall.DomID) (*Linux, *modelDevice) {
	l, err := openLinux(x.opener(dom), nil, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, x.devices[len(x.devices)-1]
}

func modelPair(t *testing.T) (x *modelXen, a, b *Linux, da, db *modelDevice, ca, cb Channel) {
	x = newModelXen()
	t.Cleanup(func() { require.Zero(t, x.left(), "ports left open") })
	a, da = modelLinux(t, x, 1)
	b, db = modelLinux(t, x, 2)
	ca, err := a.AllocUnbound(2)
	require.NoError(t, err)
	cb, err = b.BindInterdomain(1, ca.Port())
	require.NoError(t, err)
	soon(t, cb)
	return x, a, b, da, db, ca, cb
}

func soon(t *testing.T, ch Channel) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, ch.Wait(ctx))
}

// A flood costs the one who waits an arrival for each Wait, and the kernel holds what comes meanwhile.
func TestLinuxPortIsGivenBackWhenTaken(t *testing.T) {
	_, _, b, _, _, ca, cb := modelPair(t)
	before := b.Stats()
	for range 1000 {
		require.NoError(t, ca.Notify())
	}
	require.Eventually(t, func() bool { return b.Stats().Arrivals == before.Arrivals+1 }, 10*time.Second, time.Millisecond)
	soon(t, cb)
	soon(t, cb) // what was pending in the meantime
	require.Equal(t, before.Arrivals+2, b.Stats().Arrivals)
}

func TestLinuxOverflow(t *testing.T) {
	_, _, b, _, db, ca, cb := modelPair(t)
	other, err := b.AllocUnbound(1)
	require.NoError(t, err)
	// The event is lost with the list; both ports have one then.
	require.NoError(t, ca.Notify())
	db.overflow()
	soon(t, cb)
	soon(t, other)
	require.EqualValues(t, 1, b.Stats().Overflows)
	require.NoError(t, ca.Notify())
	soon(t, cb)

	// Where it does not get better the table fails, and says so.
	db.fail(syscall.EFBIG)
	for err = nil; err == nil; {
		err = cb.Wait(t.Context())
	}
	require.ErrorIs(t, err, syscall.EFBIG)
	require.EqualValues(t, 1+maxResets, b.Stats().Overflows)
	require.ErrorIs(t, cb.Notify(), syscall.EFBIG)
	_, err = b.AllocUnbound(1)
	require.ErrorIs(t, err, syscall.EFBIG)
	require.NoError(t, cb.Close())
	require.Zero(t, b.Stats().Open)
}

func TestLinuxDeviceFails(t *testing.T) {
	_, _, b, _, db, _, cb := modelPair(t)
	db.fail(syscall.EIO)
	require.ErrorIs(t, cb.Wait(t.Context()), syscall.EIO)
	_, err := b.BindInterdomain(1, 1)
	require.ErrorIs(t, err, syscall.EIO)
}

// An event that is read before the channel is known is not lost.
func TestLinuxEventWhileBinding(t *testing.T) {
	x := newModelXen()
	a, _ := modelLinux(t, x, 1)
	b, _ := modelLinux(t, x, 2)
	for range 200 { // binding causes an event, which the reader may see first
		ca, err := a.AllocUnbound(2)
		require.NoError(t, err)
		cb, err := b.BindInterdomain(1, ca.Port())
		require.NoError(t, err)
		soon(t, cb)
		require.NoError(t, cb.Close())
		require.NoError(t, ca.Close())
	}
}

func TestLinuxVIRQ(t *testing.T) {
	x := newModelXen()
	l, _ := modelLinux(t, x, 0)
	ch, err := l.BindVIRQ(hypercall.VIRQDomExc, 0)
	require.NoError(t, err)
	x.virq(0, int(hypercall.VIRQDomExc))
	soon(t, ch)
	require.NoError(t, ch.Close())
}

func TestLinuxRestrict(t *testing.T) {
	_, _, b, _, _, _, _ := modelPair(t)
	require.ErrorIs(t, b.Restrict(0), hypercall.EINVAL)
	require.NoError(t, b.Restrict(1))
	_, err := b.AllocUnbound(3)
	require.ErrorIs(t, err, hypercall.EACCES)
	ch, err := b.AllocUnbound(1)
	require.NoError(t, err)
	require.NoError(t, ch.Close())
}

func TestLinuxResume(t *testing.T) {
	_, _, b, _, db, ca, cb := modelPair(t)
	waited := make(chan error, 1)
	go func() { waited <- cb.Wait(context.Background()) }()
	require.NoError(t, b.Resume())
	require.ErrorIs(t, <-waited, hypercall.ErrStale)
	require.ErrorIs(t, cb.Notify(), hypercall.ErrStale)
	require.ErrorIs(t, cb.Close(), hypercall.ErrStale)
	require.NoError(t, cb.Close(), "told once")
	require.True(t, db.closed)
	require.Zero(t, b.Stats().Open)
	cb, err := b.BindInterdomain(1, ca.Port())
	require.NoError(t, err)
	soon(t, cb)
}

func TestLinuxUnsupported(t *testing.T) {
	_, _, b, _, _, _, cb := modelPair(t)
	_, err := b.BindIPI(0)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = b.Adopt(1)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = b.BindVIRQ(1, 1)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = cb.Status()
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.NoError(t, b.Close())
	_, err = b.BindIPI(0)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = openLinux(func(string) (xendev.Node, error) { return nil, os.ErrPermission }, nil, nil)
	require.ErrorIs(t, err, os.ErrPermission)
}

// A handler whose events come faster than it may run is called less often, and misses nothing.
func TestLinuxHandlerRests(t *testing.T) {
	_, _, b, _, _, ca, cb := modelPair(t)
	var mu sync.Mutex
	sent, seen := 0, 0
	cb.Handle(func() {
		mu.Lock()
		defer mu.Unlock()
		seen = sent
	})
	for range 100 * handlerBurst {
		mu.Lock()
		sent++
		mu.Unlock()
		require.NoError(t, ca.Notify())
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen == sent
	}, 10*time.Second, time.Millisecond)
	cb.Handle(nil)
	require.Less(t, b.Stats().Arrivals, uint64(100*handlerBurst))
}
