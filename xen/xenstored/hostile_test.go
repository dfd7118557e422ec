package xenstored_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// link is a way in which a hostile client can be connected as any domain.
type link struct {
	name string
	pair func(tb testing.TB) (near, far io.ReadWriteCloser)
}

var links = []link{
	{"pipe", func(testing.TB) (io.ReadWriteCloser, io.ReadWriteCloser) { return net.Pipe() }},
	{"socket", socketPair},
	{"ring", ringPair},
}

// overLinks runs a test over each link, up to the first where it fails.
func overLinks(t *testing.T, f func(t *testing.T, l link)) {
	for _, l := range links {
		if !t.Run(l.name, func(t *testing.T) { f(t, l) }) {
			return
		}
	}
}

func socketPair(tb testing.TB) (near, far io.ReadWriteCloser) {
	l, err := net.Listen("unix", filepath.Join(tb.TempDir(), "s"))
	require.NoError(tb, err)
	defer l.Close()
	near, err = net.Dial("unix", l.Addr().String())
	require.NoError(tb, err)
	far, err = l.Accept()
	require.NoError(tb, err)
	return near, far
}

// ringEnd is the client's end of a page, and the page.
type ringEnd struct {
	*xenstore.RingConn
	page *shm.Region
	ch   *xenstoretest.Channel
	far  *xenstore.RingConn
}

// Close ends both ends: there is no hypervisor here that would tell the server.
func (r *ringEnd) Close() error { return errors.Join(r.far.Close(), r.RingConn.Close()) }

func ringPair(tb testing.TB) (near, far io.ReadWriteCloser) { return newRingEnd(tb, 0xfffffff0) }

func newRingEnd(tb testing.TB, start uint32) (*ringEnd, *xenstore.RingConn) {
	near, far, err := makeRing(start)
	require.NoError(tb, err)
	return near, far
}

// makeRing returns both ends of a page whose indices begin at start.
func makeRing(start uint32) (*ringEnd, *xenstore.RingConn, error) {
	page := shm.New(1)
	for off := xenstore.OffReqCons; off <= xenstore.OffRspProd; off += 4 {
		page.Store32(off, start)
	}
	a, b := xenstoretest.NewChannels()
	far, err := xenstore.NewRingConn(page, b, xenstore.RoleServer, nil)
	if err != nil {
		return nil, nil, err
	}
	near, err := xenstore.NewRingConn(page, a, xenstore.RoleClient, nil)
	return &ringEnd{near, page, a, far}, far, err
}

// descriptors returns how many this process has open, 0 where the system does not say.
func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(list)
}

// stage is a server with three domains: 0, whose tool works all the time; 1, which attacks; 2, which is to be served whatever 1 does.
// Each guest owns its home. At the end of the test nothing may be left of anybody.
type stage struct {
	*xenstored.Server
	host, other *xenstore.Client
	released    *xenstore.Watch // of @releaseDomain, by the tool
	rounds      int
}

func newStage(t *testing.T, cfg *xenstored.Config) *stage {
	t.Helper()
	open := descriptors()
	t.Cleanup(func() { eventually(t, "the closing of all descriptors", func() bool { return descriptors() <= open }) })
	s := newServer(t, cfg)
	st := &stage{Server: s, host: s.LocalClient()}
	for dom := hypercall.DomID(1); dom <= 2; dom++ {
		require.NoError(t, s.IntroduceDomain(dom))
		home := xenstore.DomainPath(dom)
		require.NoError(t, st.host.Mkdir(t.Context(), home))
		require.NoError(t, st.host.SetPerms(t.Context(), home, xenstore.Perm{Dom: dom}))
	}
	st.other = s.LocalClientOf(2)
	w, err := st.host.Watch(t.Context(), xenstore.ReleaseDomain, nil)
	require.NoError(t, err)
	_, err = w.Next(t.Context())
	require.NoError(t, err)
	st.released = w
	return st
}

// connect connects a client that the test plays, and waits until the server knows of it.
func (st *stage) connect(t *testing.T, rw io.ReadWriteCloser, dom hypercall.DomID) <-chan error {
	t.Helper()
	before := st.Accepted()
	result := make(chan error, 1)
	go func() { result <- st.ServeConn(context.Background(), rw, dom) }()
	eventually(t, "the connection", func() bool { return st.Accepted() > before || len(result) > 0 })
	return result
}

