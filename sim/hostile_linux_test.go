package sim_test

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// bench is a host with two domains that must not notice what a hostile process does.
type bench struct {
	h      *sim.Host
	socket string
	a, b   *xen.Domain
}

func newBench(t *testing.T, limits sim.Limits) *bench {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true, Limits: limits})
	socket := simtest.Serve(t, h, nil)
	x := &bench{h: h, socket: socket, a: simtest.NewDomain(t, h, "in").Xen(), b: simtest.Join(t, socket, "out")}
	t.Cleanup(func() { meet(t, x.a, x.b); meet(t, x.b, x.a) }) // which still works
	return x
}

// dial connects as a process that the host knows nothing of.
func (x *bench) dial(t *testing.T) (*net.UnixConn, *attach.Conn) {
	t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: x.socket, Net: "unixpacket"})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, attach.NewConn(c)
}

// join is a process that joined as a new domain, and has read the welcome.
func (x *bench) join(t *testing.T) (sock *net.UnixConn, conn *attach.Conn, w *attach.Message) {
	t.Helper()
	sock, conn = x.dial(t)
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hello, ID: attach.Version, Name: "hostile"}))
	w, fds, err := conn.Receive()
	require.NoError(t, err)
	fds.Close()
	require.Equal(t, attach.Welcome, w.Kind)
	return sock, conn, w
}

// requireEnded reads until the host hangs up, and checks what it said.
func requireEnded(t *testing.T, conn *attach.Conn, why string) {
	t.Helper()
	for {
		m, fds, err := conn.Receive()
		require.NoError(t, err, "the host hung up without a word")
		fds.Close()
		if m.Kind == attach.Ended {
			require.Contains(t, m.Text, why)
			break
		}
	}
	_, _, err := conn.Receive()
	require.Error(t, err)
}

func (x *bench) requireGone(t *testing.T, id hypercall.DomID) {
	t.Helper()
	eventually(t, "the hostile domain has gone", func() bool { return x.h.Domain(id) == nil })
}

func garbage(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestBadHello(t *testing.T) {
	x := newBench(t, sim.Limits{})
	hello := func(m attach.Message) []byte { return m.Append(nil) }
	claimed, err := x.h.NewDomain(&sim.DomainConfig{Name: "claimed", External: true})
	require.NoError(t, err)
	_, conn := x.dial(t)
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hello, ID: attach.Version, Text: claimed.Token()}))
	m, fds, err := conn.Receive()
	require.NoError(t, err)
	fds.Close()
	require.Equal(t, attach.Welcome, m.Kind)
	for name, test := range map[string]struct {
		packet []byte
		why    string
	}{
		"garbage":          {garbage(100), "malformed message"},
		"a lot of garbage": {garbage(60000), "malformed message"},
		"truncated":        {hello(attach.Message{Kind: attach.Hello, ID: attach.Version})[:20], "malformed message"},
		"oversize":         {garbage(attach.MaxMessage + 1), "more than"},
		"another version":  {hello(attach.Message{Kind: attach.Hello, ID: 99}), "version 99"},
		"no hello":         {hello(attach.Message{Kind: attach.FreeMem}), "free memory"},
		"wrong token":      {hello(attach.Message{Kind: attach.Hello, ID: attach.Version, Text: "guess"}), "no domain has this token"},
		"a token twice":    {hello(attach.Message{Kind: attach.Hello, ID: attach.Version, Text: claimed.Token()}), "has a process already"},
		"a long name": {hello(attach.Message{Kind: attach.Hello, ID: attach.Version, Name: strings.Repeat("x", 300)}),
			"a name of 300 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			sock, conn := x.dial(t)
			_, err := sock.Write(test.packet)
			require.NoError(t, err)
			requireEnded(t, conn, test.why)
		})
	}
	require.Equal(t, "running", claimed.State(), "who has claimed it keeps it")
	conn.Close()
	x.requireGone(t, claimed.ID())
	_, conn = x.dial(t)
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hello, ID: attach.Version, Text: claimed.Token()}))
	requireEnded(t, conn, "no domain has this token")
}

func TestClosedHost(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	x := &bench{h: h, socket: simtest.Serve(t, h, &sim.ServeConfig{})}
	_, conn := x.dial(t)
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hello, ID: attach.Version, Name: "anybody"}))
	requireEnded(t, conn, "only processes with the token")
	_, err := xen.Join(t.Context(), x.socket, "", "anybody", nil)
	refused := new(attach.RefusedError)
	require.ErrorAs(t, err, &refused)
}

