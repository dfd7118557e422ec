package vchan_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// acceptAll closes what l accepts, until l ends.
func acceptAll(l *vchan.Listener) (done <-chan error) {
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.AcceptVchan()
			if err != nil {
				ended <- err
				return
			}
			c.SetLinger(0)
			_ = c.Close()
		}
	}()
	return ended
}

// within returns what comes from ch, or fails.
func within[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(vchantest.Patience):
		require.FailNow(t, "still waiting: "+what)
		panic("not reached")
	}
}

func namedDomain(t *testing.T, h *sim.Host, name string, id hypercall.DomID) *sim.Domain {
	d, err := h.NewDomain(&sim.DomainConfig{Name: name, ID: id})
	require.NoError(t, err)
	return d
}

// dialAndClose connects to the server's port or, with a slash, path.
func dialAndClose(t *testing.T, from *xen.Domain, server, at string) {
	t.Helper()
	c, err := (&vchan.Dialer{Domain: from}).DialContext(soon(t), "", server+":"+at)
	require.NoError(t, err)
	c.(*vchan.Conn).SetLinger(0)
	_ = c.Close()
}

// The domain of one end is resumed, or ends, while there are bytes to read: no Read returns anything else than those bytes.
func TestNoZerosWhenTheMemoryGoes(t *testing.T) {
	for name, end := range map[string]func(d *sim.Domain) error{
		"resume":  func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(false)) },
		"destroy": func(d *sim.Domain) error { return d.Destroy() },
		"close":   func(d *sim.Domain) error { return d.Xen().Close() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			sd := newDomain(t, h, "server")
			p := vchantest.Platform{Server: sd.Xen(), Client: newDomain(t, h, "client").Xen()}
			client, server := vchantest.Pair(t, p, &vchan.Config{ReadRing: 1 << 20, WriteRing: 1 << 20})
			data := make([]byte, 1<<20)
			for i := range data {
				data[i] = 0xaa
			}
			_, err := client.Write(data)
			require.NoError(t, err)
			reading, began := make(chan error, 1), make(chan struct{})
			go func() {
				b := make([]byte, 1)
				for i := 0; ; i++ {
					_, err := server.Read(b)
					if err == nil && b[0] != 0xaa {
						err = fmt.Errorf("byte %d is %#x, which nobody sent", i, b[0])
					}
					if err != nil {
						reading <- err
						return
					}
					if i == 0 {
						close(began)
					}
				}
			}()
			<-began
			_ = end(sd) // Close says that the client has pages mapped still
			want := vchan.ErrEnded
			if name == "resume" {
				want = hypercall.ErrStale
			}
			require.ErrorIs(t, within(t, reading, "the reader"), want)
			require.NoError(t, sd.Destroy())
		})
	}
}

// This program's own domain ends: what sleeps wakes up and says so.
func TestOwnDomainEnds(t *testing.T) {
	for name, end := range map[string]func(h *sim.Host, d *sim.Domain) error{
		"destroy": func(_ *sim.Host, d *sim.Domain) error { return d.Destroy() },
		"close":   func(_ *sim.Host, d *sim.Domain) error { return d.Xen().Close() },
		"host":    func(h *sim.Host, _ *sim.Domain) error { return h.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			h := sim.NewHost(nil)
			sd := newDomain(t, h, "server")
			p := vchantest.Platform{Server: sd.Xen(), Client: newDomain(t, h, "client").Xen()}
			client, server := vchantest.Pair(t, p, &vchan.Config{WriteRing: 1024})
			l, err := vchan.Listen(soon(t), p.Server, "y", &vchan.ListenConfig{Any: true})
			require.NoError(t, err)
			accepting := acceptAll(l)
			reading, writing := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := server.Read(make([]byte, 1))
				reading <- err
			}()
			go func() {
				_, err := server.Write(make([]byte, 1<<20))
				writing <- err
			}()
			require.Eventually(t, func() bool { return server.Stats().Sleeps >= 2 }, vchantest.Patience, time.Millisecond)
			_ = end(h, sd) // Close says that the client has pages mapped still
			for what, ch := range map[string]<-chan error{"Read": reading, "Write": writing, "Accept": accepting} {
				err := within(t, ch, what)
				require.ErrorIs(t, err, vchan.ErrEnded, what)
				require.ErrorIs(t, err, net.ErrClosed, what)
				require.NotErrorIs(t, err, hypercall.ErrStale, what)
			}
			_, err = server.Write([]byte("x"))
			require.ErrorIs(t, err, vchan.ErrEnded)
			_, err = vchan.Dial(soon(t), p.Server, "2", "x", nil)
			require.ErrorIs(t, err, vchan.ErrEnded)
			began := time.Now()
			require.NoError(t, server.Close())
			require.NoError(t, l.Close())
			require.Less(t, time.Since(began), vchan.DefaultLinger/2)
			client.SetLinger(0)
			_ = client.Close()
			require.NoError(t, h.Close())
		})
	}
}

