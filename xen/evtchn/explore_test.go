package evtchn_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/explore"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// events is the bitmaps of a domain with one vCPU, Xen's half of them, and the domain's half, which is the core that production uses.
type events struct {
	w      *explore.World
	core   *evtchn.TwoLevel
	info   *shm.Region
	layout hypercall.SharedInfo
	upcall *explore.Event
	owed   map[hypercall.Port]bool // sent, and not yet taken in
	taken  map[hypercall.Port]int
	sent   map[hypercall.Port]int
	closed map[hypercall.Port]bool
}

func newEvents(w *explore.World, abi hypercall.ABI) *events {
	e := &events{w: w, info: shm.New(1), layout: abi.SharedInfo(), upcall: w.Event("upcall"),
		owed: make(map[hypercall.Port]bool), taken: make(map[hypercall.Port]int), sent: make(map[hypercall.Port]int),
		closed: make(map[hypercall.Port]bool)}
	core, err := evtchn.NewTwoLevel(abi, e.info, 1)
	if err != nil {
		w.Errorf("%v", err)
		w.FailNow()
	}
	e.core = core
	w.Watch("shared_info", e.info, func(off, n int) string {
		l := e.layout
		switch {
		case off == l.UpcallPending:
			return "upcall_pending"
		case off == l.PendingSel:
			return "pending_sel"
		case off >= l.EvtchnMask:
			return fmt.Sprintf("mask word %d", (off-l.EvtchnMask)/l.WordBytes)
		case off >= l.EvtchnPending:
			return fmt.Sprintf("pending word %d", (off-l.EvtchnPending)/l.WordBytes)
		}
		return ""
	})
	return e
}

func (e *events) or(off int, mask uint64) uint64 {
	if e.layout.WordBytes == 4 {
		return uint64(e.info.Or32(off, uint32(mask)).Unchecked())
	}
	return e.info.Or64(off, mask).Unchecked()
}

func (e *events) word(off int) uint64 {
	if e.layout.WordBytes == 4 {
		return uint64(e.info.Load32(off).Unchecked())
	}
	return e.info.Load64(off).Unchecked()
}

// place returns the port's word and bit.
func (e *events) place(port hypercall.Port) (word int, bit uint64) {
	n := e.layout.WordBytes * 8
	return int(port) / n, 1 << (int(port) % n)
}

// send is what Xen does for EVTCHNOP_send to this domain (evtchn_2l_set_pending in common/event_2l.c): nothing of it is locked against
// the domain.
func (e *events) send(port hypercall.Port) {
	e.sent[port]++
	word, bit := e.place(port)
	was := e.or(e.layout.EvtchnPending+word*e.layout.WordBytes, bit)
	e.owed[port] = true // from this step on
	if was&bit != 0 {
		e.w.Reached("an event merges with one before")
		return
	}
	if e.word(e.layout.EvtchnMask+word*e.layout.WordBytes)&bit != 0 {
		e.w.Reached("an event comes to a masked port")
		return
	}
	e.tell(word)
}

// tell is the second half: the selector, and the interrupt.
func (e *events) tell(word int) {
	if e.or(e.layout.PendingSel, 1<<word)>>word&1 != 0 {
		return
	}
	if !e.info.Or8(e.layout.UpcallPending, 1).Is(0) {
		e.w.Reached("an event comes while an upcall is due")
		return
	}
	e.upcall.Notify()
}

// xenUnmask is EVTCHNOP_unmask (evtchn_2l_unmask).
func (e *events) xenUnmask(port hypercall.Port) {
	word, bit := e.place(port)
	off := e.layout.EvtchnMask + word*e.layout.WordBytes
	var was uint64
	if e.layout.WordBytes == 4 {
		was = uint64(e.info.And32(off, ^uint32(bit)).Unchecked())
	} else {
		was = e.info.And64(off, ^bit).Unchecked()
	}
	if was&bit != 0 && e.word(e.layout.EvtchnPending+word*e.layout.WordBytes)&bit != 0 {
		e.w.Reached("Xen delivers at the unmask")
		e.tell(word)
	}
}

