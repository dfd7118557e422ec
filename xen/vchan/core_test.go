package vchan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// testPair is the two ends of a vchan over heap pages, driven by one goroutine.
type testPair struct {
	layout         Layout
	ctl            *shm.Region
	left, right    *shm.Region // nil for rings inside the control page
	server, client *Core
}

func refsFor(n int) []hypercall.GrantRef {
	refs := make([]hypercall.GrantRef, n)
	for i := range refs {
		refs[i] = hypercall.GrantRef(100 + i)
	}
	return refs
}

func newTestPair(t require.TestingT, l Layout, start uint32) *testPair {
	p := &testPair{layout: l, ctl: shm.New(1)}
	if n := l.LeftPages(); n > 0 {
		p.left = shm.New(n)
	}
	var rightForClient *shm.Region
	if n := l.RightPages(); n > 0 {
		p.right = shm.New(n)
		rightForClient = p.right.ReadOnly()
	}
	var err error
	p.server, err = NewServer(p.ctl, p.left, p.right, l, refsFor(l.LeftPages()+l.RightPages()), start)
	require.NoError(t, err)
	h, err := ReadHeader(p.ctl)
	require.NoError(t, err)
	require.Equal(t, l, h.Layout)
	p.client, err = NewClient(p.ctl, p.left, rightForClient, h)
	require.NoError(t, err)
	return p
}

func connectedPair(t require.TestingT, l Layout, start uint32) *testPair {
	p := newTestPair(t, l, start)
	require.NoError(t, p.client.Connect())
	a, err := p.server.Arrival()
	require.NoError(t, err)
	require.Equal(t, Arrived, a)
	return p
}

var allPlacements = []Layout{
	{SmallOrder, LargeOrder}, {LargeOrder, SmallOrder}, {LargeOrder, 12}, {12, LargeOrder}, {LargeOrder, 20}, {20, LargeOrder},
	{SmallOrder, 12}, {12, SmallOrder}, {SmallOrder, 19}, {12, 12}, {12, 13}, {16, 16}, {14, 20}, {20, 20},
}

func TestLayoutForIsLibxenvchans(t *testing.T) {
	for _, c := range []struct{ left, right, leftOrder, rightOrder int }{
		{0, 0, 10, 11}, {1, 1, 10, 11}, {1024, 1024, 10, 11}, {1024, 2048, 10, 11}, {2048, 1024, 11, 10}, {1025, 1024, 11, 10},
		{2048, 2048, 11, 12}, {1024, 2049, 11, 12}, {2049, 1024, 12, 11}, {2049, 2048, 12, 11}, {4096, 4096, 12, 12},
		{4097, 4096, 13, 12}, {2048, 4097, 11, 13}, {2048, MaxRing, 11, 20}, {MaxRing, 0, 20, 11}, {65536, 65536, 16, 16},
		{65537, 65536, 17, 16}, {MaxRing, MaxRing, 20, 20}, {MaxRing - 1, MaxRing/2 + 1, 20, 20},
	} {
		l, err := LayoutFor(c.left, c.right)
		require.NoError(t, err)
		require.Equal(t, Layout{c.leftOrder, c.rightOrder}, l, "%d and %d bytes", c.left, c.right)
		require.NoError(t, l.Check())
	}
	for _, c := range [][2]int{{MaxRing + 1, 0}, {0, MaxRing + 1}, {-1, 0}, {0, -1}} {
		_, err := LayoutFor(c[0], c[1])
		require.Error(t, err)
	}
}

func TestLayoutCheck(t *testing.T) {
	for left := range 32 {
		for right := range 32 {
			l := Layout{left, right}
			good := left >= 10 && left <= 20 && right >= 10 && right <= 20 && (left != right || left >= 12)
			if good {
				n, first := 0, 4096
				for _, o := range []int{left, right} {
					switch {
					case o >= 12:
						n += 1 << (o - 12)
					case o == 11:
						first = min(first, 2048)
					default:
						first = min(first, 1024)
					}
				}
				good = 24+4*n <= first
			}
			if good {
				require.NoError(t, l.Check(), "%v", l)
				continue
			}
			var peer *PeerError
			require.ErrorAs(t, l.Check(), &peer, "%v", l)
		}
	}
	require.Error(t, Layout{SmallOrder, 20}.Check(), "the list of 256 grants would run into the ring at 1024")
}

