package vchan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
	"github.com/hvkit/hvkit/xen/xenstore"
)

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), vchantest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// rawServer offers a vchan by hand, as a server does that keeps to no rules.
type rawServer struct {
	base string
	ctl  *shm.Region
	ch   evtchn.Channel
	core *vchan.Core
}

func newRawServer(t *testing.T, p vchantest.Platform, port string) *rawServer {
	r := &rawServer{base: fmt.Sprintf("/local/domain/%d/data/vchan/%d/%s", p.Server.ID(), p.Client.ID(), port)}
	var err error
	r.ch, err = p.Server.Events().AllocUnbound(p.Client.ID())
	require.NoError(t, err)
	s, err := p.Server.Grants().Share(p.Client.ID(), 1, grant.ReadWrite)
	require.NoError(t, err)
	r.ctl = s.Region()
	ring, err := p.Server.Grants().Share(p.Client.ID(), 1, grant.ReadWrite)
	require.NoError(t, err)
	r.core, err = vchan.NewServer(r.ctl, ring.Region(), nil, vchan.Layout{LeftOrder: 12, RightOrder: 11}, ring.Refs(), 0)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, _ = s.End()
		_, _ = ring.End()
		require.NoError(t, r.ch.Close())
	})
	r.publish(t, p, fmt.Sprint(s.Refs()[0]), fmt.Sprint(r.ch.Port()))
	return r
}

func (r *rawServer) publish(t *testing.T, p vchantest.Platform, ref, port string) {
	ctx, s := soon(t), p.Server.Store()
	perms := []xenstore.Perm{{Dom: p.Server.ID()}, {Dom: p.Client.ID(), Access: xenstore.AccessRead}}
	require.NoError(t, s.Mkdir(ctx, r.base))
	require.NoError(t, s.SetPerms(ctx, r.base, perms...))
	require.NoError(t, s.Write(ctx, r.base+"/ring-ref", []byte(ref)))
	require.NoError(t, s.Write(ctx, r.base+"/event-channel", []byte(port)))
}

func dialRaw(t *testing.T, p vchantest.Platform, port string, patience time.Duration) (*vchan.Conn, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := vchan.Dial(ctx, p.Client, strconv.Itoa(int(p.Server.ID())), port, &vchan.Config{Linger: -1})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// V-01: a client whose server corrupts an index gets an error that names it, at once, whether it was reading, writing or asleep.
func TestV01_CorruptIndicesWakeSleepers(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	c, err := dialRaw(t, p, "x", vchantest.Patience)
	require.NoError(t, err)
	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 10))
		reading <- err
	}()
	const rightProd = 12
	r.ctl.Store32(rightProd, 0x80000000)
	require.NoError(t, r.ch.Notify())
	var peer *vchan.PeerError
	require.ErrorAs(t, within(t, reading, "the reader"), &peer)
	require.Equal(t, "right.prod", peer.Field)
	require.Equal(t, uint64(0x80000000), peer.Value)
	_, err = c.Write([]byte("x"))
	require.ErrorAs(t, err, &peer, "the connection is broken in both directions")
	require.NoError(t, c.Close())
}