// Close waits for a reader, and the domain is resumed meanwhile: there is nobody left to wait for.
func TestCloseDuringResume(t *testing.T) {
	h := newHost(t)
	sd := newDomain(t, h, "server")
	p := vchantest.Platform{Server: sd.Xen(), Client: newDomain(t, h, "client").Xen()}
	client, server := vchantest.Pair(t, p, &vchan.Config{Linger: time.Hour})
	_, err := server.Write([]byte("unread"))
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- server.Close() }()
	require.Eventually(t, func() bool { return server.SetDeadline(time.Time{}) != nil }, vchantest.Patience, time.Millisecond)
	require.NoError(t, sd.Suspend())
	require.NoError(t, sd.Resume(false))
	require.NoError(t, within(t, closed, "Close"))
	client.SetLinger(0)
	_ = client.Close()
}

// A client's domain dies, and another comes with its number before anybody has looked.
func TestNumberIsUsedAgain(t *testing.T) {
	h := newHost(t)
	server := newDomain(t, h, "server").Xen()
	first := namedDomain(t, h, "web", 77)
	var all []*vchan.Listener
	for port, cfg := range map[string]*vchan.ListenConfig{
		"name": {Clients: []string{"web"}}, "any": {Any: true}, "number": {Clients: []string{"77"}},
	} {
		l, err := vchan.Listen(soon(t), server, port, cfg)
		require.NoError(t, err)
		all = append(all, l)
	}
	const path = "/local/domain/1/data/path"
	l, err := vchan.ListenPath(soon(t), server, "77", path, nil)
	require.NoError(t, err)
	all = append(all, l)
	for _, l := range all {
		defer l.Close()
		acceptAll(l)
	}
	reachable := func(d *sim.Domain, at ...string) {
		for _, at := range at {
			dialAndClose(t, d.Xen(), "1", at)
		}
	}
	reachable(first, "name", "any", "number", path)
	require.NoError(t, first.Destroy())
	impostor := namedDomain(t, h, "evil", 77)
	reachable(impostor, "any", "number", path)
	require.Eventually(t, func() bool {
		_, err := server.Store().List(soon(t), "/local/domain/1/data/vchan/77/name")
		return errors.Is(err, fs.ErrNotExist)
	}, vchantest.Patience, time.Millisecond, "what is for the domain named web is not offered to the one named evil")
	require.NoError(t, impostor.Destroy())
	reachable(namedDomain(t, h, "web", 77), "name", "any", "number", path)
}