// The bytes of a fresh control page are what io/libxenvchan.h says.
func TestControlPageOfAFreshServer(t *testing.T) {
	p := newTestPair(t, Layout{LargeOrder, 13}, 0)
	got := make([]byte, 32)
	p.ctl.CopyOut(got, 0)
	require.Equal(t, []byte{
		0, 0, 0, 0, 0, 0, 0, 0, // left: cons, prod
		0, 0, 0, 0, 0, 0, 0, 0, // right: cons, prod
		11, 0, 13, 0, // orders
		2, 1, 0x81, 0, // cli_live, srv_live, cli_notify, srv_notify
		100, 0, 0, 0, 101, 0, 0, 0, // grants
	}, got)
	require.NoError(t, p.client.Connect())
	p.ctl.CopyOut(got[:24], 0)
	require.Equal(t, []byte{1, 1, 0x81, 0x81}, got[20:24])

	w := []byte("hello")
	n, notify, err := p.client.Out.TryWrite(w)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.True(t, notify, "a fresh server asks to be told of the first write")
	p.ctl.CopyOut(got, 0)
	require.Equal(t, []byte{0, 0, 0, 0, 5, 0, 0, 0}, got[:8])
	in := make([]byte, 5)
	p.ctl.CopyOut(in, 2048)
	require.Equal(t, w, in)
	require.Equal(t, byte(0x80), got[22], "the client has taken the request away")
}

func TestStreamEveryPlacement(t *testing.T) {
	for _, l := range allPlacements {
		for _, start := range []uint32{0, 1<<31 - 5, 0xfffffff0, 0xffffffff} {
			t.Run(fmt.Sprintf("%d,%d from %#x", l.LeftOrder, l.RightOrder, start), func(t *testing.T) {
				p := connectedPair(t, l, start)
				stream(t, &p.client.Out, &p.server.In, l.LeftSize())
				stream(t, &p.server.Out, &p.client.In, l.RightSize())
			})
		}
	}
}

// stream moves a few rings' worth of bytes in pieces of many sizes and compares them.
func stream(t *testing.T, out *Sender, in *Receiver, size int) {
	require.Equal(t, size, out.Size())
	require.Equal(t, size, in.Size())
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	total := 3*size + 17
	sent, got := make([]byte, total), make([]byte, 0, total)
	for i := range sent {
		sent[i] = byte(rng.Uint32())
	}
	buf := make([]byte, size+10)
	for w := 0; len(got) < total; {
		n, _, err := out.TryWrite(sent[w:min(total, w+rng.IntN(size+10))])
		require.NoError(t, err)
		w += n
		n, _, err = in.TryRead(buf[:rng.IntN(len(buf))])
		require.NoError(t, err)
		got = append(got, buf[:n]...)
		require.LessOrEqual(t, len(got), w)
	}
	require.True(t, bytes.Equal(sent, got))
}

