package sim_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// TestKilledProcess kills the process of a domain, and looks at what its peer sees of it.
func TestKilledProcess(t *testing.T) {
	for _, where := range []place{here, there} {
		t.Run(where.String(), func(t *testing.T) {
			left := make(chan string, 4)
			h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
			socket := simtest.Serve(t, h, &sim.ServeConfig{Open: true, OnLeave: func(name string) { left <- name }})
			ctx := within(t)
			var d *xen.Domain
			if where == here {
				d = simtest.NewDomain(t, h, "watcher").Xen()
			} else {
				d = simtest.Join(t, socket, "watcher")
			}
			dom0 := h.Store().LocalClient() // who may see it
			defer dom0.Close()
			watch, err := dom0.Watch(ctx, "@releaseDomain", nil)
			require.NoError(t, err)
			<-watch.C() // a watch fires at once
			child := startChild(t, socket, "", "give", d.ID())
			var id hypercall.DomID
			var refs [2]grant.Ref
			var port hypercall.Port
			child.line(&id, &refs[0], &refs[1], &port)

			mine, err := d.Grants().Share(id, 1, grant.ReadWrite)
			require.NoError(t, err)
			child.say(mine.Refs()[0])
			var ready string
			child.line(&ready)
			m, err := d.Grants().Map(id, refs[:], grant.ReadWrite)
			require.NoError(t, err)
			ch, err := d.Events().BindInterdomain(id, port)
			require.NoError(t, err)
			require.NoError(t, ch.Wait(ctx)) // Xen's own first event
			require.Equal(t, uint8(1), m.Region().Load8(4096+7).Unchecked())
			require.Equal(t, uint8(1), mine.Region().Load8(9).Unchecked())

			child.kill()
			require.NoError(t, ch.Wait(ctx), "the notification's event")
			for m.Region().Load8(4096+7).Unchecked() != 0 { // it was a spurious arrival
				require.NoError(t, ch.Wait(ctx))
			}
			require.Zero(t, m.Region().Load8(4096+7).Unchecked(), "the byte of the dead domain's own page")
			require.Zero(t, mine.Region().Load8(9).Unchecked(), "the byte of the page that the dead domain had mapped")
			got := make([]byte, 10)
			m.Region().CopyOut(got, 0)
			require.Equal(t, "still here", string(got))
			st, err := ch.Status()
			require.NoError(t, err)
			require.Equal(t, evtchn.Unbound, st.State)
			select {
			case <-watch.C():
			case <-ctx.Done():
				require.Fail(t, "no @releaseDomain")
			}
			require.Equal(t, "child", <-left)
			require.Nil(t, h.Domain(id))

			watch.Close()
			require.NoError(t, m.Close())
			require.NoError(t, ch.Close())
			end, err := mine.End()
			require.NoError(t, err)
			require.Equal(t, grant.Reclaimed, end, "the dead domain's mapping has gone")
			simtest.CheckLeaks(t, h)
		})
	}
}

// TestKilledWhilePaused: a domain's process that dies while a hypercall of it waits is noticed.
func TestKilledWhilePaused(t *testing.T) {
	left := make(chan string, 4)
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, &sim.ServeConfig{OnLeave: func(name string) { left <- name }})
	d, err := h.NewDomain(&sim.DomainConfig{Name: "paused", External: true})
	require.NoError(t, err)
	child := startChild(t, socket, d.Token(), "ask", 0)
	var id hypercall.DomID
	child.line(&id)
	require.NoError(t, d.Pause())
	calls := h.Stats().Hypercalls
	child.kill()
	select {
	case name := <-left:
		require.Equal(t, "paused", name)
	case <-within(t).Done():
		require.Fail(t, "nobody noticed")
	}
	require.Equal(t, "dead", d.State())
	require.LessOrEqual(t, h.Stats().Hypercalls-calls, uint64(1))
}

// TestJoinAfterReset: a process joins a domain that had another incarnation before anybody was it.
func TestJoinAfterReset(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	d, err := h.NewDomain(&sim.DomainConfig{Name: "reset", External: true})
	require.NoError(t, err)
	require.NoError(t, d.SoftReset())
	require.NoError(t, d.Suspend())
	require.NoError(t, d.Resume(true))
	inside, err := xen.Join(t.Context(), socket, d.Token(), "", nil)
	require.NoError(t, err)
	defer inside.Close()
	other := simtest.NewDomain(t, h, "other").Xen()
	meet(t, inside, other)
	_, next, _ := inside.Incarnation()
	require.NoError(t, d.SoftReset())
	<-next
	meet(t, other, inside)
}

// TestJoinAgain: the name of a process that has gone is free for the next one, at once, and one that is there keeps its name.
func TestJoinAgain(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	for range 200 {
		d, err := xen.Join(t.Context(), socket, "", "again", nil)
		require.NoError(t, err)
		require.Equal(t, "again", d.Name())
		require.NoError(t, d.Close())
	}
	for range 20 {
		d, err := h.NewDomain(&sim.DomainConfig{Name: "again", External: true})
		require.NoError(t, err)
		inside, err := xen.Join(t.Context(), socket, d.Token(), "", nil)
		require.NoError(t, err)
		_, err = xen.Join(t.Context(), socket, "", "again", nil)
		require.ErrorContains(t, err, "has this name")
		require.NoError(t, inside.Close())
	}
}