// takeIn is the domain's vCPU: each upcall scans, and each scan until there is nothing.
func (e *events) takeIn(t *explore.Task) {
	for {
		t.Wait(e.upcall)
		for e.core.Begin() {
			for port, ok := e.core.Next(); ok; port, ok = e.core.Next() {
				e.taken[port]++
				e.owed[port] = false
			}
		}
	}
}

// oracle: whoever sent last is taken in after that.
func (e *events) oracle() {
	e.w.Finally("no event is lost", func() error {
		for port, owed := range e.owed {
			if owed && !e.core.Masked(port) {
				return fmt.Errorf("an event at port %d was never taken in: %d sent, %d taken in", port, e.sent[port], e.taken[port])
			}
		}
		return nil
	})
}

// TestExploreTwoLevel: senders, the scan, and a party that masks and unmasks, in every order, for bitmaps of both word sizes.
func TestExploreTwoLevel(t *testing.T) {
	for _, abi := range []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64} {
		t.Run(abi.String(), func(t *testing.T) {
			cfg := &explore.Config{Delays: explore.Pick(3, 4, 5), MustReach: []string{
				"an event merges with one before", "an event comes to a masked port", "an event comes while an upcall is due",
				"Xen delivers at the unmask",
			}}
			explore.Check(t, cfg, func(w *explore.World) {
				e := newEvents(w, abi)
				near, far := hypercall.Port(3), hypercall.Port(e.layout.WordBytes*8*2+1)
				w.Go("peer", func(*explore.Task) {
					e.send(near)
					e.send(far)
					e.send(near)
				})
				w.Daemon("vCPU", e.takeIn)
				w.Go("driver", func(*explore.Task) {
					for range 2 {
						e.core.Mask(near)
						if e.core.Unmask(near) {
							e.xenUnmask(near)
						}
					}
				})
				e.oracle()
			})
		})
	}
}

// channels is two domains with native event channels over the simulated Xen.
type channels struct {
	w       *explore.World
	host    *sim.Host
	names   []string
	domains []*sim.Domain
	tables  []*evtchn.Native
	info    []*shm.Region
	remap   []func() (*shm.Region, error)
}

func newChannels(w *explore.World) *channels {
	c := &channels{w: w, host: sim.NewHost(nil), names: []string{"server", "client"}}
	w.Cleanup(func() {
		c.requireNoPorts()
		if err := c.host.Close(); err != nil {
			w.Errorf("close the host: %v", err)
		}
	})
	for _, name := range c.names {
		d, m, err := c.host.NewBare(&sim.DomainConfig{Name: name})
		c.must(err)
		at, err := m.Reserve(1)
		c.must(err)
		watched := w.Machine(name, m)
		remap := func() (*shm.Region, error) {
			if err := hypercall.AddToPhysmap(watched, hypercall.DomSelf, hypercall.SpaceSharedInfo, 0, at); err != nil {
				return nil, err
			}
			return watched.View(at, 1, true)
		}
		info, err := remap()
		c.must(err)
		table, err := evtchn.NewNative(watched, info, nil)
		c.must(err)
		watched.SetUpcall(table.Upcall)
		c.domains, c.tables, c.info, c.remap = append(c.domains, d), append(c.tables, table), append(c.info, info), append(c.remap, remap)
	}
	return c
}

// requireNoPorts closes the tables of the domains that run, and asks Xen what is open then.
func (c *channels) requireNoPorts() {
	for i, table := range c.tables {
		if c.domains[i].State() != "running" {
			continue
		}
		if err := table.Close(); err != nil && !errors.Is(err, hypercall.ErrStale) {
			c.w.Errorf("close the table of the %s: %v", c.names[i], err)
		}
	}
	for _, leak := range c.host.Leaks() {
		if strings.Contains(leak, "port") {
			c.w.Errorf("Xen says: %s", leak)
		}
	}
}