// TestModel drives both ends with any mix of operations and compares with a queue of bytes in each direction.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rapid.SampledFrom(allPlacements[:10]).Draw(t, "layout")
		start := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0xffffff00, 0xffffffff)).Draw(t, "start")
		p := connectedPair(t, l, start)
		var queue [2][]byte // to the server, to the client
		outs := [2]*Sender{&p.client.Out, &p.server.Out}
		ins := [2]*Receiver{&p.server.In, &p.client.In}
		next := byte(0)
		fill := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				next++
				b[i] = next
			}
			return b
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			d := rapid.IntRange(0, 1).Draw(t, "direction")
			size := outs[d].Size()
			n := rapid.OneOf(rapid.IntRange(0, 50), rapid.IntRange(0, size+3)).Draw(t, "n")
			free := size - len(queue[d])
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0:
				b := fill(n)
				k, _, err := outs[d].TryWrite(b)
				require.NoError(t, err)
				require.LessOrEqual(t, k, min(n, free))
				require.Equal(t, n > 0 && free > 0, k > 0)
				queue[d] = append(queue[d], b[:k]...)
			case 1:
				b := fill(n)
				ok, _, err := outs[d].TrySend(b[:n/3], b[n/3:])
				if n > size {
					require.ErrorAs(t, err, new(*TooLargeError))
					break
				}
				require.NoError(t, err)
				require.Equal(t, n <= free, ok)
				if ok {
					queue[d] = append(queue[d], b...)
				}
			case 2:
				b := make([]byte, n)
				k, _, err := ins[d].TryRead(b)
				require.NoError(t, err)
				require.Equal(t, n > 0 && len(queue[d]) > 0, k > 0)
				require.True(t, bytes.Equal(queue[d][:k], b[:k]))
				queue[d] = queue[d][k:]
			case 3:
				b := make([]byte, n)
				ok, _, err := ins[d].TryRecv(b)
				if n > size {
					require.ErrorAs(t, err, new(*TooLargeError))
					break
				}
				require.NoError(t, err)
				require.Equal(t, n <= len(queue[d]), ok)
				if ok {
					require.True(t, bytes.Equal(queue[d][:n], b))
					queue[d] = queue[d][n:]
				}
			case 4:
				ready, err := ins[d].Arm(n)
				require.NoError(t, err)
				require.Equal(t, len(queue[d]) >= n, ready)
				ready, err = outs[d].Arm(n)
				require.NoError(t, err)
				require.Equal(t, size-len(queue[d]) >= n, ready)
			}
		}
	})
}

// An end is told exactly when it asked since it was last told.
func TestNotificationsAreSentWhenAskedFor(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0)
	write := func() bool {
		_, notify, err := p.client.Out.TryWrite([]byte("x"))
		require.NoError(t, err)
		return notify
	}
	read := func() bool {
		_, notify, err := p.server.In.TryRead(make([]byte, 1))
		require.NoError(t, err)
		return notify
	}
	require.True(t, write(), "QubesDB: a reader that waits before it looks")
	require.False(t, write())
	ready, err := p.server.In.Arm(1)
	require.NoError(t, err)
	require.True(t, ready)
	require.True(t, write())
	require.False(t, write())
	require.False(t, read())
	_, err = p.client.Out.Arm(1)
	require.NoError(t, err)
	require.True(t, read())
	require.False(t, read())
}

