package sim

import (
	"errors"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// machine is what lies under a domain of this process.
type machine struct{ d *Domain }

var (
	_ xen.Machine             = (*machine)(nil)
	_ hypercall.UnmapNotifier = (*machine)(nil)
)

// ABI implements hypercall.Caller.
func (m *machine) ABI() hypercall.ABI {
	m.d.host.mu.Lock()
	defer m.d.host.mu.Unlock()
	return m.d.guest.abi
}

// Hypercall implements hypercall.Caller.
func (m *machine) Hypercall(c *hypercall.Call) (uint64, error) { return m.call(m.d.gen.Load(), c) }

// Incarnation implements hypercall.Incarnations.
func (m *machine) Incarnation() hypercall.Caller { return &incarnation{m, m.d.gen.Load()} }

// incarnation makes the hypercalls of one incarnation of a domain of this process.
type incarnation struct {
	m   *machine
	gen uint32
}

func (i *incarnation) ABI() hypercall.ABI                          { return i.m.ABI() }
func (i *incarnation) Hypercall(c *hypercall.Call) (uint64, error) { return i.m.call(i.gen, c) }

// call makes a hypercall in incarnation gen.
func (m *machine) call(gen uint32, c *hypercall.Call) (result uint64, err error) {
	err = m.d.enter(gen, nil, func(g *guest) (err error) {
		result, err = g.hypercall(c)
		return err
	})
	if err == nil && c.Nr == hypercall.NrSchedOp && c.Args[0] == hypercall.SchedopShutdown {
		return result, m.d.rest() // a suspended domain goes on here
	}
	return result, err
}

func (m *machine) enter(f func(*guest) error) error { return m.d.enter(m.d.gen.Load(), nil, f) }

// Alloc implements hypercall.Memory.
func (m *machine) Alloc(n int) (first hypercall.GFN, r *shm.Region, err error) {
	err = m.enter(func(g *guest) (err error) {
		if first, err = g.allocate(n); err != nil {
			return err
		}
		if r, err = g.space.view(first, n, true); err != nil {
			return errors.Join(err, g.free(first, n))
		}
		return nil
	})
	return first, r, err
}

// Free implements hypercall.Memory.
func (m *machine) Free(first hypercall.GFN, n int) error {
	return m.enter(func(g *guest) error { return g.free(first, n) })
}

// Reserve implements hypercall.Memory.
func (m *machine) Reserve(n int) (first hypercall.GFN, err error) {
	err = m.enter(func(g *guest) (err error) {
		first, err = g.alloc.Reserve(n)
		return err
	})
	return first, err
}

// Unreserve implements hypercall.Memory.
func (m *machine) Unreserve(first hypercall.GFN, n int) error {
	return m.enter(func(g *guest) error { return g.alloc.Unreserve(first, n) })
}

// View implements hypercall.Memory.
func (m *machine) View(first hypercall.GFN, n int, writable bool) (r *shm.Region, err error) {
	err = m.enter(func(g *guest) (err error) {
		r, err = g.space.view(first, n, writable)
		return err
	})
	return r, err
}

// SetUnmapNotify implements hypercall.UnmapNotifier.
func (m *machine) SetUnmapNotify(frame hypercall.GFN, off int, port hypercall.Port) error {
	return m.enter(func(g *guest) error { return g.setNotify(frame, off, port) })
}

// SetUpcall implements xen.Machine.
func (m *machine) SetUpcall(f func()) {
	m.d.vcpu.upcall.Store(&f)
	m.d.vcpu.deliver() // for what came before
}

// SetResume implements xen.Machine.
func (m *machine) SetResume(f func()) {
	d := m.d
	d.host.mu.Lock()
	d.onResume = f
	late := d.unheard && f != nil
	d.unheard = d.unheard && !late
	d.host.mu.Unlock()
	if late {
		f()
	}
}

// SetEnd implements xen.Machine.
func (m *machine) SetEnd(f func()) {
	d := m.d
	d.host.mu.Lock()
	d.onEnd = f
	dead := d.guest.state == stateDead
	d.host.mu.Unlock()
	if dead && f != nil {
		f()
	}
}

// Close implements xen.Machine. The domain goes on to exist: its host ends it.
func (m *machine) Close() error {
	m.d.vcpu.upcall.Store(nil)
	return nil
}
