package vchan

import (
	"bytes"
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