// TestSilence: processes that connect and say nothing keep nobody out, once they are as many as the host bears.
func TestSilence(t *testing.T) {
	x := newBench(t, sim.Limits{})
	var silent []*net.UnixConn
	for range 64 {
		sock, _ := x.dial(t)
		silent = append(silent, sock)
	}
	_, conn := x.dial(t)
	requireEnded(t, conn, "do not say who they are")
	for _, sock := range silent {
		sock.Close()
	}
	eventually(t, "there is room again", func() bool {
		d, err := xen.Join(t.Context(), x.socket, "", "late", nil)
		if err == nil {
			err = d.Close()
		}
		return err == nil
	})
	meet(t, x.a, x.b)
}

func TestSilenceIsBounded(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	x := &bench{h: h, socket: simtest.Serve(t, h, &sim.ServeConfig{Open: true, HelloTimeout: 10 * time.Millisecond})}
	_, conn := x.dial(t)
	requireEnded(t, conn, "no hello")
}

func TestBadRequests(t *testing.T) {
	x := newBench(t, sim.Limits{})
	call := func(c *hypercall.Call) []byte {
		return (&attach.Message{Kind: attach.Hypercall, ID: 1, Gen: 1, Call: c}).Append(nil)
	}
	for name, test := range map[string]struct {
		packet []byte
		why    string
	}{
		"garbage":   {garbage(100), "malformed message"},
		"truncated": {call(hypercall.NewCall(17))[:30], "malformed message"},
		"oversize":  {garbage(attach.MaxMessage + 1), "more than"},
		"a reply":   {(&attach.Message{Kind: attach.Reply}).Append(nil), "reply is no request"},
		"a hello":   {(&attach.Message{Kind: attach.Hello, ID: attach.Version}).Append(nil), "hello is no request"},
		"no call":   {(&attach.Message{Kind: attach.Hypercall}).Append(nil), "without a call"},
		"no memfd":  {(&attach.Message{Kind: attach.AddMemory, GFN: 0x1000, Pages: 1}).Append(nil), "0 descriptors, not 1"},
		"an address outside": {call(&hypercall.Call{Nr: 12, N: 2, Ptr: 1, Data: make([]byte, 16), Refs: []hypercall.DataRef{{Off: 12}}}),
			"an address at offset 12"},
		"addresses that overlap": {call(&hypercall.Call{Nr: 12, N: 2, Ptr: 1, Data: make([]byte, 16),
			Refs: []hypercall.DataRef{{Off: 0}, {Off: 4}}}), "an address at offset 4"},
	} {
		t.Run(name, func(t *testing.T) {
			sock, conn, w := x.join(t)
			_, err := sock.Write(test.packet)
			require.NoError(t, err)
			requireEnded(t, conn, test.why)
			x.requireGone(t, w.Dom)
		})
	}
}

// ask sends a request and returns the reply.
func ask(t *testing.T, conn *attach.Conn, m *attach.Message, fds ...int) *attach.Message {
	t.Helper()
	require.NoError(t, conn.Send(m, fds...))
	r, got, err := conn.Receive()
	require.NoError(t, err)
	got.Close()
	require.Equal(t, attach.Reply, r.Kind)
	return r
}