// The impostor does not need Xenstore: ports and references can be guessed.
func TestImpostorGuesses(t *testing.T) {
	h := newHost(t)
	server := newDomain(t, h, "server").Xen()
	web := namedDomain(t, h, "web", 77)
	l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Clients: []string{"web"}})
	require.NoError(t, err)
	defer l.Close()
	accepted := acceptAll(l)
	require.Eventually(t, func() bool { return l.Stats().Offers == 1 }, vchantest.Patience, time.Millisecond)
	port, err := web.Xen().Store().Read(soon(t), "/local/domain/1/data/vchan/77/x/event-channel")
	require.NoError(t, err)
	ref, err := web.Xen().Store().Read(soon(t), "/local/domain/1/data/vchan/77/x/ring-ref")
	require.NoError(t, err)
	require.NoError(t, web.Destroy())
	takeOffer(namedDomain(t, h, "evil", 77).Xen(), number(ref), number(port))
	require.Eventually(t, func() bool {
		_, err := server.Store().List(soon(t), "/local/domain/1/data/vchan/77")
		return errors.Is(err, fs.ErrNotExist)
	}, vchantest.Patience, time.Millisecond)
	require.Zero(t, l.Stats().Accepted)
	require.NoError(t, l.Close())
	<-accepted
}

func number(text []byte) int {
	n, _ := strconv.Atoi(string(text))
	return n
}

// takeOffer does what Dial does with the numbers, if they are any good.
func takeOffer(d *xen.Domain, ref, port int) {
	ch, err := d.Events().BindInterdomain(1, hypercall.Port(port))
	if err != nil {
		return
	}
	defer ch.Close()
	m, err := d.Grants().Map(1, []grant.Ref{grant.Ref(ref)}, grant.ReadWrite)
	if err != nil {
		return
	}
	defer m.Close()
	m.Region().CompareAndSwap16(20, 1<<8|2, 1<<8|1)
	_ = ch.Notify()
}

// Listeners leave nothing in Xenstore, whenever they are closed.
func TestListenersLeaveNoNodes(t *testing.T) {
	h := newHost(t)
	server := newDomain(t, h, "server").Xen()
	l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Any: true})
	require.NoError(t, err)
	acceptAll(l)
	for i := range 3 {
		d := newDomain(t, h, fmt.Sprintf("client%d", i))
		dialAndClose(t, d.Xen(), "1", "x")
		require.NoError(t, d.Destroy())
	}
	require.NoError(t, l.Close())
	names, err := server.Store().List(soon(t), "/local/domain/1/data/vchan")
	require.NoError(t, err)
	require.Empty(t, names)

	client := newDomain(t, h, "client").Xen()
	for i := range 100 {
		path := fmt.Sprintf("/local/domain/1/data/q%d", i)
		l, err := vchan.ListenPath(soon(t), server, strconv.Itoa(int(client.ID())), path, nil)
		require.NoError(t, err)
		for deadline := time.Now().Add(time.Duration(i) * 5 * time.Microsecond); time.Now().Before(deadline); {
			continue // Close comes at every moment of the first offer
		}
		require.NoError(t, l.Close())
		_, err = server.Store().Read(soon(t), path)
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
}

// A port is one listener's at a time; an offer that somebody removed is made again; one that somebody else made is left alone.
func TestOnePortOneListener(t *testing.T) {
	p := newPlatform(t)
	l := vchantest.Listen(t, p, "x", nil)
	acceptAll(l)
	_, err := vchan.Listen(soon(t), p.Server, "x", &vchan.ListenConfig{Any: true})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	other := vchantest.Listen(t, vchantest.Platform{Server: p.Client, Client: p.Server}, "x", nil)
	require.NoError(t, other.Close(), "the same port of another domain is another")
	dialAndClose(t, p.Client, "1", "x")

	store := p.Server.Store()
	const base = "/local/domain/1/data/vchan/2/x"
	for _, path := range []string{base + "/event-channel", base, "/local/domain/1/data/vchan"} {
		offers := l.Stats().Offers
		require.Eventually(t, func() bool { return store.Remove(soon(t), path) == nil }, vchantest.Patience, time.Millisecond)
		require.Eventually(t, func() bool { return l.Stats().Offers > offers }, vchantest.Patience, time.Millisecond, path)
		offers = l.Stats().Offers
		dialAndClose(t, p.Client, "1", "x")
		require.Eventually(t, func() bool { return l.Stats().Offers > offers }, vchantest.Patience, time.Millisecond, "at rest")
	}

	offered := func() bool { _, err := store.Read(soon(t), base+"/event-channel"); return err == nil }
	require.Eventually(t, offered, vchantest.Patience, time.Millisecond)
	require.NoError(t, store.Write(soon(t), base+"/event-channel", []byte("4000")))
	require.NoError(t, l.Close())
	value, err := store.Read(soon(t), base+"/event-channel")
	require.NoError(t, err)
	require.Equal(t, "4000", string(value))
	again := vchantest.Listen(t, p, "x", nil)
	acceptAll(again)
	dialAndClose(t, p.Client, "1", "x")
}

