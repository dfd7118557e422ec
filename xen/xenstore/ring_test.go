package xenstore_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// newPage returns a page whose four indices all begin at start.
func newPage(start uint32) *shm.Region {
	page := shm.New(1)
	for off := xenstore.OffReqCons; off <= xenstore.OffRspProd; off += 4 {
		page.Store32(off, start)
	}
	return page
}

func newRing(t require.TestingT, page *shm.Region, role xenstore.RingRole, features uint32) *xenstore.Ring {
	r, err := xenstore.NewRing(page, role, features)
	require.NoError(t, err)
	return r
}

var starts = []uint32{0, 1, 1023, 1024, 0x7fffff00, 0x80000000, 0xfffffc00, 0xfffffff0, 0xffffffff}

// Both directions are byte queues of 1024, whatever the indices begin at (they wrap at 2^32), and a notification is due whenever the
// peer may sleep.
func TestRingIsAQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		page := newPage(rapid.SampledFrom(starts).Draw(t, "start"))
		client := newRing(t, page, xenstore.RoleClient, 0)
		server := newRing(t, page, xenstore.RoleServer, 0)
		for _, d := range []struct{ from, to *xenstore.Ring }{{client, server}, {server, client}} {
			var queued []byte
			next := byte(0)
			for range rapid.IntRange(1, 30).Draw(t, "steps") {
				if rapid.Bool().Draw(t, "write") {
					p := make([]byte, rapid.IntRange(0, 1500).Draw(t, "n"))
					for i := range p {
						next++
						p[i] = next
					}
					n, notify, err := d.from.Write(p)
					require.NoError(t, err)
					require.Equal(t, min(len(p), 1024-len(queued)), n)
					require.False(t, n > 0 && len(queued) == 0 && !notify, "the reader may sleep")
					next -= byte(len(p) - n)
					queued = append(queued, p[:n]...)
					continue
				}
				require.Equal(t, len(queued) > 0, d.to.Readable())
				p := make([]byte, rapid.IntRange(0, 1500).Draw(t, "n"))
				n, notify, err := d.to.Read(p)
				require.NoError(t, err)
				require.Equal(t, min(len(p), len(queued)), n)
				require.True(t, bytes.Equal(queued[:n], p[:n]))
				require.Equal(t, n > 0 && len(queued) == 1024, notify, "the writer may sleep")
				queued = queued[n:]
			}
		}
	})
}

func TestRingRefusesHostileIndices(t *testing.T) {
	buf := make([]byte, 10)
	for _, c := range []struct {
		role  xenstore.RingRole
		off   int
		field string
		write bool
		ahead uint32 // of the victim's own index
	}{
		{xenstore.RoleClient, xenstore.OffRspProd, "rsp_prod", false, 1025},
		{xenstore.RoleClient, xenstore.OffRspProd, "rsp_prod", false, 5000},
		{xenstore.RoleClient, xenstore.OffRspProd, "rsp_prod", false, 0xffffffff}, // behind
		{xenstore.RoleClient, xenstore.OffReqCons, "req_cons", true, 1},           // it has read what was never written
		{xenstore.RoleClient, xenstore.OffReqCons, "req_cons", true, 0xffffffff - 1024},
		{xenstore.RoleClient, xenstore.OffReqCons, "req_cons", true, 0x80000000},
		{xenstore.RoleServer, xenstore.OffReqProd, "req_prod", false, 1025},
		{xenstore.RoleServer, xenstore.OffReqProd, "req_prod", false, 0x80000000},
		{xenstore.RoleServer, xenstore.OffRspCons, "rsp_cons", true, 1},
		{xenstore.RoleServer, xenstore.OffRspCons, "rsp_cons", true, 0xffffffff - 1024},
	} {
		for _, start := range starts {
			page := newPage(start)
			ring := newRing(t, page, c.role, xenstore.FeatureError)
			do := ring.Read
			if c.write {
				do = ring.Write
			}
			page.Store32(c.off, start+c.ahead)
			_, _, err := do(buf)
			re, ok := errors.AsType[*xenstore.RingError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.field, re.Field)
			require.Contains(t, err.Error(), c.field)
			_, ok = errors.AsType[*shm.RangeError](err)
			require.True(t, ok)
			page.Store32(c.off, start) // repentance comes too late
			_, _, again := do(buf)
			require.Equal(t, err, again)
			want := xenstore.RingErrorNone
			if c.role == xenstore.RoleServer {
				want = xenstore.RingErrorIndex
			}
			require.True(t, page.Load32(xenstore.OffError).Is(uint32(want)), "the server says so in the page, as the C server does")
		}
	}
}