// V-05, V-06: headers that no vchan can have.
func TestV05_HostileOrders(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	for _, orders := range []uint32{0, 9 | 12<<16, 12 | 21<<16, 10 | 10<<16, 11 | 11<<16, 10 | 20<<16, 0xffffffff} {
		r.ctl.Store32(16, orders)
		_, err := dialRaw(t, p, "x", vchantest.Patience)
		require.ErrorAs(t, err, new(*vchan.PeerError), "%#x", orders)
	}
	r.ctl.Store32(16, 12|12<<16) // the second grant is 0, which is not the client's
	_, err := dialRaw(t, p, "x", 20*time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// V-15: another domain than the server put the offer there, or half of it.
func TestV15_Squatter(t *testing.T) {
	h := newHost(t)
	p := vchantest.Platform{Server: newDomain(t, h, "server").Xen(), Client: newDomain(t, h, "client").Xen()}
	squatter := newDomain(t, h, "squatter").Xen()
	ctx := soon(t)
	for i, owners := range []map[string]*xen.Domain{
		{"ring-ref": squatter, "event-channel": squatter},
		{"ring-ref": squatter, "event-channel": p.Server},
		{"ring-ref": p.Server, "event-channel": squatter},
		{"ring-ref": p.Server, "event-channel": p.Server},
	} {
		// The server lets the squatter write where its offers are.
		port := fmt.Sprintf("x%d", i)
		base := fmt.Sprintf("/local/domain/%d/data/vchan/%d/%s", p.Server.ID(), p.Client.ID(), port)
		require.NoError(t, p.Server.Store().Mkdir(ctx, base))
		require.NoError(t, p.Server.Store().SetPerms(ctx, base, xenstore.Perm{Dom: p.Server.ID()},
			xenstore.Perm{Dom: squatter.ID(), Access: xenstore.AccessReadWrite}))
		for key, owner := range owners {
			s := owner.Store()
			require.NoError(t, s.Write(ctx, base+"/"+key, []byte("8")))
			require.NoError(t, s.SetPerms(ctx, base+"/"+key, xenstore.Perm{Dom: owner.ID()},
				xenstore.Perm{Dom: p.Client.ID(), Access: xenstore.AccessRead}))
		}
		_, err := dialRaw(t, p, port, 100*time.Millisecond)
		if i == 3 {
			require.ErrorIs(t, err, context.DeadlineExceeded, "all is the server's, and it grants nothing")
			continue
		}
		require.ErrorIs(t, err, fs.ErrPermission, "%d", i)
		require.ErrorContains(t, err, "belong", "%d", i)
	}
}

// V-15: of an offer only its client learns.
func TestV15_OthersDoNotSeeTheOffer(t *testing.T) {
	h := newHost(t)
	p := vchantest.Platform{Server: newDomain(t, h, "server").Xen(), Client: newDomain(t, h, "client").Xen()}
	other := newDomain(t, h, "other").Xen()
	l := vchantest.Listen(t, p, "x", nil)
	require.Eventually(t, func() bool { return l.Stats().Offers == 1 }, vchantest.Patience, time.Millisecond)
	base := fmt.Sprintf("/local/domain/%d/data/vchan/%d/x", p.Server.ID(), p.Client.ID())
	for _, key := range []string{"/ring-ref", "/event-channel", ""} {
		_, err := p.Client.Store().Read(soon(t), base+key)
		require.NoError(t, err)
		_, err = other.Store().Read(soon(t), base+key)
		require.ErrorIs(t, err, fs.ErrPermission, key)
		require.ErrorIs(t, other.Store().Write(soon(t), base+key, []byte("8")), fs.ErrPermission, key)
		require.ErrorIs(t, p.Client.Store().Write(soon(t), base+key, []byte("8")), fs.ErrPermission, key)
	}
}

// V-16: numbers that are none.
func TestV16_HostileKeys(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	for _, bad := range []string{"-1", "0x8", " 8", "8 ", "", "eight", "8\x00", "99999999999", "4294967296"} {
		r.publish(t, p, "8", bad)
		_, err := dialRaw(t, p, "x", vchantest.Patience)
		require.ErrorAs(t, err, new(*vchan.PeerError), "event-channel %q", bad)
		r.publish(t, p, bad, "8")
		_, err = dialRaw(t, p, "x", vchantest.Patience)
		require.ErrorAs(t, err, new(*vchan.PeerError), "ring-ref %q", bad)
	}
	for _, absent := range [][2]string{{"0", "8"}, {"8", "0"}, {"4000000000", "8"}, {"8", "1000000"}, {"1", "1"}} {
		r.publish(t, p, absent[0], absent[1])
		_, err := dialRaw(t, p, "x", 10*time.Millisecond)
		require.ErrorIs(t, err, context.DeadlineExceeded, "%v", absent)
	}
}

// V-10: a client that writes nonsense into its live byte before it is connected. The listener goes on.
func TestV10_HostileClientDoesNotStopTheListener(t *testing.T) {
	p := newPlatform(t)
	l := vchantest.Listen(t, p, "x", &vchan.Config{ReadRing: 1024, WriteRing: 2048})
	ctx, s := soon(t), p.Client.Store()
	base := fmt.Sprintf("/local/domain/%d/data/vchan/%d/x", p.Server.ID(), p.Client.ID())
	for n := uint64(1); n <= 3; n++ {
		require.Eventually(t, func() bool {
			port, err1 := s.Read(ctx, base+"/event-channel")
			ref, err2 := s.Read(ctx, base+"/ring-ref")
			if err1 != nil || err2 != nil {
				return false
			}
			r, _ := strconv.Atoi(string(ref))
			e, _ := strconv.Atoi(string(port))
			m, err := p.Client.Grants().Map(p.Server.ID(), []grant.Ref{grant.Ref(r)}, grant.ReadWrite)
			if err != nil {
				return false
			}
			defer m.Close()
			ch, err := p.Client.Events().BindInterdomain(p.Server.ID(), hypercall.Port(e))
			if err != nil {
				return false
			}
			defer ch.Close()
			m.Region().Store8(20, 77)
			require.NoError(t, ch.Notify())
			require.Eventually(t, func() bool { return l.Stats().Rejected == n }, vchantest.Patience, time.Millisecond)
			return true
		}, vchantest.Patience, time.Millisecond)
	}
	c := vchantest.Dial(t, p, "x", nil)
	require.NoError(t, c.Close())
}

// V-12: a storm of events makes no errors and loses no data.
func TestV12_EventStorm(t *testing.T) {
	p := newPlatform(t)
	r := newRawServer(t, p, "x")
	c, err := dialRaw(t, p, "x", vchantest.Patience)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 5)
		_, err := io.ReadFull(c, b)
		if err == nil && string(b) != "hello" {
			err = fmt.Errorf("%q", b)
		}
		done <- err
	}()
	const storm = 5000
	before := runtime.NumGoroutine()
	for i := range storm {
		require.NoError(t, r.ch.Notify())
		if i%1000 == 0 {
			_, _, err := r.core.Out.TryWrite([]byte("hello")[i/1000 : i/1000+1])
			require.NoError(t, err)
		}
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), before+10, "an event is a mark, not a goroutine")
	require.NoError(t, r.ch.Notify())
	require.NoError(t, within(t, done, "the reader"))
	s := c.Stats()
	require.NotZero(t, s.NotificationsReceived)
	require.LessOrEqual(t, s.NotificationsReceived, uint64(storm+1+4), "no more than were sent")
	require.EqualValues(t, 5, s.BytesRead)
	require.LessOrEqual(t, s.Sleeps, s.NotificationsReceived+1, "each sleep ends with an event")
	require.LessOrEqual(t, s.Spurious, s.Sleeps)
	require.LessOrEqual(t, s.NotificationsSent, uint64(1+5), "the storm is not answered: the handshake, and what was read")
}