// Clients keep the pages of all their connections mapped, ended or not: others get theirs.
func TestHoardersHarmNobody(t *testing.T) {
	for _, hoarders := range []int{1, 6} {
		for _, end := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d hoarders, connections end: %v", hoarders, end), func(t *testing.T) { hoardersHarmNobody(t, hoarders, end) })
		}
	}
}

func hoardersHarmNobody(t *testing.T, hoarders int, end bool) {
	h := sim.NewHost(nil)
	server, err := h.NewDomain(&sim.DomainConfig{Name: "server", Xen: &xen.Config{Grants: &grant.Config{MaxFrames: 2}}})
	require.NoError(t, err)
	refused := &refusals{of: make(map[string]bool)}
	l, err := vchan.Listen(soon(t), server.Xen(), "x", &vchan.ListenConfig{Any: true, Config: vchan.Config{Logger: slog.New(refused)}})
	require.NoError(t, err)
	accept := keepAll
	if end {
		accept = acceptAll
	}
	accepted := accept(l)
	for i := range hoarders {
		d := newDomain(t, h, fmt.Sprintf("hoarder%d", i)).Xen()
		hoard(t, d, func() bool { return refused.has(d.ID()) })
	}
	honest := newDomain(t, h, "honest").Xen()
	for range 3 {
		dialAndClose(t, honest, "1", "x")
	}
	require.NoError(t, l.Close())
	<-accepted
	require.NoError(t, h.Close())
}

// keepAll accepts what comes, until l ends, and closes what its peer has closed.
func keepAll(l *vchan.Listener) (done <-chan error) {
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.AcceptVchan()
			if err != nil {
				ended <- err
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				c.SetLinger(0)
				_ = c.Close()
			}()
		}
	}()
	return ended
}

// hoard takes offer after offer of domain 1, and keeps all pages mapped, until enough says so.
func hoard(t *testing.T, d *xen.Domain, enough func() bool) {
	base := fmt.Sprintf("/local/domain/1/data/vchan/%d/x", d.ID())
	for last := ""; !enough(); {
		ref, err1 := d.Store().Read(soon(t), base+"/ring-ref")
		port, err2 := d.Store().Read(soon(t), base+"/event-channel")
		if err1 != nil || err2 != nil || string(ref) == last {
			continue
		}
		m, err := d.Grants().Map(1, []grant.Ref{grant.Ref(number(ref))}, grant.ReadWrite)
		if err != nil {
			continue
		}
		head, err := vchan.ReadHeader(m.Region())
		require.NoError(t, err)
		_, _ = d.Grants().Map(1, append(head.LeftRefs, head.RightRefs...), grant.ReadWrite)
		takeOffer(d, number(ref), number(port))
		last = string(ref)
	}
}

// refusals is a log from which it knows the clients to which no offer could be made.
type refusals struct {
	slog.Handler
	mu sync.Mutex
	of map[string]bool
}