func TestRingAcceptsEveryDistanceThatIsLegal(t *testing.T) {
	for _, start := range starts {
		for ahead := uint32(0); ahead <= 1024; ahead++ {
			page := newPage(start)
			client := newRing(t, page, xenstore.RoleClient, 0)
			page.Store32(xenstore.OffRspProd, start+ahead)
			n, notify, err := client.Read(make([]byte, 2000))
			require.NoError(t, err)
			require.Equal(t, int(ahead), n)
			require.Equal(t, ahead == 1024, notify)
		}
	}
}

// The end's own indices in the page are only for the peer: changing them does not move the end.
func TestRingKeepsItsOwnIndices(t *testing.T) {
	page := newPage(0)
	client := newRing(t, page, xenstore.RoleClient, 0)
	server := newRing(t, page, xenstore.RoleServer, 0)
	_, _, err := client.Write([]byte("abc"))
	require.NoError(t, err)
	buf := make([]byte, 2)
	_, _, err = server.Read(buf)
	require.NoError(t, err)
	page.Store32(xenstore.OffReqCons, 3)
	n, _, err := server.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "c", string(buf[:n]))
}

func TestXC07_RingStartStates(t *testing.T) {
	for _, features := range []uint32{0, xenstore.FeatureReconnection, 0xfffffff1} {
		page := newPage(500)
		page.Store32(xenstore.OffServerFeatures, features)
		page.Store32(xenstore.OffConnection, xenstore.Reconnect)
		page.Store32(xenstore.OffError, 2)
		page.Store32(xenstore.OffRspProd, 99999) // not to be looked at now
		client := newRing(t, page, xenstore.RoleClient, 0)
		buf := make([]byte, 10)
		n, notify, err := client.Read(buf)
		require.True(t, n == 0 && !notify && err == nil)
		n, notify, err = client.Write(buf)
		require.True(t, n == 0 && !notify && err == nil)
		require.False(t, client.Readable())
		require.NoError(t, client.PeerError())

		server := newRing(t, page, xenstore.RoleServer, xenstore.FeatureReconnection|xenstore.FeatureError)
		_, _, err = server.Read(buf)
		require.ErrorIs(t, err, xenstore.ErrRingReset)
		_, _, err = server.Write(buf)
		require.ErrorIs(t, err, xenstore.ErrRingReset)
		server.ResetDone()
		n, _, err = client.Write([]byte("hello"))
		require.True(t, n == 5 && err == nil)
		n, _, err = server.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		require.NoError(t, client.PeerError())
	}
	for _, start := range starts { // in use by a kernel before this one
		page := newPage(start)
		page.Store32(xenstore.OffServerFeatures, 0xfffffff2)
		client, server := newRing(t, page, xenstore.RoleClient, 0), newRing(t, page, xenstore.RoleServer, 0)
		for _, d := range []struct{ from, to *xenstore.Ring }{{client, server}, {server, client}} {
			_, _, err := d.from.Write([]byte("hello"))
			require.NoError(t, err)
			buf := make([]byte, 10)
			n, _, err := d.to.Read(buf)
			require.NoError(t, err)
			require.Equal(t, "hello", string(buf[:n]))
		}
	}
}

func TestRingReset(t *testing.T) {
	page := newPage(7)
	client := newRing(t, page, xenstore.RoleClient, 0)
	require.False(t, client.RequestReset(), "no server that could")
	server := newRing(t, page, xenstore.RoleServer, xenstore.FeatureReconnection)
	_, _, err := server.Write([]byte("stale"))
	require.NoError(t, err)
	require.True(t, client.RequestReset())
	_, _, err = server.Read(make([]byte, 1))
	require.ErrorIs(t, err, xenstore.ErrRingReset)
	server.ResetDone()
	n, _, err := client.Read(make([]byte, 10))
	require.True(t, n == 0 && err == nil, "what was there before is gone")
}