// alive has the others do their work, and looks at the books.
func (st *stage) alive(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st.rounds++
	value := fmt.Append(nil, st.rounds)
	for path, c := range map[string]*xenstore.Client{"/tool/x": st.host, "own": st.other} {
		require.NoError(t, c.Write(ctx, path, value))
		got, err := c.Read(ctx, path)
		require.NoError(t, err)
		require.Equal(t, value, got)
		require.NoError(t, c.Transaction(ctx, func(tx *xenstore.Tx) error { return tx.Remove(ctx, path) }))
	}
	require.NoError(t, st.Recount())
}

// end closes the others' clients, releases the guests, and wants nothing to be left.
func (st *stage) end(t *testing.T) {
	t.Helper()
	st.alive(t)
	require.NoError(t, st.other.Close())
	require.NoError(t, st.ReleaseDomain(1))
	require.NoError(t, st.ReleaseDomain(2))
	require.NoError(t, st.host.Close())
	eventually(t, "the end of all connections", func() bool { return st.Stats().Connections == 0 })
	now := st.Stats()
	require.Zero(t, now.Watches)
	require.Zero(t, now.Transactions)
	require.Equal(t, 1, st.Known(), "domain 0")
	require.Equal(t, 7, now.Nodes, "what a new store has, and the directory of homes")
	require.NoError(t, st.Recount())
}

// TestXS01_RingIndices: an index that cannot be is error 2 in the page and the end of that connection, whichever of the two it is; one that
// can be, a full ring included, is served.
func TestXS01_RingIndices(t *testing.T) {
	st := newStage(t, nil)
	request := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgGetDomainPath}, []byte("1\x00"))
	violations := uint64(0)
	for _, start := range []uint32{0, 1000, 0xfffffff0} {
		for _, bad := range []struct {
			off   int
			field string
			add   uint32
		}{
			{xenstore.OffReqProd, "req_prod", 1025}, {xenstore.OffReqProd, "req_prod", 5000}, {xenstore.OffReqProd, "req_prod", 1 << 31},
			{xenstore.OffReqProd, "req_prod", 0xffffffff}, // behind what was taken
			{xenstore.OffRspCons, "rsp_cons", 1},          // it has taken what was never sent
			{xenstore.OffRspCons, "rsp_cons", 1 << 31}, {xenstore.OffRspCons, "rsp_cons", 0xffffffff - 1024},
		} {
			near, far := newRingEnd(t, start)
			result := st.connect(t, far, 1)
			near.page.Store32(bad.off, start+bad.add)
			if bad.field == "rsp_cons" { // looked at when there is something to send
				_, err := near.TryWrite(request)
				require.NoError(t, err)
			}
			require.NoError(t, near.ch.Notify())
			err := ended(t, result)
			var rerr *xenstore.RingError
			require.ErrorAs(t, err, &rerr)
			require.Equal(t, bad.field, rerr.Field)
			require.Equal(t, xenstore.RingErrorIndex, rerr.Code)
			require.True(t, near.page.Load32(xenstore.OffError).Is(uint32(xenstore.RingErrorIndex)))
			violations++
			require.Equal(t, violations, st.Stats().Violations)
			require.NoError(t, near.Close())
			st.alive(t)
		}

		near, far := newRingEnd(t, start)
		n, err := near.TryWrite(bytes.Repeat(request, 100)) // before there is a server that would take some
		require.NoError(t, err)
		require.Equal(t, xenstore.RingSize, n)
		result := st.connect(t, far, 1)
		script := xenstoretest.NewScriptOver(near)
		for range xenstore.RingSize / len(request) {
			require.Equal(t, "/local/domain/1\x00", script.Next().Payload)
		}
		require.NoError(t, near.Close())
		require.ErrorIs(t, ended(t, result), net.ErrClosed)
	}
	st.end(t)
}