// V-07: what was written before a close is read after it, even if the close comes between the reader's two looks.
func TestCloseLosesNothing(t *testing.T) {
	for at := 1; at <= 8; at++ {
		p := connectedPair(t, Layout{12, 12}, 0)
		done := false
		p.ctl.Observe(observer(func(n int) {
			if n != at || done {
				return
			}
			done = true
			_, _, err := p.client.Out.TryWrite([]byte("last"))
			require.NoError(t, err)
			p.client.Close()
		}))
		buf := make([]byte, 8)
		var got []byte
		for range 100 {
			n, _, err := p.server.In.TryRead(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
		}
		require.True(t, done, "access %d", at)
		require.Equal(t, "last", string(got), "the close before access %d", at)
		_, _, err := p.server.Out.TryWrite([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	}
}

// observer calls its function before each access but the ones that the function makes, with the number of the access from 1 on.
func observer(f func(n int)) shm.Observer { return &accessCounter{f: f} }

type accessCounter struct {
	f      func(n int)
	n      int
	inside bool
}

func (o *accessCounter) BeforeAccess(shm.Access) {
	if o.inside {
		return
	}
	o.n++
	o.inside = true
	o.f(o.n)
	o.inside = false
}

// V-08, V-09: whatever access a write comes at, a reader that goes to sleep is told of it.
func TestNoLostWakeup(t *testing.T) {
	for at := 1; at <= 6; at++ {
		p := connectedPair(t, Layout{12, 12}, 0)
		_, notify, err := p.client.Out.TryWrite([]byte("a")) // uses up the first request
		require.NoError(t, err)
		require.True(t, notify)
		_, _, err = p.server.In.TryRead(make([]byte, 1))
		require.NoError(t, err)

		wrote, told := false, false
		p.ctl.Observe(observer(func(n int) {
			if n != at || wrote {
				return
			}
			wrote = true
			_, told, err = p.client.Out.TryWrite([]byte("b"))
			require.NoError(t, err)
		}))
		n, _, err := p.server.In.TryRead(make([]byte, 1))
		require.NoError(t, err)
		ready := n > 0
		if !ready {
			ready, err = p.server.In.Arm(1)
			require.NoError(t, err)
		}
		if wrote {
			require.True(t, ready || told, "the write before access %d is lost", at)
		}
	}
}

func TestPackets(t *testing.T) {
	p := connectedPair(t, Layout{SmallOrder, LargeOrder}, 0xfffffff0)
	out, in := &p.client.Out, &p.server.In
	ok, _, err := out.TrySend([]byte("head"), make([]byte, 1000))
	require.NoError(t, err)
	require.True(t, ok)
	ok, _, err = out.TrySend(nil, make([]byte, 21))
	require.NoError(t, err)
	require.False(t, ok, "20 bytes are free")
	ok, _, err = in.TryRecv(make([]byte, 1005))
	require.NoError(t, err)
	require.False(t, ok)
	b := make([]byte, 1004)
	ok, _, err = in.TryRecv(b)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "head", string(b[:4]))

	// V-13
	_, _, err = out.TrySend(nil, make([]byte, 1025))
	require.ErrorAs(t, err, new(*TooLargeError))
	_, _, err = in.TryRecv(make([]byte, 1025))
	require.ErrorAs(t, err, new(*TooLargeError))

	ok, _, err = out.TrySend(nil, []byte("end"))
	require.NoError(t, err)
	require.True(t, ok)
	p.client.Close()
	_, _, err = in.TryRecv(make([]byte, 4))
	require.Equal(t, io.ErrUnexpectedEOF, err)
	ok, _, err = in.TryRecv(b[:3])
	require.NoError(t, err)
	require.True(t, ok)
	_, _, err = in.TryRecv(b[:1])
	require.Equal(t, io.EOF, err)
}

func TestConnectTakesAnOfferOnce(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0)
	require.ErrorIs(t, p.client.Connect(), errTaken)
	p = newTestPair(t, Layout{12, 12}, 0)
	a, err := p.server.Arrival()
	require.NoError(t, err)
	require.Equal(t, NotYet, a)
	p.server.Close()
	require.ErrorIs(t, p.client.Connect(), errTaken, "the server has gone")

	// A client that came, wrote and left before the server looked.
	p = connectedPair(t, Layout{12, 12}, 0)
	_, _, err = p.client.Out.TryWrite([]byte("note"))
	require.NoError(t, err)
	p.client.Close()
	a, err = p.server.Arrival()
	require.NoError(t, err)
	require.Equal(t, Left, a)
	b := make([]byte, 8)
	n, _, err := p.server.In.TryRead(b)
	require.NoError(t, err)
	require.Equal(t, "note", string(b[:n]))
	_, _, err = p.server.In.TryRead(b)
	require.Equal(t, io.EOF, err)
}

// V-01, V-03, V-04: every wrong value of an index is an error that names it, and an end's own indices are never believed.
func TestHostileIndices(t *testing.T) {
	const size = 4096
	for _, start := range []uint32{0, 0xfffff800} {
		for _, off := range []uint32{size + 1, 1 << 31, 0xffffffff, 0x80000000, size * 2} {
			p := connectedPair(t, Layout{12, 12}, start)
			p.ctl.Store32(offLeftProd, start+off)
			_, _, err := p.server.In.TryRead(make([]byte, 10))
			requirePeerError(t, err, "left.prod", uint64(start+off))
			p.ctl.Store32(offLeftProd, start) // too late
			_, _, again := p.server.In.TryRead(make([]byte, 10))
			require.Equal(t, err, again)
			_, err = p.server.In.Arm(1)
			require.Equal(t, again, err)

			p = connectedPair(t, Layout{12, 12}, start)
			for free := size; free > 0; {
				n, _, err := p.client.Out.TryWrite(make([]byte, free))
				require.NoError(t, err)
				free -= n
			}
			p.ctl.Store32(offLeftCons, start+off)
			_, _, err = p.client.Out.TryWrite(make([]byte, 10))
			requirePeerError(t, err, "left.cons", uint64(start+off))
			_, _, err = p.client.Out.TrySend(nil, make([]byte, 10))
			requirePeerError(t, err, "left.cons", uint64(start+off))
			_, _, err = p.client.Out.Unread()
			requirePeerError(t, err, "left.cons", uint64(start+off))
		}
	}

	// Backwards, but still within the ring.
	p := connectedPair(t, Layout{12, 12}, 0)
	_, _, err := p.client.Out.TryWrite(make([]byte, 100))
	require.NoError(t, err)
	n, err := p.server.In.Buffered()
	require.NoError(t, err)
	require.Equal(t, 100, n)
	p.ctl.Store32(offLeftProd, 50)
	_, err = p.server.In.Buffered()
	requirePeerError(t, err, "left.prod", 50)

	// The peer changes this end's own indices: nothing comes of it.
	p = connectedPair(t, Layout{12, 12}, 0)
	msg := []byte("0123456789")
	var got []byte
	for i := range 2000 {
		p.ctl.Store32(offRightProd, uint32(i*7919))
		_, _, err := p.server.Out.TryWrite(msg)
		require.NoError(t, err)
		p.ctl.Store32(offRightCons, p.ctl.Load32(offRightCons).Unchecked())
		b := make([]byte, 20)
		n, _, err := p.client.In.TryRead(b)
		require.NoError(t, err)
		got = append(got, b[:n]...)
	}
	require.Equal(t, bytes.Repeat(msg, 2000), got)
}

func requirePeerError(t *testing.T, err error, field string, value uint64) {
	t.Helper()
	var peer *PeerError
	require.ErrorAs(t, err, &peer)
	require.Equal(t, field, peer.Field)
	require.Equal(t, value, peer.Value)
	require.Contains(t, err.Error(), field)
}

// V-10: live bytes are 0, 1, or (of a client) 2 until it has come; the end of a connection is final.
func TestHostileLiveByte(t *testing.T) {
	for v := 3; v < 256; v++ {
		p := connectedPair(t, Layout{12, 12}, 0)
		p.ctl.Store8(offCliLive, uint8(v))
		p.ctl.Store8(offSrvLive, uint8(v))
		_, err := p.server.Arrival()
		requirePeerError(t, err, "cli_live", uint64(v))
		_, _, err = p.server.Out.TryWrite([]byte("x"))
		requirePeerError(t, err, "cli_live", uint64(v))
		_, _, err = p.server.In.TryRead(make([]byte, 1))
		requirePeerError(t, err, "cli_live", uint64(v))
		_, _, err = p.client.In.TryRead(make([]byte, 1))
		requirePeerError(t, err, "srv_live", uint64(v))
	}
	p := connectedPair(t, Layout{12, 12}, 0)
	_, _, err := p.server.In.TryRead(make([]byte, 1))
	require.NoError(t, err)
	p.ctl.Store8(offCliLive, 2)
	_, _, err = p.server.In.TryRead(make([]byte, 1))
	requirePeerError(t, err, "cli_live", 2)
	p.ctl.Store8(offSrvLive, 2)
	_, _, err = p.client.Out.TryWrite([]byte("x"))
	requirePeerError(t, err, "srv_live", 2)

	p = connectedPair(t, Layout{12, 12}, 0)
	p.ctl.Store8(offCliLive, 0)
	_, _, err = p.server.In.TryRead(make([]byte, 1))
	require.Equal(t, syscall.ECONNRESET, err)
	p.ctl.Store8(offCliLive, 1)
	_, _, err = p.client.Out.TryWrite([]byte("zombie"))
	require.NoError(t, err)
	_, _, err = p.server.In.TryRead(make([]byte, 1))
	require.Equal(t, syscall.ECONNRESET, err, "gone is gone")
	_, err = p.server.In.Arm(1)
	require.NoError(t, err)
}

// V-05, V-06: the header is read once, each word one time, and judged by what was read.
func TestHostileHeader(t *testing.T) {
	for _, c := range []struct {
		left, right uint16
		field       string
	}{
		{9, 12, "left_order"}, {21, 12, "left_order"}, {0, 0, "left_order"}, {65535, 12, "left_order"}, {12, 9, "right_order"},
		{12, 65535, "right_order"}, {10, 10, "right_order"}, {11, 11, "right_order"}, {10, 20, "right_order"}, {20, 10, "right_order"},
	} {
		ctl := shm.New(1)
		ctl.Store16(offLeftOrder, c.left)
		ctl.Store16(offRightOrder, c.right)
		_, err := ReadHeader(ctl)
		var peer *PeerError
		require.ErrorAs(t, err, &peer, "%d, %d", c.left, c.right)
		require.Equal(t, c.field, peer.Field)
	}

	p := newTestPair(t, Layout{12, 12}, 7)
	p.ctl.Store32(offLeftProd, 7+4097)
	_, err := ReadHeader(p.ctl)
	requirePeerError(t, err, "left.prod", 7+4097)
	p.ctl.Store32(offLeftProd, 7)
	p.ctl.Store32(offRightProd, 6)
	_, err = ReadHeader(p.ctl)
	requirePeerError(t, err, "right.prod", 6)

	// Orders and grants that change after they were read.
	p = newTestPair(t, Layout{14, 13}, 0)
	reads := make(map[int]int)
	p.ctl.Observe(fetches(func(a shm.Access) {
		for i := a.Off; i < a.Off+a.Len; i++ {
			reads[i]++
		}
	}))
	h, err := ReadHeader(p.ctl)
	require.NoError(t, err)
	for off, n := range reads {
		require.Equal(t, 1, n, "byte %d was read more than once", off)
	}
	p.ctl.Observe(nil)
	p.ctl.Store16(offLeftOrder, 20)
	p.ctl.Store32(offGrants, 0xffffffff)
	require.Equal(t, Layout{14, 13}, h.Layout)
	require.Equal(t, refsFor(6), append(h.LeftRefs, h.RightRefs...))
}

type fetches func(shm.Access)

func (f fetches) BeforeAccess(a shm.Access) { f(a) }

// V-02: one operation loads the peer's index at most twice (the look that finds nothing, and the final one), and no byte of the ring twice.
func TestOneFetchPerOperation(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0)
	_, _, err := p.client.Out.TryWrite(make([]byte, 200))
	require.NoError(t, err)
	loads := 0
	p.ctl.Observe(fetches(func(a shm.Access) {
		if a.Kind == shm.Load && a.Off == offLeftProd {
			loads++
		}
	}))
	bytesRead := 0
	p.left.Observe(fetches(func(a shm.Access) { bytesRead += a.Len }))
	n, _, err := p.server.In.TryRead(make([]byte, 100))
	require.NoError(t, err)
	require.Equal(t, 100, n)
	require.Equal(t, 1, loads)
	require.Equal(t, 100, bytesRead)
}