func TestXC08_RingPeerError(t *testing.T) {
	page := newPage(0)
	client := newRing(t, page, xenstore.RoleClient, 0)
	page.Store32(xenstore.OffError, 3)
	require.NoError(t, client.PeerError(), "the word means nothing before the server says that it does")
	for code, want := range map[uint32]string{1: "communication", 2: "index", 3: "protocol", 77: "77"} {
		page.Store32(xenstore.OffServerFeatures, xenstore.FeatureError|0xff00)
		page.Store32(xenstore.OffError, code)
		require.ErrorContains(t, client.PeerError(), want)
	}
}

func TestNewRingRefusesARegionThatDoesNotDo(t *testing.T) {
	_, err := xenstore.NewRing(shm.New(1).ReadOnly(), xenstore.RoleClient, 0)
	require.ErrorIs(t, err, xenstore.EINVAL)
}

// A megabyte each way at once, over a ring of a kilobyte, with reads and writes of any size, indices wrapping.
func TestRingConnStreams(t *testing.T) {
	for _, spin := range []time.Duration{-1, 0} {
		page := newPage(0xffff0000)
		a, b := xenstoretest.NewChannels()
		client, err := xenstore.NewRingConn(page, a, xenstore.RoleClient, &xenstore.RingConfig{Spin: spin})
		require.NoError(t, err)
		server, err := xenstore.NewRingConn(page, b, xenstore.RoleServer, &xenstore.RingConfig{Spin: spin})
		require.NoError(t, err)
		const size = 1 << 20
		var wg sync.WaitGroup
		sent, got := make([][32]byte, 2), make([][32]byte, 2)
		errs := make(chan error, 4)
		for i, d := range []struct{ from, to *xenstore.RingConn }{{client, server}, {server, client}} {
			wg.Go(func() {
				h, rng := sha256.New(), rand.New(rand.NewPCG(1, uint64(i)))
				for left := size; left > 0; {
					p := make([]byte, min(left, 1+rng.IntN(3000)))
					for j := range p {
						p[j] = byte(rng.Uint32())
					}
					h.Write(p)
					_, err := d.from.Write(p)
					if err != nil {
						errs <- err
						return
					}
					left -= len(p)
				}
				h.Sum(sent[i][:0])
			})
			wg.Go(func() {
				h, rng := sha256.New(), rand.New(rand.NewPCG(2, uint64(i)))
				for left := size; left > 0; {
					p := make([]byte, 1+rng.IntN(3000))
					n, err := d.to.Read(p[:min(left, len(p))])
					if err != nil {
						errs <- err
						return
					}
					h.Write(p[:n])
					left -= n
				}
				h.Sum(got[i][:0])
			})
		}
		wg.Wait()
		require.Empty(t, errs)
		require.Equal(t, sent, got)
		require.EqualValues(t, size, client.Stats().BytesRead)
		require.EqualValues(t, size, client.Stats().BytesWritten)
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	}
}