func (c *channels) must(err error) {
	if err != nil {
		c.w.Errorf("set-up: %v", err)
		c.w.FailNow()
	}
}

// pair makes a connected channel.
func (c *channels) pair() (server, client evtchn.Channel) {
	server, err := c.tables[0].AllocUnbound(c.domains[1].ID())
	c.must(err)
	client, err = c.tables[1].BindInterdomain(c.domains[0].ID(), server.Port())
	c.must(err)
	return server, client
}

// sendTo waits until the server has made a channel, binds the client to it, and sends an event.
func (c *channels) sendTo(t *explore.Task, ch *evtchn.Channel) {
	t.Until("another channel", func() bool { return *ch != nil })
	other, err := c.tables[1].BindInterdomain(c.domains[0].ID(), (*ch).Port())
	if err != nil {
		t.Fatalf("bind: %v", err)
	}
	if err := other.Notify(); err != nil {
		t.Fatalf("notify: %v", err)
	}
}

// secondVCPU takes upcalls in beside the first vCPU of the server: two at the same time, at any step.
func (c *channels) secondVCPU() {
	c.w.Go("server vCPU 1", func(t *explore.Task) {
		for range 2 {
			c.tables[0].Upcall()
			t.Step("back from the upcall")
		}
	})
}

// TestExploreCloseInHandler: a channel is closed while its handler runs and events come; the port is then given to another channel, which
// loses no event of its own.
func TestExploreCloseInHandler(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(2, 3, 4), MustReach: []string{"the port is used again", "an event for the second channel"}}
	explore.Check(t, cfg, func(w *explore.World) {
		c := newChannels(w)
		c.secondVCPU()
		first, sender := c.pair()
		ended, second := false, evtchn.Channel(nil)
		afterClose, secondRuns := 0, 0
		first.Handle(func() {
			if ended {
				afterClose++
			}
			w.Step("the handler works")
		})
		w.Go("client", func(t *explore.Task) {
			for range 2 {
				if err := sender.Notify(); err != nil {
					t.Fatalf("notify: %v", err)
				}
			}
			c.sendTo(t, &second)
		})
		w.Go("server", func(t *explore.Task) {
			port := first.Port()
			if err := first.Close(); err != nil {
				t.Fatalf("close: %v", err)
			}
			ended = true
			ch, err := c.tables[0].AllocUnbound(c.domains[1].ID())
			if err != nil {
				t.Fatalf("allocate: %v", err)
			}
			if ch.Port() == port {
				w.Reached("the port is used again")
			}
			ch.Handle(func() {
				secondRuns++
				w.Reached("an event for the second channel")
			})
			second = ch
		})
		w.Finally("no handler begins after Close, and the next channel hears its event", func() error {
			if afterClose > 0 {
				return fmt.Errorf("the handler began %d times after Close", afterClose)
			}
			if secondRuns == 0 {
				return errors.New("the second channel's event was lost")
			}
			return nil
		})
	})
}