// V-11: a domain dies in the middle of a transfer. The other end reads what had come, and then a clean end.
func TestV11_PeerDies(t *testing.T) {
	for _, who := range []string{"server", "client"} {
		for _, size := range []int{1024, 65536} {
			t.Run(fmt.Sprintf("%s %d", who, size), func(t *testing.T) {
				h := newHost(t)
				doms := map[string]*sim.Domain{"server": newDomain(t, h, "server"), "client": newDomain(t, h, "client")}
				p := vchantest.Platform{Server: doms["server"].Xen(), Client: doms["client"].Xen()}
				client, server := vchantest.Pair(t, p, &vchan.Config{ReadRing: size, WriteRing: size})
				dies, lives := server, client
				if who == "client" {
					dies, lives = lives, dies
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					for {
						if _, err := dies.Write(make([]byte, 1000)); err != nil {
							return
						}
					}
				})
				_, err := io.CopyN(io.Discard, lives, 300_000)
				require.NoError(t, err)
				require.NoError(t, doms[who].Destroy())
				_, err = io.Copy(io.Discard, lives)
				require.ErrorIs(t, err, syscall.ECONNRESET, "a stream that was cut off does not end as if it were whole")
				_, err = lives.Write(make([]byte, 1000))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				_ = lives.Close()
				wg.Wait() // the Write of a domain that is no more ends by itself
				_, err = dies.Read(make([]byte, 1))
				require.ErrorIs(t, err, vchan.ErrEnded)
				_ = dies.Close()
			})
		}
	}
}