// TestXS02_MessageLength: a payload longer than 4096 bytes, as an unsigned number, ends its connection, once and with a typed error; the
// longest that may be is served.
func TestXS02_MessageLength(t *testing.T) {
	overLinks(t, func(t *testing.T, l link) {
		st := newStage(t, nil)
		for i, n := range []uint32{4097, 4098, 8192, 1<<31 - 1, 1 << 31, 1<<32 - 16, 1<<32 - 1} {
			for dom := hypercall.DomID(0); dom <= 1; dom++ {
				near, far := l.pair(t)
				result := st.connect(t, far, dom)
				_, err := near.Write(xenstore.Header{Type: xenstore.MsgRead, Len: n}.Append(nil))
				require.NoError(t, err)
				if l.name != "ring" {
					require.NoError(t, near.Close())
				}
				var perr *xenstore.ProtocolError
				require.ErrorAs(t, ended(t, result), &perr)
				require.Equal(t, n, perr.Header.Len)
				require.EqualValues(t, 2*i+int(dom)+1, st.Stats().Violations)
				if r, ok := near.(*ringEnd); ok {
					require.True(t, r.page.Load32(xenstore.OffError).Is(uint32(xenstore.RingErrorProtocol)))
				}
				_ = near.Close() // the server may have closed it
			}
			st.alive(t)
		}
		near, far := l.pair(t)
		result := st.connect(t, far, 0)
		script := xenstoretest.NewScriptOver(near)
		value := string(bytes.Repeat([]byte("x"), xenstore.MaxPayload-len("/v")-1))
		go script.Send(xenstore.Header{Type: xenstore.MsgWrite}, "/v\x00"+value)
		require.Equal(t, "OK\x00", script.Next().Payload)
		go script.Send(xenstore.Header{Type: xenstore.MsgRead}, "/v\x00")
		require.Equal(t, value, script.Next().Payload)
		go script.Send(xenstore.Header{Type: xenstore.MsgRemove}, "/v\x00")
		require.Equal(t, "OK\x00", script.Next().Payload)
		_ = near.Close()
		<-result
		st.end(t)
	})
}

// TestXS11_OutstandingRequests: a guest that sends and does not read is not listened to after 20 requests, until it reads.
func TestXS11_OutstandingRequests(t *testing.T) {
	overLinks(t, func(t *testing.T, l link) {
		st := newStage(t, nil)
		near, far := l.pair(t)
		result := st.connect(t, far, 1)
		value := make([]byte, 2000) // more than a ring holds, so that a few replies are too many for it
		require.NoError(t, st.host.Write(t.Context(), "/local/domain/1/v", value))
		before := st.Stats().Requests
		request := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgRead}, []byte("v\x00"))
		const sent = 2000
		go func() { _, _ = near.Write(bytes.Repeat(request, sent)) }() // until it is read, or ended
		if l.name != "socket" {                                        // which holds many replies by itself
			eventually(t, "as many requests as may be outstanding", func() bool { _, n := st.Held(1); return n == 20 })
			memory, _ := st.Held(1)
			require.Less(t, memory, 25*2100)
			require.Less(t, st.Stats().Requests-before, uint64(30))
		}
		st.alive(t)
		_, n := st.Held(1)
		require.LessOrEqual(t, n, 20)
		script := xenstoretest.NewScriptOver(near)
		for range sent {
			require.Len(t, script.Next().Payload, len(value))
		}
		_ = near.Close()
		<-result
		st.end(t)
	})
}

// TestXS11_SilentAndDeaf: a client that says nothing, one that says half a message, and two that never read, one of them a guest that
// watches what others do, disturb nobody, cost no more than their quota, and go when they are told to.
func TestXS11_SilentAndDeaf(t *testing.T) {
	overLinks(t, func(t *testing.T, l link) {
		const memory = 200 << 10
		st := newStage(t, &xenstored.Config{MaxQueued: 100 << 10, EventTimeout: 50 * time.Millisecond,
			Quota: xenstored.Quota{Memory: memory, Nodes: -1}})
		ctx := t.Context()
		require.NoError(t, st.host.Mkdir(ctx, "/pub"))
		require.NoError(t, st.host.SetPerms(ctx, "/pub", xenstore.Perm{Dom: 0, Access: xenstore.AccessReadWrite}))

		watch := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch}, []byte("/pub\x00t\x00"))
		var near []io.ReadWriteCloser
		var guests []<-chan error
		var tool <-chan error
		for i, say := range [][]byte{nil, {2, 0, 0}, watch, watch} {
			n, far := l.pair(t)
			near = append(near, n)
			if i < 3 {
				guests = append(guests, st.connect(t, far, hypercall.DomID(10+i)))
			} else {
				tool = st.connect(t, far, 0)
			}
			_, err := n.Write(say)
			require.NoError(t, err)
		}
		eventually(t, "the watches", func() bool { return st.Stats().Watches == 3 })

		for i := range 100 { // more than may be outstanding: the wait for the deaf ends by the timeout
			require.NoError(t, st.other.Write(ctx, fmt.Sprintf("/pub/%d", i), nil))
			require.NoError(t, st.other.Remove(ctx, fmt.Sprintf("/pub/%d", i)))
		}
		over := func() bool {
			select {
			case err := <-tool:
				require.ErrorIs(t, err, xenstored.ErrOverflow)
				return true
			default:
				return false
			}
		}
		for i := 0; !over(); i++ {
			require.NoError(t, st.host.Write(ctx, fmt.Sprintf("/pub/a-name-that-takes-some-room/%d", i%5000), nil))
			require.Less(t, i, 200000, "the tool that does not read is kept")
		}
		for i := range 5000 {
			require.NoError(t, st.host.Write(ctx, fmt.Sprintf("/pub/a-name-that-takes-some-room/%d", i), nil))
		}
		require.NotZero(t, st.Stats().EventsDropped)
		for dom := hypercall.DomID(10); dom < 13; dom++ {
			held, _ := st.Held(dom)
			require.Less(t, held, memory)
		}
		st.alive(t)
		for i, end := range guests {
			require.NoError(t, st.ReleaseDomain(hypercall.DomID(10+i)))
			require.ErrorIs(t, ended(t, end), xenstored.ErrReleased)
		}
		for _, c := range near {
			_ = c.Close() // the server may have closed it
		}
		require.NoError(t, st.host.Remove(ctx, "/pub"))
		st.end(t)
	})
}