func (r *refusals) Enabled(context.Context, slog.Level) bool { return true }
func (r *refusals) WithAttrs([]slog.Attr) slog.Handler       { return r }

func (r *refusals) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if record.Message == "vchan: offer" && a.Key == "client" {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.of[a.Value.String()] = true
		}
		return true
	})
	return nil
}

func (r *refusals) has(id hypercall.DomID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[strconv.Itoa(int(id))]
}

// Offers that are taken and left empty come ever more slowly.
func TestEmptyVisitsArePaused(t *testing.T) {
	p := newPlatform(t)
	l := vchantest.Listen(t, p, "x", &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	const base = "/local/domain/1/data/vchan/2/x"
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		ref, err1 := p.Client.Store().Read(ctx, base+"/ring-ref")
		port, err2 := p.Client.Store().Read(ctx, base+"/event-channel")
		if err1 == nil && err2 == nil {
			visit(p.Client, number(ref), number(port))
		}
	}
	require.Less(t, l.Stats().Offers, uint64(10))
	require.Zero(t, l.Stats().Accepted)
}

// visit comes and goes.
func visit(d *xen.Domain, ref, port int) {
	ch, err := d.Events().BindInterdomain(1, hypercall.Port(port))
	if err != nil {
		return
	}
	defer ch.Close()
	if m, err := d.Grants().Map(1, []grant.Ref{grant.Ref(ref)}, grant.ReadWrite); err == nil {
		m.Region().Store8(20, 0)
		_ = m.Close()
		_ = ch.Notify()
	}
}

// A client's process dies after it has taken the offer, and the server is not told: it finds out.
func TestHalfTakenOffer(t *testing.T) {
	p := newPlatform(t)
	l := vchantest.Listen(t, p, "x", nil)
	acceptAll(l)
	const base = "/local/domain/1/data/vchan/2/x"
	require.Eventually(t, func() bool { return l.Stats().Offers == 1 }, vchantest.Patience, time.Millisecond)
	ref, err := p.Client.Store().Read(soon(t), base+"/ring-ref")
	require.NoError(t, err)
	m, err := p.Client.Grants().Map(1, []grant.Ref{grant.Ref(number(ref))}, grant.ReadWrite)
	require.NoError(t, err)
	require.True(t, m.Region().CompareAndSwap16(20, 1<<8|2, 1<<8|1))
	require.NoError(t, m.Close())
	dialAndClose(t, p.Client, "1", "x")
}

// A dial that finds the offer taken leaves the live byte of the one who has it alone.
func TestLosingADialDisturbsNobody(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	r.ctl.Store8(20, 1)
	_, err := dialRaw(t, p, "x", 50*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, r.ctl.Load8(20).Is(1))
}

// A dial takes an offer of a server with server_persist that had a client before.
func TestDialPersistentServer(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	r.ctl.Store8(20, 0) // its client has left
	r.ctl.Store8(22, 1) // and it makes no marks
	c, err := dialRaw(t, p, "x", vchantest.Patience)
	require.NoError(t, err)
	_, err = c.Write([]byte("hello"))
	require.NoError(t, err)
	b := make([]byte, 5)
	ok, _, err := r.core.In.TryRecv(b)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "hello", string(b))
}

// What this domain lacks itself is no reason to wait for another offer.
func TestDialWithoutPorts(t *testing.T) {
	h := sim.NewHost(nil)
	p := vchantest.Platform{Server: newDomain(t, h, "server").Xen(), Client: newDomain(t, h, "client").Xen()}
	l := vchantest.Listen(t, p, "x", nil)
	require.Eventually(t, func() bool { return l.Stats().Offers == 1 }, vchantest.Patience, time.Millisecond)
	for {
		if _, err := p.Client.Events().AllocUnbound(p.Server.ID()); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
	}
	_, err := vchan.Dial(soon(t), p.Client, "1", "x", nil)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, l.Close())
	require.NoError(t, h.Close())
}