// V-11: the platform clears the live byte of an end whose domain dies, and sends an event. That needs neither the dead nor Xenstore.
func TestV11_PlatformTellsOfTheDeath(t *testing.T) {
	h := newHost(t)
	sd, cd := newDomain(t, h, "server"), newDomain(t, h, "client")
	p := vchantest.Platform{Server: sd.Xen(), Client: cd.Xen()}
	cleared := func(events *atomic.Int64, ctl *shm.Region, live int, before int64) func() bool {
		return func() bool { return ctl.Load8(live).Is(0) && events.Load() > before }
	}
	const soonEnough = 2 * time.Second

	// A server that we look over the shoulder of; its client dies.
	r := newRawServer(t, p, "x")
	var events atomic.Int64
	r.ch.Handle(func() { events.Add(1) })
	_, err := dialRaw(t, p, "x", vchantest.Patience)
	require.NoError(t, err)
	require.True(t, r.ctl.Load8(20).Is(1))
	before := events.Load()
	require.NoError(t, cd.Destroy())
	require.Eventually(t, cleared(&events, r.ctl, 20, before), soonEnough, time.Millisecond, "cli_live, and an event")

	// And a client of that kind; its server dies.
	p.Client = newDomain(t, h, "another client").Xen()
	l, err := vchan.Listen(soon(t), p.Server, "y", &vchan.ListenConfig{Any: true})
	require.NoError(t, err)
	accepted := acceptAll(l)
	base := fmt.Sprintf("/local/domain/%d/data/vchan/%d/y", p.Server.ID(), p.Client.ID())
	ref, port := offered(t, p.Client, base)
	m, err := p.Client.Grants().Map(p.Server.ID(), []grant.Ref{ref}, grant.ReadWrite)
	require.NoError(t, err)
	defer m.Close()
	ch, err := p.Client.Events().BindInterdomain(p.Server.ID(), port)
	require.NoError(t, err)
	defer ch.Close()
	events.Store(0)
	ch.Handle(func() { events.Add(1) })
	require.True(t, m.Region().Load8(21).Is(1))
	require.NoError(t, sd.Destroy())
	require.Eventually(t, cleared(&events, m.Region(), 21, 0), soonEnough, time.Millisecond, "srv_live, and an event")
	require.ErrorIs(t, within(t, accepted, "Accept"), vchan.ErrEnded)
	require.NoError(t, l.Close())
}

// V-17: what a server and its client said to each other is in no page that a later client gets, of the same domain or of another.
func TestV17_NextClientReadsNothingOfTheLast(t *testing.T) {
	for _, sizes := range [][2]int{{1024, 2048}, {2048, 1024}, {4096, 8192}} {
		h := newHost(t)
		server := newDomain(t, h, "server").Xen()
		clients := []*xen.Domain{newDomain(t, h, "first").Xen(), newDomain(t, h, "second").Xen()}
		l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Any: true,
			Config: vchan.Config{ReadRing: sizes[0], WriteRing: sizes[1]}})
		require.NoError(t, err)
		secret := bytes.Repeat([]byte("secret!!"), 1024)
		for _, client := range []*xen.Domain{clients[0], clients[0], clients[1], clients[0]} {
			// Before it connects, the client looks into every page that it was given.
			base := fmt.Sprintf("/local/domain/%d/data/vchan/%d/x", server.ID(), client.ID())
			ref, _ := offered(t, client, base)
			ctl, err := client.Grants().Map(server.ID(), []grant.Ref{ref}, grant.ReadWrite)
			require.NoError(t, err)
			head, err := vchan.ReadHeader(ctl.Region())
			require.NoError(t, err)
			requireZeros(t, ctl.Region(), 24+4*(len(head.LeftRefs)+len(head.RightRefs)))
			for _, refs := range [][]grant.Ref{head.LeftRefs, head.RightRefs} {
				if len(refs) == 0 {
					continue
				}
				m, err := client.Grants().Map(server.ID(), refs, grant.ReadOnly)
				require.NoError(t, err)
				requireZeros(t, m.Region(), 0)
				require.NoError(t, m.Close())
			}
			require.NoError(t, ctl.Close())

			c, err := vchan.Dial(soon(t), client, "server", "x", nil)
			require.NoError(t, err)
			require.NoError(t, l.SetDeadline(time.Now().Add(vchantest.Patience)))
			s, err := l.AcceptVchan()
			require.NoError(t, err)
			for _, way := range [][2]*vchan.Conn{{c, s}, {s, c}} {
				go func() { _, _ = way[0].Write(secret) }()
				require.NoError(t, way[1].SetDeadline(time.Now().Add(vchantest.Patience)))
				got := make([]byte, len(secret))
				_, err := io.ReadFull(way[1], got)
				require.NoError(t, err)
				require.Equal(t, secret, got)
			}
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
		}
		require.NoError(t, l.Close())
	}
}