// TestExploreMaskedChannel: events that come while a channel is masked arrive when it is unmasked, one at least.
func TestExploreMaskedChannel(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(2, 3, 4), MustReach: []string{"an event while masked", "the handler runs after an unmask"}}
	explore.Check(t, cfg, func(w *explore.World) {
		c := newChannels(w)
		c.secondVCPU()
		receiver, sender := c.pair()
		masked, owed, held := false, false, false
		receiver.Handle(func() {
			if masked {
				w.Errorf("the handler runs while the channel is masked")
			}
			if held {
				w.Reached("the handler runs after an unmask")
			}
			owed, held = false, false
			w.Step("the handler works")
		})
		w.Go("client", func(t *explore.Task) {
			for range 3 {
				if err := sender.Notify(); err != nil {
					t.Fatalf("notify: %v", err)
				}
				owed, held = true, masked
				if masked {
					w.Reached("an event while masked")
				}
			}
		})
		w.Go("server", func(t *explore.Task) {
			for range 2 {
				if err := receiver.Mask(); err != nil {
					t.Fatalf("mask: %v", err)
				}
				masked = true
				t.Step("masked")
				masked = false
				if err := receiver.Unmask(); err != nil {
					t.Fatalf("unmask: %v", err)
				}
			}
		})
		w.Finally("the last event arrived", func() error {
			bits, err := evtchn.NewTwoLevel(hypercall.X86_64, c.info[0], 1)
			if err == nil && (bits.Pending(receiver.Port()) || bits.Masked(receiver.Port())) {
				err = errors.New("an event is left that the handler was not run for, or the port is masked")
			}
			if owed {
				err = errors.Join(err, errors.New("the handler did not run after the last event"))
			}
			return err
		})
	})
}

// TestExploreResumedChannel: the receiver's domain is resumed, or the sender's destroyed, at any step. What was opened before answers
// ErrStale, a channel made afterwards works, and nobody is told of what was not sent.
func TestExploreResumedChannel(t *testing.T) {
	faults := map[string]func(d *sim.Domain) error{
		"soft reset": (*sim.Domain).SoftReset,
		"resumed":    func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(false)) },
		"renumbered": func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(true)) },
		"destroyed":  (*sim.Domain).Destroy,
	}
	for what, fault := range faults {
		for victim := range 2 {
			name := []string{"server", "client"}[victim]
			t.Run(what+" "+name, func(t *testing.T) {
				explore.Check(t, &explore.Config{Delays: explore.Pick(0, 1, 2)}, func(w *explore.World) {
					c := newChannels(w)
					receiver, sender := c.pair()
					struck, heard, fresh := false, 0, evtchn.Channel(nil)
					w.Fault("the "+name+" is "+what, func() {
						struck = true
						if err := fault(c.domains[victim]); err != nil {
							w.Errorf("%s: %v", what, err)
						}
						if c.domains[victim].State() != "running" {
							return
						}
						w.Go(name+" resumes", func(t *explore.Task) {
							info, err := c.remap[victim]()
							if err == nil {
								err = c.tables[victim].Resume(info)
							}
							if err != nil {
								t.Fatalf("resume: %v", err)
							}
							fresh, err = c.tables[victim].AllocUnbound(c.domains[1-victim].ID())
							if err != nil {
								t.Fatalf("allocate after the resume: %v", err)
							}
							fresh.Handle(func() { heard++ })
							other, err := c.tables[1-victim].BindInterdomain(c.domains[victim].ID(), fresh.Port())
							if err == nil {
								err = other.Notify()
							}
							if err != nil {
								t.Fatalf("use a channel after the resume: %v", err)
							}
						})
					})
					w.Finally("what was open is stale, and what was opened since works", func() error {
						if fresh == nil {
							return nil // destroyed
						}
						old := []evtchn.Channel{receiver, sender}[victim]
						// The receiver may have been closed before.
						if err := old.Notify(); !errors.Is(err, hypercall.ErrStale) && (victim == 1 || !errors.Is(err, net.ErrClosed)) {
							return fmt.Errorf("a channel of before answers %v", err)
						}
						if heard == 0 {
							return errors.New("the event on the new channel was not heard")
						}
						return nil
					})
					excused := func(t *explore.Task, op string, err error) {
						if err == nil || struck && (errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed)) {
							return
						}
						t.Fatalf("%s: %v", op, err)
					}
					w.Go("client", func(t *explore.Task) { excused(t, "notify", sender.Notify()) })
					w.Go("server", func(t *explore.Task) {
						excused(t, "mask", receiver.Mask())
						excused(t, "unmask", receiver.Unmask())
						excused(t, "close", receiver.Close())
					})
				})
			})
		}
	}
}