func TestNothingIsAllocated(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0)
	b := make([]byte, 64)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, _, _ = p.client.Out.TryWrite(b)
		_, _, _ = p.server.In.TryRead(b)
		_, _ = p.server.In.Arm(1)
		_, _ = p.client.Out.Arm(1)
	}))
}

func TestServerRefusesWrongMemory(t *testing.T) {
	_, err := NewServer(shm.New(1), nil, nil, Layout{10, 10}, nil, 0)
	require.Error(t, err)
	_, err = NewServer(shm.New(1), nil, nil, Layout{12, 11}, refsFor(1), 0)
	require.Error(t, err, "no pages for the left ring")
	_, err = NewServer(shm.New(1), shm.New(2), nil, Layout{12, 11}, refsFor(1), 0)
	require.Error(t, err, "too many pages")
	_, err = NewServer(shm.New(1), shm.New(1), nil, Layout{12, 11}, refsFor(2), 0)
	require.Error(t, err, "too many grants")
}

// FuzzHostilePeer lets a peer write anything into the control page between the operations of an honest end. The honest end must not
// panic, must not give more bytes than the rings can have, and must stay broken once it is.
func FuzzHostilePeer(f *testing.F) {
	f.Add([]byte{0, 4, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4})
	f.Add([]byte{8, 0, 9, 5, 0, 20, 0x10, 10, 0, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		p := newTestPair(t, Layout{SmallOrder, 12}, 0xffffff80)
		role := Server
		if len(program) > 0 && program[0]&1 == 1 {
			role = Client
		}
		end := p.server
		if role == Client {
			end = p.client
			_ = end.Connect()
		}
		var broken [2]error
		buf := make([]byte, 5000)
		for i := 1; i+5 < len(program); i += 6 {
			op, arg, v := program[i], program[i+1], program[i+2:i+6]
			n := int(v[0]) | int(v[1])<<8
			n %= len(buf)
			var err error
			half := 0
			switch op % 9 {
			case 0: // one byte of the header
				p.ctl.Store8(int(arg)%32, v[0])
			case 1: // one word of it
				p.ctl.CopyIn(int(arg)%8*4, v)
			case 2:
				var k int
				k, _, err = end.In.TryRead(buf[:n])
				require.LessOrEqual(t, k, min(n, end.In.Size()))
			case 3:
				_, _, err = end.In.TryRecv(buf[:n])
			case 4:
				half = 1
				var k int
				k, _, err = end.Out.TryWrite(buf[:n])
				require.LessOrEqual(t, k, min(n, end.Out.Size()))
			case 5:
				half = 1
				_, _, err = end.Out.TrySend(buf[:n/2], buf[n/2:n])
			case 6:
				_, err = end.In.Arm(n)
			case 7:
				half = 1
				_, err = end.Out.Arm(n)
			case 8:
				_, _, err = end.In.TryDiscard()
			}
			if op%9 < 2 {
				continue
			}
			var peer *PeerError
			if broken[half] != nil && !errors.As(err, new(*TooLargeError)) {
				require.Equal(t, broken[half], err)
			} else if errors.As(err, &peer) {
				broken[half] = err
			}
		}
		_, _ = end.Arrival()
		_, _ = ReadHeader(p.ctl)
	})
}