// offered waits for an offer and returns its numbers.
func offered(t *testing.T, client *xen.Domain, base string) (ref grant.Ref, port hypercall.Port) {
	t.Helper()
	require.Eventually(t, func() bool {
		p, err := client.Store().Read(soon(t), base+"/event-channel")
		if err != nil {
			return false
		}
		r, err := client.Store().Read(soon(t), base+"/ring-ref")
		ref, port = grant.Ref(number(r)), hypercall.Port(number(p))
		return err == nil
	}, vchantest.Patience, time.Millisecond)
	return ref, port
}

// requireZeros fails if there is anything but zeros in the region from an offset on.
func requireZeros(t *testing.T, r *shm.Region, from int) {
	t.Helper()
	b := make([]byte, r.Size()-from)
	r.CopyOut(b, from)
	i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 })
	require.Equal(t, -1, i, "byte %d is not 0", from+i)
}

// Dialling a domain that does not exist fails at once, and one that dies meanwhile fails then.
func TestDialDeadDomain(t *testing.T) {
	h := newHost(t)
	server, client := newDomain(t, h, "server"), newDomain(t, h, "client").Xen()
	began := time.Now()
	_, err := vchan.Dial(soon(t), client, "999", "x", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Less(t, time.Since(began), vchantest.Patience/2)

	dialling := make(chan error, 1)
	go func() {
		_, err := vchan.Dial(soon(t), client, strconv.Itoa(int(server.ID())), "x", nil)
		dialling <- err
	}()
	require.Eventually(t, func() bool { return client.Store().Stats().Watches > 0 }, vchantest.Patience, time.Millisecond)
	require.NoError(t, server.Destroy())
	require.ErrorIs(t, <-dialling, fs.ErrNotExist)
	require.Less(t, time.Since(began), vchantest.Patience/2)
}

// V-20: the domain of one end is suspended and resumed. Its own handles are stale; the peer sees an end; new connections work.
func TestV20_SuspendAndResume(t *testing.T) {
	for _, newID := range []bool{false, true} {
		t.Run(fmt.Sprintf("new number %v", newID), func(t *testing.T) {
			h := newHost(t)
			sd := newDomain(t, h, "server")
			p := vchantest.Platform{Server: sd.Xen(), Client: newDomain(t, h, "client").Xen()}
			l := vchantest.Listen(t, p, "x", nil)
			client := vchantest.Dial(t, p, "x", nil)
			server, err := l.AcceptVchan()
			require.NoError(t, err)
			reading := make(chan error, 1)
			go func() {
				_, err := server.Read(make([]byte, 1))
				reading <- err
			}()
			// The listener is at rest: its next offer is made.
			require.Eventually(t, func() bool { return l.Stats().Offers == 2 }, vchantest.Patience, time.Millisecond)
			_, next, _ := p.Server.Incarnation()
			require.NoError(t, sd.Suspend())
			require.NoError(t, sd.Resume(newID))
			<-next // before, the server's number is its old one
			select {
			case err := <-reading:
				require.ErrorIs(t, err, hypercall.ErrStale)
			case <-time.After(vchantest.Patience):
				require.Fail(t, "a Read still waits for a domain that is gone")
			}
			_, err = server.Write([]byte("x"))
			require.ErrorIs(t, err, hypercall.ErrStale)
			_ = server.Close()
			_ = client.Close()

			// The listener has made its offers anew.
			again := vchantest.Dial(t, p, "x", nil)
			require.NoError(t, l.SetDeadline(time.Now().Add(vchantest.Patience)))
			s, err := l.AcceptVchan()
			require.NoError(t, err)
			_, err = s.Write([]byte("back"))
			require.NoError(t, err)
			b := make([]byte, 4)
			_, err = io.ReadFull(again, b)
			require.NoError(t, err)
			require.Equal(t, "back", string(b))
			require.NoError(t, s.Close())
			require.NoError(t, again.Close())
			require.NoError(t, l.Close())
		})
	}
}

// A listener for any domain serves those that come later, and does not hold on to those that die.
func TestListenForAny(t *testing.T) {
	h := newHost(t)
	server := newDomain(t, h, "server").Xen()
	l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Any: true})
	require.NoError(t, err)
	defer l.Close()
	for i := range 3 {
		d := newDomain(t, h, fmt.Sprintf("client%d", i))
		c, err := vchan.Dial(soon(t), d.Xen(), "server", "x", nil)
		require.NoError(t, err)
		require.NoError(t, l.SetDeadline(time.Now().Add(vchantest.Patience)))
		s, err := l.Accept()
		require.NoError(t, err)
		require.Equal(t, d.ID(), s.RemoteAddr().(vchan.Addr).Dom)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
		require.NotZero(t, offeredPorts(t, server, d.ID()))
		require.NoError(t, d.Destroy())
		require.Eventually(t, func() bool { return offeredPorts(t, server, d.ID()) == 0 }, vchantest.Patience, time.Millisecond)
	}
	require.Zero(t, l.Stats().Open)
	require.Eventually(t, func() bool {
		return server.Grants().Stats().Shared == 33*offeredPorts(t, server, server.ID())
	}, vchantest.Patience, time.Millisecond, "nothing is shared but the offer to the server itself: %+v", server.Grants().Stats())
}