func TestRingConnCloseUnblocks(t *testing.T) {
	client, _ := xenstoretest.NewRings(t, nil, nil)
	errs := make(chan error, 2)
	go func() {
		_, err := client.Read(make([]byte, 1))
		errs <- err
	}()
	go func() {
		_, err := client.Write(make([]byte, 5000))
		errs <- err
	}()
	require.Eventually(t, func() bool { return client.Stats().Sleeps >= 2 }, 5*time.Second, time.Millisecond)
	require.NoError(t, client.Close())
	require.ErrorIs(t, <-errs, net.ErrClosed)
	require.ErrorIs(t, <-errs, net.ErrClosed)
	require.NoError(t, client.Close())
	_, err := client.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = client.TryWrite(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestRingConnTellsTheClientThatTheServerGaveUp(t *testing.T) {
	client, server := xenstoretest.NewRings(t, nil, nil)
	errs := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		errs <- err
	}()
	require.Eventually(t, func() bool { return client.Stats().Sleeps >= 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, server.Fail(xenstore.RingErrorProtocol))
	re, ok := errors.AsType[*xenstore.RingError](<-errs)
	require.True(t, ok)
	require.Equal(t, xenstore.RingErrorProtocol, re.Code)
}

func TestRingConnResets(t *testing.T) {
	page := shm.New(1)
	a, b := xenstoretest.NewChannels()
	server, err := xenstore.NewRingConn(page, b, xenstore.RoleServer, nil)
	require.NoError(t, err)
	_, err = server.Write([]byte("stale"))
	require.NoError(t, err)
	client, err := xenstore.NewRingConn(page, a, xenstore.RoleClient, &xenstore.RingConfig{Reset: true})
	require.NoError(t, err)
	got := make(chan string, 1)
	go func() {
		buf := make([]byte, 5)
		if _, err := io.ReadFull(client, buf); err != nil {
			buf = []byte(err.Error())
		}
		got <- string(buf)
	}()
	_, err = server.Read(make([]byte, 1))
	require.ErrorIs(t, err, xenstore.ErrRingReset)
	server.ResetDone()
	_, err = server.Write([]byte("fresh"))
	require.NoError(t, err)
	require.Equal(t, "fresh", <-got)
	require.NoError(t, client.Close())
	require.NoError(t, server.Close())
}

// hostile changes the page between any two accesses of the other end.
type hostile struct {
	page *shm.Region // another view of the same page
	bits []byte
}

func (h *hostile) BeforeAccess(shm.Access) {
	if len(h.bits) < 5 {
		return
	}
	off := xenstore.OffReqCons + int(h.bits[0]%8)*4
	h.page.Store32(off, uint32(h.bits[1])|uint32(h.bits[2])<<8|uint32(h.bits[3])<<16|uint32(h.bits[4])<<24)
	h.bits = h.bits[5:]
}

// An end whose page changes under it at every access returns errors and nothing else, and says no more of either direction once it has
// said that it is broken.
func FuzzRing(f *testing.F) {
	f.Add(true, []byte{1, 5, 0, 0, 0, 1, 255, 255, 255, 255})
	f.Add(false, []byte{3, 0, 4, 0, 0, 2, 1, 4, 0, 0, 5, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, server bool, bits []byte) {
		page := shm.New(1)
		seen := shm.Join(page) // observed on its own
		role := xenstore.RoleClient
		if server {
			role = xenstore.RoleServer
		}
		ring := newRing(t, seen, role, 3)
		h := &hostile{page: page, bits: bits}
		seen.Observe(h)
		step := func(do func([]byte) (int, bool, error), p []byte) {
			n, _, err := do(p)
			require.True(t, n >= 0 && n <= min(len(p), 1024))
			if _, broken := errors.AsType[*xenstore.RingError](err); broken {
				_, _, again := do(p)
				require.Equal(t, err, again)
			}
		}
		buf := make([]byte, 1500)
		for len(h.bits) >= 5 {
			size := int(h.bits[0]) * 5
			step(ring.Read, buf[:size])
			step(ring.Write, buf[:size])
			_ = ring.PeerError()
			_ = ring.Readable()
		}
	})
}

// A server that does not do resets lets a client in that waits, as a domain that Xen made at boot does; one that does them does one.
func TestServerFindsReconnect(t *testing.T) {
	for _, features := range []uint32{0, xenstore.FeatureError, xenstore.FeatureReconnection} {
		page := newPage(0)
		page.Store32(xenstore.OffConnection, xenstore.Reconnect)
		server := newRing(t, page, xenstore.RoleServer, features)
		reset := features&xenstore.FeatureReconnection != 0
		require.Equal(t, reset, server.ResetAsked())
		require.Equal(t, reset, page.Load32(xenstore.OffConnection).Is(xenstore.Reconnect))
		if reset {
			server.ResetDone()
		}
		require.False(t, server.ResetAsked())
		n, _, err := newRing(t, page, xenstore.RoleClient, 0).Write([]byte("x"))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
}