// A peer that is gone without the close that it promised has died; one that never promised, as libxenvchan, has closed.
func TestDeathIsNotAClose(t *testing.T) {
	for _, tt := range []struct {
		name        string
		leave       func(p *testPair)
		read, write error
	}{
		{"closes", func(p *testPair) { p.client.Close() }, io.EOF, syscall.EPIPE},
		{"dies", func(p *testPair) { p.ctl.Store8(offCliLive, 0) }, syscall.ECONNRESET, syscall.ECONNRESET},
		{"C peer goes", func(p *testPair) {
			p.ctl.And8(offSrvNotify, notifyWrite|notifyRead)
			p.ctl.Store8(offCliLive, 0)
		}, io.EOF, syscall.EPIPE},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := connectedPair(t, Layout{12, 12}, 0)
			_, _, err := p.client.Out.TryWrite([]byte("last words"))
			require.NoError(t, err)
			tt.leave(p)
			buf := make([]byte, 100)
			n, _, err := p.server.In.TryRead(buf)
			require.NoError(t, err)
			require.Equal(t, "last words", string(buf[:n]))
			for range 2 {
				_, _, err = p.server.In.TryRead(buf)
				require.Equal(t, tt.read, err)
				_, _, err = p.server.Out.TryWrite(buf)
				require.Equal(t, tt.write, err)
			}
		})
	}
}