func TestBadMemory(t *testing.T) {
	x := newBench(t, sim.Limits{Pages: 8, Extents: 2})
	_, conn, w := x.join(t)
	sealed, err := shm.NewFile("sealed", 2)
	require.NoError(t, err)
	defer sealed.Close()
	unsealed, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(t, err)
	defer unix.Close(unsealed)
	require.NoError(t, unix.Ftruncate(unsealed, 2*shm.PageSize))
	plain, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer plain.Close()
	fd := int(sealed.Fd())
	add := func(gfn hypercall.GFN, pages, fd int) *attach.Message {
		return ask(t, conn, &attach.Message{Kind: attach.AddMemory, Gen: w.Gen, GFN: gfn, Pages: pages}, fd)
	}
	require.Contains(t, add(0x1000, 2, unsealed).Text, "can shrink or grow")
	require.Regexp(t, "no memfd|can shrink or grow", add(0x1000, 2, int(plain.Fd())).Text, "a file of a tmpfs has seals, too")
	require.Contains(t, add(0x1000, 3, fd).Text, "has 8192 bytes")
	require.Contains(t, add(0x1000, 9, fd).Text, "9 pages beside")
	require.Contains(t, add(0x1000, 1<<31-1, fd).Text, "pages beside")
	require.Contains(t, add(0x1000, 0, fd).Text, "0 pages beside")
	require.Contains(t, add(0xfff, 1, fd).Text, "not where memory is", "the Xenstore page's number")
	require.Contains(t, add(0x7fff_ffff, 2, fd).Text, "not where memory is")
	require.Contains(t, add(1<<63, 2, fd).Text, "not where memory is")
	require.Empty(t, add(0x1000, 2, fd).Text)
	require.Contains(t, add(0x1001, 1, fd).Text, "something is there already")
	require.Empty(t, add(0x2000, 1, fd).Text)
	require.Contains(t, add(0x3000, 1, fd).Text, "as many as it may")
	free := func(gfn hypercall.GFN, pages int) *attach.Message {
		return ask(t, conn, &attach.Message{Kind: attach.FreeMem, Gen: w.Gen, GFN: gfn, Pages: pages})
	}
	require.Equal(t, hypercall.EINVAL, free(0x1000, 1).Errno)
	require.Equal(t, hypercall.EINVAL, free(0x1001, 1).Errno)
	require.Equal(t, hypercall.EINVAL, free(0x1000, 1<<31-1).Errno)
	require.Equal(t, hypercall.EINVAL, free(0xfff, 1).Errno)
	require.Empty(t, free(0x1000, 2).Text)
	require.Equal(t, hypercall.EINVAL, free(0x1000, 2).Errno)
	require.True(t, ask(t, conn, &attach.Message{Kind: attach.SetNotify, Gen: w.Gen + 1, GFN: 0x2000}).Stale, "of another incarnation")
	require.Empty(t, ask(t, conn, &attach.Message{Kind: attach.Locate, Gen: w.Gen, Places: []attach.Place{{GFN: 0x2000}, {GFN: 7}}}).Places)
}

// TestManyDescriptors: a message with more descriptors than any needs ends the connection, and none of them stays open.
func TestManyDescriptors(t *testing.T) {
	x := newBench(t, sim.Limits{})
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	send := func(sock *net.UnixConn, packet []byte, n int) {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = int(w.Fd())
		}
		_, _, err := sock.WriteMsgUnix(packet, unix.UnixRights(fds...), nil)
		require.NoError(t, err)
	}
	packet := (&attach.Message{Kind: attach.AddMemory, GFN: 0x1000, Pages: 1}).Append(nil)
	for _, n := range []int{2, 128, 200, 250} {
		sock, conn, welcome := x.join(t)
		send(sock, packet, n)
		requireEnded(t, conn, "descriptors")
		x.requireGone(t, welcome.Dom)
	}
	sock, conn := x.dial(t)
	send(sock, nil, 50) // an empty message, which reads as the end
	_, _, err = conn.Receive()
	require.NoError(t, err)
	sock.Close()
	require.NoError(t, w.Close())
	_, err = r.Read(make([]byte, 1)) // returns when the last copy has gone
	require.ErrorIs(t, err, io.EOF)
}

// TestOnlyTheRingerHasTheEvent: what a process is rung by can neither be rung, nor read, nor made to block by it, so that it cannot have
// who sends to it wait: the host, a domain of this process or another one.
func TestOnlyTheRingerHasTheEvent(t *testing.T) {
	x := newBench(t, sim.Limits{})
	_, conn := x.dial(t)
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hello, ID: attach.Version, Name: "hostile"}))
	w, fds, err := conn.Receive()
	require.NoError(t, err)
	defer fds.Close()
	ears := map[string]int{"Xenstore's port": fds[2]}
	bell, err := x.a.Events().AllocUnbound(w.Dom)
	require.NoError(t, err)
	defer bell.Close()
	outside, err := x.b.Events().AllocUnbound(w.Dom)
	require.NoError(t, err)
	defer outside.Close()
	for name, call := range map[string]*hypercall.Call{
		"an unbound port": evtchnCall(hypercall.EvtchnopAllocUnbound, &hypercall.EvtchnAllocUnbound{Dom: w.Dom, RemoteDom: x.a.ID()}),
		"a port bound to a domain of the host's process": evtchnCall(hypercall.EvtchnopBindInterdomain,
			&hypercall.EvtchnBindInterdomain{RemoteDom: x.a.ID(), RemotePort: bell.Port()}),
		"a port bound to another process's": evtchnCall(hypercall.EvtchnopBindInterdomain,
			&hypercall.EvtchnBindInterdomain{RemoteDom: x.b.ID(), RemotePort: outside.Port()}),
		"a virtual interrupt": evtchnCall(hypercall.EvtchnopBindVIRQ, &hypercall.EvtchnBindVIRQ{VIRQ: hypercall.VIRQDebug}),
		"an IPI":              evtchnCall(hypercall.EvtchnopBindIPI, &hypercall.EvtchnBindIPI{}),
	} {
		_, fds := openPort(t, conn, w, call)
		defer fds.Close()
		ears[name] = fds[0]
	}
	for name, fd := range ears {
		_, err := unix.Write(fd, make([]byte, 8))
		require.ErrorIs(t, err, unix.EINVAL, name)
		_, err = unix.Read(fd, make([]byte, 8))
		require.ErrorIs(t, err, unix.EINVAL, name)
	}
}

