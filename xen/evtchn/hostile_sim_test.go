package evtchn_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/explore"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// E-02: a handler closes its own channel while more events come, in every order; the port is then given to another channel. The handler
// does not run again, and the next channel hears its own event.
func TestE02_CloseInHandlerInEveryOrder(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(2, 3, 4), MustReach: []string{"the port is used again", "an event after the close"}}
	explore.Check(t, cfg, func(w *explore.World) {
		c := newChannels(w)
		first, sender := c.pair()
		runs, runsAfter, secondRuns, closed := 0, 0, 0, false
		var second evtchn.Channel
		first.Handle(func() {
			if runs++; closed {
				runsAfter++
			}
			if runs == 1 {
				if err := first.Close(); err != nil {
					w.Errorf("close in the handler: %v", err)
				}
				closed = true
			}
		})
		w.Go("client", func(t *explore.Task) {
			for range 3 {
				if closed {
					w.Reached("an event after the close")
				}
				if err := sender.Notify(); err != nil {
					t.Fatalf("notify: %v", err)
				}
			}
			c.sendTo(t, &second)
		})
		w.Go("server", func(t *explore.Task) {
			t.Until("the handler closed", func() bool { return closed })
			ch, err := c.tables[0].AllocUnbound(c.domains[1].ID())
			if err != nil {
				t.Fatalf("allocate: %v", err)
			}
			if ch.Port() == first.Port() {
				w.Reached("the port is used again")
			}
			ch.Handle(func() { secondRuns++ })
			second = ch
		})
		w.Finally("nothing runs after Close, and the next channel hears its event", func() error {
			if runsAfter > 0 || secondRuns == 0 {
				return fmt.Errorf("the handler ran %d times after Close, the next channel's %d times", runsAfter, secondRuns)
			}
			return nil
		})
	})
}

// E-05: the client sends its first event in every order with the server's steps from the offer of a port to the handler. It arrives.
func TestE05_FirstEventInEveryOrder(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(2, 3, 4), MustReach: []string{"before the handler", "after the handler"}}
	explore.Check(t, cfg, func(w *explore.World) {
		c := newChannels(w)
		due, handled, tries := false, false, 0
		w.Go("server", func(t *explore.Task) {
			ch, err := c.tables[0].AllocUnbound(c.domains[1].ID())
			if err != nil {
				t.Fatalf("allocate: %v", err)
			}
			ch.Handle(func() { due = false })
			handled = true
		})
		w.Go("client", func(t *explore.Task) {
			// It guesses the port's number, which is always the same, before it is told; until then nothing is there.
			ch, err := c.tables[1].BindInterdomain(c.domains[0].ID(), 2)
			for errors.Is(err, hypercall.EINVAL) && !handled {
				tries++
				t.Until("the server has done something, or all", func() bool { return tries < 4 || handled })
				ch, err = c.tables[1].BindInterdomain(c.domains[0].ID(), 2)
			}
			if err != nil {
				t.Fatalf("bind: %v", err)
			}
			w.Reached(map[bool]string{false: "before the handler", true: "after the handler"}[handled])
			due = true
			if err := ch.Notify(); err != nil {
				t.Fatalf("notify: %v", err)
			}
		})
		w.Finally("the first event arrived", func() error {
			if due {
				return errors.New("the handler did not run after the first event")
			}
			return nil
		})
	})
}

// E-09: a domain has no port left. It is told so, keeps what it has, opens nothing that it does not know of, and gets on when one is free.
func TestE09_NoPortLeft(t *testing.T) {
	const ports = 20
	host := simtest.NewHost(t, nil)
	dom, err := host.NewDomain(&sim.DomainConfig{Name: "poor", Limits: sim.Limits{Ports: ports}})
	require.NoError(t, err)
	poor, rich := dom.Xen().Events(), newSide(t, host, "rich")
	var chs []evtchn.Channel
	for {
		ch, err := poor.AllocUnbound(rich.ID)
		if err != nil {
			requireNoPort(t, err)
			break
		}
		chs = append(chs, ch)
		require.LessOrEqual(t, len(chs), ports)
	}
	open := poor.Stats().Open
	offer, err := rich.Table.AllocUnbound(dom.ID())
	require.NoError(t, err)
	for range 100 {
		_, err := poor.BindInterdomain(rich.ID, offer.Port())
		requireNoPort(t, err)
		_, err = poor.BindIPI(0)
		requireNoPort(t, err)
		_, err = poor.BindVIRQ(hypercall.VIRQDebug, 0)
		requireNoPort(t, err)
	}
	require.Equal(t, open, poor.Stats().Open)
	st, err := offer.Status()
	require.NoError(t, err)
	require.Equal(t, evtchn.Unbound, st.State, "half of a bind was done")

	require.NoError(t, chs[7].Close())
	ch, err := poor.BindInterdomain(rich.ID, offer.Port())
	require.NoError(t, err)
	require.NoError(t, offer.Notify())
	require.NoError(t, ch.Wait(t.Context()))
	require.NoError(t, ch.Close())
	require.NoError(t, offer.Close())
	for _, ch := range chs {
		require.NoError(t, ch.Close())
	}
}

func requireNoPort(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, hypercall.ENOSPC)
	_, ok := errors.AsType[*evtchn.OpError](err)
	require.True(t, ok, "%v", err)
}