// TestBindAgain: a channel between processes whose one end was closed works with the next end that is bound to it.
func TestBindAgain(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	a, b := simtest.Join(t, socket, "a"), simtest.Join(t, socket, "b")
	ch, err := a.Events().AllocUnbound(b.ID())
	require.NoError(t, err)
	for range 3 {
		peer, err := b.Events().BindInterdomain(a.ID(), ch.Port())
		require.NoError(t, err)
		require.NoError(t, peer.Wait(within(t)), "Xen's own first event")
		require.NoError(t, peer.Notify())
		require.NoError(t, ch.Wait(within(t)))
		require.NoError(t, ch.Notify())
		require.NoError(t, peer.Wait(within(t)))
		require.NoError(t, peer.Close())
	}
	require.NoError(t, ch.Close())
}

// TestHostShortOfDescriptors: a host that may open no more descriptors refuses what needs one, and names itself. The domain goes on.
func TestHostShortOfDescriptors(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	child := startChild(t, socket, "", "share", 0)
	var id hypercall.DomID
	child.line(&id)
	restore := exhaustDescriptors(t)
	var isEMFILE bool
	var text string
	func() {
		defer restore()
		child.say("go on")
		said, err := child.out.ReadString('\n')
		require.NoError(t, err)
		_, err = fmt.Sscanf(said, "%t %q", &isEMFILE, &text)
		require.NoError(t, err, said)
	}()
	require.True(t, isEMFILE, text)
	require.Contains(t, text, "the host may open no more descriptors")
	child.say("go on")
	said, err := child.out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "false \"<nil>\"\n", said)
	require.Equal(t, "running", h.Domain(id).State())
	child.kill()
	eventually(t, "it has gone", func() bool { return h.Domain(id) == nil })
}

// exhaustDescriptors leaves this process no descriptor to open, until restore.
func exhaustDescriptors(t *testing.T) (restore func()) {
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	free, err := unix.Dup(0) // all below are taken
	require.NoError(t, err)
	require.NoError(t, unix.Close(free))
	less := limit
	less.Cur = uint64(free)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &less))
	return func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }
}

// TestJoinPaused: a process joins a domain that is paused already.
func TestJoinPaused(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	d, err := h.NewDomain(&sim.DomainConfig{Name: "paused", External: true})
	require.NoError(t, err)
	require.NoError(t, d.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = xen.Join(ctx, socket, d.Token(), "", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the context bounds a join that waits for a paused domain")
	eventually(t, "the domain went with its process", func() bool { return d.State() == "dead" })

	d, err = h.NewDomain(&sim.DomainConfig{Name: "paused", External: true})
	require.NoError(t, err)
	require.NoError(t, d.Pause())
	joined := make(chan error, 1)
	go func() {
		x, err := xen.Join(context.Background(), socket, d.Token(), "", nil)
		if err == nil {
			err = x.Close()
		}
		joined <- err
	}()
	require.NoError(t, d.Unpause())
	require.NoError(t, <-joined)
}

// TestHostGoesAway: whatever a domain waits for ends when its host does.
func TestHostGoesAway(t *testing.T) {
	h := sim.NewHost(&sim.HostConfig{Shared: true})
	defer h.Close()
	socket := simtest.Serve(t, h, nil)
	d := simtest.Join(t, socket, "orphan")
	other := simtest.Join(t, socket, "other")
	ctx := within(t)
	ch, err := d.Events().AllocUnbound(other.ID())
	require.NoError(t, err)
	s, err := d.Grants().Share(other.ID(), 1, grant.ReadWrite)
	require.NoError(t, err)
	waits := make(chan error, 3)
	go func() {
		err := ch.Wait(ctx)
		for err == nil { // spurious arrivals are possible
			err = ch.Wait(ctx)
		}
		waits <- err
	}()
	go func() {
		for err == nil {
			_, err = d.Store().Read(ctx, "name")
		}
		waits <- err
	}()
	go func() {
		for {
			if _, err := hypercallStatus(d); err != nil {
				waits <- err
				return
			}
		}
	}()
	require.NoError(t, h.Close())
	for range 3 {
		err := <-waits
		require.Error(t, err)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	<-d.Done()
	_, err = d.Events().AllocUnbound(other.ID())
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = d.Grants().Share(other.ID(), 1, grant.ReadWrite)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = ch.Status()
	require.ErrorIs(t, err, net.ErrClosed)
	s.Region().Store8(0, 1) // what was its memory does not fault
	_, err = xen.Join(ctx, socket, "", "late", nil)
	require.Error(t, err)
}

// TestCallsOfADeadDomain: a machine whose host hung up says so, and nothing hangs.
func TestCallsOfADeadDomain(t *testing.T) {
	h := newHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	a := newBareThere(t, h, socket, sim.DomainConfig{})
	ended := make(chan struct{})
	a.m.SetEnd(func() { close(ended) })
	require.NoError(t, a.Destroy())
	<-ended
	_, err := hypercall.GetParam(a.m, hypercall.DomSelf, hypercall.ParamStorePFN)
	require.ErrorIs(t, err, attach.ErrEnded)
	require.ErrorContains(t, err, "the domain was destroyed")
	_, _, err = a.m.Alloc(1)
	require.ErrorIs(t, err, attach.ErrEnded)
	_, err = a.m.View(0x1000, 1, true)
	require.ErrorIs(t, err, attach.ErrEnded)
	late := make(chan struct{})
	a.m.SetEnd(func() { close(late) })
	<-late
}

// TestGoodbye: a process that leaves by itself is a domain that ends, without a word of error to anybody.
func TestGoodbye(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	child := startChild(t, socket, "", "idle", 0)
	var id hypercall.DomID
	child.line(&id)
	require.NotNil(t, h.Domain(id))
	child.say("")
	_, err := child.out.ReadString('\n')
	require.ErrorIs(t, err, io.EOF)
	eventually(t, "its domain has gone", func() bool { return h.Domain(id) == nil })
}