// The platform closes the memory under an end that knows of bytes: a resume, or the end of the domain. What it copies then is nothing
// that the peer sent.
func TestClosedMemoryIsNoData(t *testing.T) {
	for _, l := range []Layout{{SmallOrder, LargeOrder}, {12, 12}} {
		for name, read := range map[string]func(r *Receiver) (int, error){
			"read": func(r *Receiver) (int, error) {
				n, _, err := r.TryRead(make([]byte, 1))
				return n, err
			},
			"recv": func(r *Receiver) (int, error) {
				ok, _, err := r.TryRecv(make([]byte, 1))
				if ok {
					return 1, err
				}
				return 0, err
			},
		} {
			for _, whole := range []bool{false, true} {
				p := connectedPair(t, l, 0xfffffff8)
				_, _, err := p.client.Out.TryWrite([]byte("sixteen bytes..."))
				require.NoError(t, err)
				n, err := read(&p.server.In)
				require.NoError(t, err)
				require.Equal(t, 1, n)
				if p.left != nil {
					require.NoError(t, p.left.Close())
				}
				if whole || p.left == nil {
					require.NoError(t, p.ctl.Close())
				}
				for range 20 {
					n, err = read(&p.server.In)
					require.ErrorIs(t, err, hypercall.ErrStale, "%s %v", name, l)
					require.Zero(t, n)
				}
			}
		}
	}
}