func evtchnCall(cmd uint64, op hypercall.Struct) *hypercall.Call {
	return hypercall.NewStructCall(hypercall.X86_64, hypercall.NrEventChannelOp, cmd, op)
}

// openPort makes a call that opens a port, and returns the descriptors that come with it.
func openPort(t *testing.T, conn *attach.Conn, w *attach.Message, call *hypercall.Call) (hypercall.Port, attach.FDs) {
	t.Helper()
	require.NoError(t, conn.Send(&attach.Message{Kind: attach.Hypercall, Gen: w.Gen, Call: call}))
	reply, fds, err := conn.Receive()
	require.NoError(t, err)
	require.Empty(t, reply.Text)
	require.NotEmpty(t, fds)
	return reply.Port, fds
}

// TestFullCounter: a process fills the counter of the event that it rings a peer with, and has writes to it block. Nobody else rings that
// event: the host still tells the peer that the process has died, and does not wait.
func TestFullCounter(t *testing.T) {
	x := newBench(t, sim.Limits{})
	for name, victim := range map[string]*xen.Domain{"in": x.a, "out": x.b} {
		t.Run(name, func(t *testing.T) {
			sock, conn, w := x.join(t)
			share, err := victim.Grants().Share(w.Dom, 1, grant.ReadWrite)
			require.NoError(t, err)
			ch, err := victim.Events().AllocUnbound(w.Dom)
			require.NoError(t, err)
			port, fds := openPort(t, conn, w, evtchnCall(hypercall.EvtchnopBindInterdomain,
				&hypercall.EvtchnBindInterdomain{RemoteDom: victim.ID(), RemotePort: ch.Port()}))
			defer fds.Close()
			const frame = 0x70000
			r := ask(t, conn, &attach.Message{Kind: attach.Hypercall, Gen: w.Gen, Call: hypercall.NewStructCall(hypercall.X86_64,
				hypercall.NrGrantTableOp, hypercall.GnttabopMapGrantRef, &hypercall.MapGrantRef{HostAddr: frame * shm.PageSize,
					Flags: hypercall.GrantMapHost, Ref: share.Refs()[0], Dom: victim.ID()})})
			require.Len(t, r.Places, 1)
			require.Empty(t, ask(t, conn, &attach.Message{Kind: attach.SetNotify, Gen: w.Gen, GFN: frame, Offset: -1, Port: port}).Text)
			fill(t, fds[1])
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			require.NoError(t, ch.Wait(ctx), "filling it has rung it")
			sock.Close()
			x.requireGone(t, w.Dom)
			require.NoError(t, ch.Wait(ctx), "the notification of the unmapping")
			require.NoError(t, ch.Close())
			end, err := share.End()
			require.NoError(t, err)
			require.Equal(t, grant.Reclaimed, end)
		})
	}
}

// TestToldWhenAllIsDone: whoever hears of a peer's death, by an event or by a byte, finds that the peer has let go of everything: what it
// takes back by then need not go into quarantine.
func TestToldWhenAllIsDone(t *testing.T) {
	x := newBench(t, sim.Limits{})
	for name, victim := range map[string]*xen.Domain{"in": x.a, "out": x.b} {
		t.Run("event/"+name, func(t *testing.T) { x.endAfterDeath(t, victim, true) })
		t.Run("byte/"+name, func(t *testing.T) { x.endAfterDeath(t, victim, false) })
	}
}

