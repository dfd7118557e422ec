package explore

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Machine is what lies under a domain: a xen.Machine, which sim.Host.NewBare makes. It is spelt out here so that tests of the packages
// below xen can use this one.
type Machine interface {
	hypercall.Caller
	hypercall.Memory
	SetUpcall(f func())
	SetResume(f func())
	SetEnd(f func())
	Close() error
}

// Machine returns m as the parties of a run are given it: each hypercall is a step, and memory that is allocated or viewed is watched
// under the domain's name and the frame number. Upcalls are taken in by a party of their own, a daemon, so that events can be late.
// Config.Merge must not be set, since what a hypercall changes is no part of the state.
func (w *World) Machine(name string, m Machine) Machine {
	if w.merge {
		panic("explore: Config.Merge is set, and what a hypercall changes is no part of the state")
	}
	e := &machine{Machine: m, w: w, name: name, events: w.Event("upcall of " + name)}
	w.Daemon(name+" vCPU", e.vcpu)
	return e
}

type machine struct {
	Machine
	w      *World
	name   string
	events *Event
	upcall func()
}

// Hypercall implements hypercall.Caller.
func (m *machine) Hypercall(c *hypercall.Call) (uint64, error) { return m.call(m.Machine, c) }

// Incarnation implements hypercall.Incarnations.
func (m *machine) Incarnation() hypercall.Caller {
	return &incarnation{m, hypercall.Incarnation(m.Machine)}
}

// incarnation is the Caller of one incarnation.
type incarnation struct {
	m *machine
	hypercall.Caller
}

// Hypercall implements hypercall.Caller.
func (i *incarnation) Hypercall(c *hypercall.Call) (uint64, error) { return i.m.call(i.Caller, c) }

// call makes a hypercall as a step of the party that runs. What Xen does to shared memory is part of the step.
func (m *machine) call(by hypercall.Caller, c *hypercall.Call) (uint64, error) {
	if m.w.unwinding {
		panic(stopped{}) // of a deferred function
	}
	t := m.w.current
	if t == nil {
		return by.Hypercall(c)
	}
	t.step(op{code: opStep, text: callText(c)})
	m.w.current = nil
	result, err := by.Hypercall(c)
	m.w.current = t
	saw := mixBytes(result, c.Data)
	if err != nil {
		saw = mixString(saw, err.Error())
		m.w.note(t, err.Error())
	}
	m.w.hash = mix(m.w.hash, saw)
	return result, err
}

// callText names a hypercall.
func callText(c *hypercall.Call) string {
	if cmd := c.Args[0]; c.Ptr == 1 {
		return fmt.Sprintf("%v %d", c.Nr, cmd)
	}
	return fmt.Sprint(c.Nr)
}

// Alloc implements hypercall.Memory.
func (m *machine) Alloc(n int) (hypercall.GFN, *shm.Region, error) {
	first, r, err := m.Machine.Alloc(n)
	if err == nil {
		m.watch(first, r)
	}
	return first, r, err
}

// View implements hypercall.Memory.
func (m *machine) View(first hypercall.GFN, n int, writable bool) (*shm.Region, error) {
	r, err := m.Machine.View(first, n, writable)
	if err == nil {
		m.watch(first, r)
	}
	return r, err
}

func (m *machine) watch(first hypercall.GFN, r *shm.Region) {
	m.w.Watch(fmt.Sprintf("%s:%x", m.name, uint64(first)), r, nil)
}

// Await implements hypercall.Awaiter: a party that waited as goroutines do would keep all others from their turns.
func (m *machine) Await(what string, ready func() bool) bool {
	t := m.w.current
	if t == nil {
		return false
	}
	t.Until(what, ready)
	return true
}

// SetUpcall implements xen.Machine.
func (m *machine) SetUpcall(f func()) {
	m.upcall = f
	m.Machine.SetUpcall(func() { m.events.pending = true })
}

// vcpu is the party that takes upcalls in.
func (m *machine) vcpu(t *Task) {
	for {
		t.Wait(m.events)
		if m.upcall != nil {
			m.upcall()
		}
	}
}