// What a closed control page says is not what the peer did.
func TestClosedMemoryIsNoPeersFault(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0xfffffff8)
	_, _, err := p.server.Out.TryWrite([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, p.ctl.Close())
	_, _, err = p.server.In.TryRead(make([]byte, 1))
	require.ErrorIs(t, err, hypercall.ErrStale, "not the end of the stream")
	_, _, err = p.server.Out.TryWrite([]byte("x"))
	require.ErrorIs(t, err, hypercall.ErrStale, "not a broken pipe")
	_, err = p.server.Arrival()
	require.ErrorIs(t, err, hypercall.ErrStale, "not a client that has left")
}

// A server with server_persist waits for its next client with the live byte that the last one has left. One of ours does not.
func TestConnectAfterAnotherClient(t *testing.T) {
	p := connectedPair(t, Layout{12, 12}, 0)
	p.client.Close()
	require.ErrorIs(t, p.client.Connect(), errTaken, "an offer of ours is good once")
	a, err := p.server.Arrival()
	require.NoError(t, err)
	require.Equal(t, Left, a)

	p.ctl.And8(offCliNotify, ^uint8(marksClose)) // libxenvchan
	require.NoError(t, p.client.Connect())
	require.True(t, p.ctl.Load8(offCliLive).Is(liveConnected))
	require.Zero(t, p.ctl.Load8(offSrvNotify).Bits(closedWell), "the mark of the client before")
	require.ErrorIs(t, p.client.Connect(), errTaken, "somebody is there")
	p.client.Close()
	p.server.Close()
	require.ErrorIs(t, p.client.Connect(), errTaken, "the server has gone")
}

// A client of libxenvchan does not look what the live byte was: one that comes after a client was found gone changes nothing any more.
func TestLeftIsFinal(t *testing.T) {
	p := newTestPair(t, Layout{12, 12}, 0)
	require.NoError(t, p.client.Connect())
	_, _, err := p.client.Out.TryWrite([]byte("first"))
	require.NoError(t, err)
	p.client.Close()
	a, err := p.server.Arrival()
	require.NoError(t, err)
	require.Equal(t, Left, a)
	p.ctl.Store8(offCliLive, liveConnected)
	p.client.Out.closed = false
	_, _, err = p.client.Out.TryWrite([]byte(" second"))
	require.NoError(t, err)
	b := make([]byte, 20)
	n, _, err := p.server.In.TryRead(b)
	require.NoError(t, err)
	require.Equal(t, "first", string(b[:n]))
	_, _, err = p.server.In.TryRead(b)
	require.Equal(t, io.EOF, err)
	_, _, err = p.server.Out.TryWrite(b)
	require.ErrorIs(t, err, syscall.EPIPE)
}