// endAfterDeath has a process die that has pages of the domain's mapped, and the domain end its share as soon as it is told.
func (x *bench) endAfterDeath(t *testing.T, d *xen.Domain, byEvent bool) {
	const pages, frame = 256, 0x70000 // so many that to unmap them takes a while
	for range 10 {
		sock, conn, w := x.join(t)
		share, err := d.Grants().Share(w.Dom, pages, grant.ReadWrite)
		require.NoError(t, err)
		share.Region().Store8(5, 1)
		ch, err := d.Events().AllocUnbound(w.Dom)
		require.NoError(t, err)
		port, fds := openPort(t, conn, w, evtchnCall(hypercall.EvtchnopBindInterdomain,
			&hypercall.EvtchnBindInterdomain{RemoteDom: d.ID(), RemotePort: ch.Port()}))
		fds.Close()
		for i, ref := range share.Refs() {
			r := ask(t, conn, &attach.Message{Kind: attach.Hypercall, Gen: w.Gen, Call: hypercall.NewStructCall(hypercall.X86_64,
				hypercall.NrGrantTableOp, hypercall.GnttabopMapGrantRef, &hypercall.MapGrantRef{HostAddr: uint64(frame+i) * shm.PageSize,
					Flags: hypercall.GrantMapHost, Ref: ref, Dom: d.ID()})})
			require.Len(t, r.Places, 1)
		}
		require.Empty(t, ask(t, conn, &attach.Message{Kind: attach.SetNotify, Gen: w.Gen, GFN: frame, Offset: 5, Port: port}).Text)
		told := make(chan error, 1)
		ended := make(chan grant.Ending, 1)
		go func() {
			if byEvent {
				told <- ch.Wait(t.Context())
			} else {
				for deadline := time.Now().Add(20 * time.Second); !share.Region().Load8(5).Is(0) && time.Now().Before(deadline); {
				}
				told <- nil
			}
			end, _ := share.End()
			ended <- end
		}()
		sock.Close()
		require.NoError(t, <-told)
		require.Equal(t, grant.Reclaimed, <-ended)
		require.NoError(t, ch.Close())
	}
}

// fill fills an event's counter, and has whoever rings it next wait for ever.
func fill(t *testing.T, event int) {
	t.Helper()
	var full [8]byte
	binary.LittleEndian.PutUint64(full[:], 1<<64-2)
	_, err := unix.Write(event, full[:])
	require.NoError(t, err)
	_, err = unix.FcntlInt(uintptr(event), unix.F_SETFL, 0)
	require.NoError(t, err)
}

// TestFlood: a process that makes requests and does not read the replies is cut off; meanwhile nobody waits for it.
func TestFlood(t *testing.T) {
	x := newBench(t, sim.Limits{})
	sock, _, w := x.join(t)
	packet := (&attach.Message{Kind: attach.Hypercall, Gen: w.Gen, Call: hypercall.NewCall(hypercall.NrXenVersion, 0)}).Append(nil)
	flood := make(chan error, 1)
	go func() {
		var err error
		for n := uint32(0); err == nil; n++ {
			binary.LittleEndian.PutUint32(packet[5:], n)
			_, err = sock.Write(packet)
		}
		flood <- err
	}()
	for range 10 {
		meet(t, x.a, x.b)
	}
	d := x.h.Domain(w.Dom)
	require.NoError(t, d.Destroy())
	require.Error(t, <-flood)
	x.requireGone(t, w.Dom)
}

// TestRandomHypercalls has domains in and out of the process make calls that make no sense.
func TestRandomHypercalls(t *testing.T) {
	onBare(t, sim.Limits{Ports: 100, Pages: 64, Extents: 16}, func(t *testing.T, h *sim.Host, a, b *bare) {
		r := rand.New(rand.NewPCG(3, 4))
		numbers := []hypercall.Number{hypercall.NrMemoryOp, hypercall.NrGrantTableOp, hypercall.NrEventChannelOp, hypercall.NrHVMOp,
			hypercall.NrXenVersion, hypercall.NrConsoleIO, hypercall.NrVCPUOp, hypercall.NrSetTimerOp, hypercall.NrMulticall}
		small := func(n int) uint64 { return uint64(r.IntN(n)) }
		for i := range 3000 {
			who := []*bare{a, b}[i%2]
			c := &hypercall.Call{Nr: numbers[r.IntN(len(numbers))], N: 3, Ptr: 1, Args: [5]uint64{small(16), small(4), small(6)}}
			if r.IntN(4) > 0 {
				c.Data = make([]byte, r.IntN(200))
				for j := range c.Data {
					c.Data[j] = byte(small(4))
				}
				if len(c.Data) > 40 {
					c.Refs = []hypercall.DataRef{{Off: 8 * r.IntN(4), Data: make([]byte, r.IntN(64))}}
				}
			}
			who.m.Hypercall(c) // any answer will do
		}
		require.Equal(t, []string{"running", "running"}, []string{a.State(), b.State()})
		require.NoError(t, a.Destroy())
		require.NoError(t, b.Destroy())
		require.Empty(t, h.Leaks())
	})
}