// TestXS18_ViolationKeepsTheDomain: a guest that breaks the protocol loses its connection and nothing else: it stays introduced, keeps its
// nodes, is not said to have gone, and may connect anew.
func TestXS18_ViolationKeepsTheDomain(t *testing.T) {
	overLinks(t, func(t *testing.T, l link) {
		st := newStage(t, nil)
		ctx := t.Context()
		for range 3 {
			near, far := l.pair(t)
			result := st.connect(t, far, 1)
			script := xenstoretest.NewScriptOver(near)
			for _, m := range []struct {
				typ     xenstore.MsgType
				payload string
			}{{xenstore.MsgTransactionStart, "\x00"}, {xenstore.MsgWrite, "mine\x00kept"}, {xenstore.MsgWatch, "@releaseDomain\x00t\x00"}} {
				go script.Send(xenstore.Header{Type: m.typ}, m.payload)
				require.NotEqual(t, xenstore.MsgError, script.Next().Type)
			}
			script.Next() // the first event
			_, err := near.Write(xenstore.Header{Type: xenstore.MsgWrite, Len: 5000}.Append(nil))
			require.NoError(t, err)
			var perr *xenstore.ProtocolError
			require.ErrorAs(t, ended(t, result), &perr)
			_ = near.Close() // the server may have closed it

			require.Zero(t, st.Stats().Transactions)
			require.Equal(t, 1, st.Stats().Watches, "the tool's")
			require.Equal(t, 3, st.Stats().Domains)
			got, err := st.host.Read(ctx, "/local/domain/1/mine")
			require.NoError(t, err)
			require.Equal(t, "kept", string(got))
			in, err := st.host.IsIntroduced(ctx, 1)
			require.NoError(t, err)
			require.True(t, in)
			st.alive(t)
			require.Zero(t, st.released.Len(), "nobody is said to have gone")
		}
		require.NoError(t, st.ReleaseDomain(1))
		_, err := st.released.Next(ctx)
		require.NoError(t, err)
		st.end(t)
	})
}

// TestXS21_ReleaseUnderLoad releases a domain while its requests, events and replies are under way, and has the next domain of its id
// come at once: the old one's connection ends as released, and the next one finds a new store.
func TestXS21_ReleaseUnderLoad(t *testing.T) {
	overLinks(t, func(t *testing.T, l link) {
		st := newStage(t, nil)
		request := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWrite}, []byte("x\x00secret"))
		watch := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch}, []byte("x\x00t\x00"))
		load := append(watch, bytes.Repeat(request, 1000)...)
		for round := range 30 {
			near, far := l.pair(t)
			result := st.connect(t, far, 1)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = near.Write(load) // until the connection ends
			}()
			script := xenstoretest.NewScriptOver(near)
			for range round {
				script.Next()
			}
			require.NoError(t, st.ReleaseDomain(1))
			require.ErrorIs(t, ended(t, result), xenstored.ErrReleased)
			require.NoError(t, st.ReleaseDomain(1))
			require.NoError(t, st.IntroduceDomain(1))
			_ = near.Close() // the server may have closed it
			<-sent
			next := st.LocalClientOf(1)
			_, err := next.Read(t.Context(), "x")
			require.ErrorIs(t, err, xenstore.EACCES, "a home that is not there")
			require.NoError(t, next.Close())
			require.NoError(t, st.host.Mkdir(t.Context(), "/local/domain/1"))
			require.NoError(t, st.host.SetPerms(t.Context(), "/local/domain/1", xenstore.Perm{Dom: 1}))
			st.alive(t)
		}
		st.end(t)
	})
}