// offeredPorts returns at how many ports the server offers something to a client.
func offeredPorts(t *testing.T, server *xen.Domain, client hypercall.DomID) int {
	names, err := server.Store().List(soon(t), fmt.Sprintf("/local/domain/%d/data/vchan/%d", server.ID(), client))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return len(names)
}

// An offer to a domain that does not exist yet is good when it does: Xenstore does not count permissions from before its time.
func TestListenForANumberToCome(t *testing.T) {
	h := newHost(t)
	server := newDomain(t, h, "server").Xen()
	l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Clients: []string{"2"}})
	require.NoError(t, err)
	defer l.Close()
	require.Eventually(t, func() bool { return l.Stats().Offers > 0 }, vchantest.Patience, time.Millisecond)
	client := newDomain(t, h, "client").Xen()
	require.EqualValues(t, 2, client.ID())
	c, err := vchan.Dial(soon(t), client, "server", "x", nil)
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}

// A client that never comes does not hold up one that does.
func TestSilentClientBlocksNobody(t *testing.T) {
	h := newHost(t)
	server, silent, client := newDomain(t, h, "server").Xen(), newDomain(t, h, "silent"), newDomain(t, h, "client").Xen()
	l, err := vchan.Listen(soon(t), server, "x", &vchan.ListenConfig{Clients: []string{"silent", "client"}})
	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, silent.Pause())
	c, err := vchan.Dial(soon(t), client, "server", "x", nil)
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
	require.NoError(t, silent.Unpause())
}

// V-20: the client's domain is suspended and resumed, with unread data in both directions. The server reads what had come, and then that
// it was cut off; the client reads nothing that nobody sent.
func TestV20_SuspendTheClient(t *testing.T) {
	h := newHost(t)
	cd := newDomain(t, h, "client")
	p := vchantest.Platform{Server: newDomain(t, h, "server").Xen(), Client: cd.Xen()}
	client, server := vchantest.Pair(t, p, nil)
	_, err := client.Write([]byte("to the server"))
	require.NoError(t, err)
	_, err = server.Write([]byte("to the client"))
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = client.Read(b)
	require.NoError(t, err)
	require.NoError(t, cd.Suspend())
	require.NoError(t, cd.Resume(false))
	n, err := client.Read(b)
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Zero(t, n)
	_, err = client.Write(b)
	require.ErrorIs(t, err, hypercall.ErrStale)
	got, err := io.ReadAll(server)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.Equal(t, "to the server", string(got))
	began := time.Now()
	require.Error(t, server.Close(), "not all was read")
	_ = client.Close()
	require.Less(t, time.Since(began), vchan.DefaultLinger/2)
	client, server = vchantest.Pair(t, p, nil)
	_, err = client.Write([]byte("again"))
	require.NoError(t, err)
	require.NoError(t, server.Recv(make([]byte, 5)))
}
