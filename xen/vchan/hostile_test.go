package vchan

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// fetches is a function as an observer.
type fetches func(shm.Access)

func (f fetches) BeforeAccess(a shm.Access) { f(a) }

// observe has f called before each access of either end, to the control page and the rings, but for those that f makes itself. n counts
// from 1 on.
func (p *testPair) observe(f func(n int, a shm.Access)) {
	n, inside := 0, false
	o := fetches(func(a shm.Access) {
		if inside {
			return
		}
		n++
		inside = true
		f(n, a)
		inside = false
	})
	for _, r := range []*shm.Region{p.ctl, p.left, p.right} {
		if r != nil {
			r.Observe(o)
		}
	}
}

func (p *testPair) unobserve() {
	for _, r := range []*shm.Region{p.ctl, p.left, p.right} {
		if r != nil {
			r.Observe(nil)
		}
	}
}

// before has f called once, before the at-th access that follows, and reports whether it was.
func (p *testPair) before(at int, f func()) (done func() bool) {
	called := false
	p.observe(func(n int, _ shm.Access) {
		if n == at {
			called = true
			f()
		}
	})
	return func() bool { p.unobserve(); return called }
}

// mostAccesses is more than one operation makes.
const mostAccesses = 12

func requirePeerError(t *testing.T, err error, field string, value uint64) {
	t.Helper()
	var peer *PeerError
	require.ErrorAs(t, err, &peer)
	require.Equal(t, field, peer.Field)
	require.Equal(t, value, peer.Value)
	require.Contains(t, err.Error(), field)
}

// halves are the writer and the reader of one ring.
type halves struct {
	out *Sender
	in  *Receiver
}

// The directions.
const (
	toServer = "to the server"
	toClient = "to the client"
)

func (p *testPair) direction(which string) halves {
	if which == toServer {
		return halves{&p.client.Out, &p.server.In}
	}
	return halves{&p.server.Out, &p.client.In}
}

// victim is one half of one end, whose peer's index a test sets.
type victim struct {
	field   string
	peerOff int // of the peer's index
	ownOff  int
	in      *Receiver // or
	out     *Sender
}

// victims returns the four halves: the readers first.
func (p *testPair) victims() []victim {
	return []victim{
		{field: "left.prod", peerOff: offLeftProd, ownOff: offLeftCons, in: &p.server.In},
		{field: "right.prod", peerOff: offRightProd, ownOff: offRightCons, in: &p.client.In},
		{field: "left.cons", peerOff: offLeftCons, ownOff: offLeftProd, out: &p.client.Out},
		{field: "right.cons", peerOff: offRightCons, ownOff: offRightProd, out: &p.server.Out},
	}
}

// operations returns everything that a half does with its peer's index, on up to n bytes. They return how many bytes were moved; Arm and
// its like move none.
func (v victim) operations(n int) map[string]func() (int, error) {
	moved := func(ok bool) int {
		if ok {
			return n
		}
		return 0
	}
	if v.in != nil {
		return map[string]func() (int, error){
			"read":    func() (int, error) { k, _, err := v.in.TryRead(make([]byte, n)); return k, err },
			"recv":    func() (int, error) { ok, _, err := v.in.TryRecv(make([]byte, n)); return moved(ok), err },
			"arm":     func() (int, error) { _, err := v.in.Arm(n); return 0, err },
			"buffer":  func() (int, error) { _, err := v.in.Buffered(); return 0, err },
			"discard": func() (int, error) { _, _, err := v.in.TryDiscard(); return 0, err },
		}
	}
	return map[string]func() (int, error){
		"write": func() (int, error) { k, _, err := v.out.TryWrite(make([]byte, n)); return k, err },
		"send": func() (int, error) {
			ok, _, err := v.out.TrySend(make([]byte, n/2), make([]byte, n-n/2))
			return moved(ok), err
		},
		"arm":    func() (int, error) { _, err := v.out.Arm(n); return 0, err },
		"unread": func() (int, error) { _, _, err := v.out.Unread(); return 0, err },
	}
}

// primed returns a pair in which each ring has had 300 bytes through it. Then it holds 200 more, or is full.
func primed(t *testing.T, l Layout, start uint32, full bool) *testPair {
	p := connectedPair(t, l, start)
	for _, h := range []halves{p.direction(toServer), p.direction(toClient)} {
		send := func(n int) {
			ok, _, err := h.out.TrySend(nil, bytes.Repeat([]byte{0x11}, n))
			require.NoError(t, err)
			require.True(t, ok)
		}
		send(300)
		ok, _, err := h.in.TryRecv(make([]byte, 300))
		require.NoError(t, err)
		require.True(t, ok)
		if full {
			send(h.out.Size())
		} else {
			send(200)
		}
	}
	return p
}

// isData reports whether an access is to the bytes of a ring.
func (p *testPair) isData(a shm.Access) bool { return a.Region != p.ctl || a.Off >= offSmallRing }

// V-01: an index that the peer cannot have is an error that names it, at whatever operation, from then on always. No byte of a ring is
// touched on its account, and this end's index stays. Every index that the peer can have is good.
func TestV01_HostileIndices(t *testing.T) {
	const into = 300 // what primed has had through the rings
	for _, l := range []Layout{{12, 12}, {SmallOrder, LargeOrder}, {LargeOrder, 13}} {
		for _, start := range []uint32{0, 0xfffff800, 0xffffffff - into} {
			for i := range 4 {
				reads := i < 2
				p := primed(t, l, start, !reads)
				size := uint32(p.victims()[i].size())
				// The peer's index may be in these bounds, both within.
				low, high := start+into, start+into+size
				for _, bad := range []uint32{low - 1, low - 200, high + 1, high + size, low + 1<<31, high + 1<<31, low - size - 1} {
					for op := range p.victims()[i].operations(300) {
						p := primed(t, l, start, !reads)
						v := p.victims()[i]
						own := p.ctl.Load32(v.ownOff)
						p.ctl.Store32(v.peerOff, bad)
						p.observe(func(_ int, a shm.Access) { require.False(t, p.isData(a), "%s of %s: %v", op, v.field, a) })
						n, err := v.operations(300)[op]()
						requirePeerError(t, err, v.field, uint64(bad))
						require.Zero(t, n)
						p.unobserve()
						p.ctl.Store32(v.peerOff, low) // too late
						for again := range v.operations(300) {
							n, e := v.operations(300)[again]()
							require.Equal(t, err, e, "%s after %s", again, op)
							require.Zero(t, n)
						}
						require.Equal(t, own, p.ctl.Load32(v.ownOff))
					}
				}
				for _, good := range []uint32{low, low + 1, high - 1, high} {
					for op := range p.victims()[i].operations(300) {
						p := primed(t, l, start, !reads)
						v := p.victims()[i]
						p.ctl.Store32(v.peerOff, good)
						_, err := v.operations(300)[op]()
						require.NoError(t, err, "%s of %s with %#x", op, v.field, good)
					}
				}
			}
		}
	}
}

func (v victim) size() int {
	if v.in != nil {
		return v.in.Size()
	}
	return v.out.Size()
}

// V-02: the peer changes its index between any two accesses of an operation, to a good value or a bad one. The operation moves no more than
// a value that was checked allows, touches each of the bytes that it moves once and no other, and shows the peer just these.
func TestV02_IndexChangesDuringAnOperation(t *testing.T) {
	const into, now, later = 300, 200, 350 // bytes that went through, that can be moved, and that could be if the index moved on
	for _, l := range []Layout{{12, 12}, {SmallOrder, LargeOrder}} {
		for _, start := range []uint32{0, 0xfffffe00} {
			for i := range 4 {
				reads := i < 2
				size := uint32(primed(t, l, start, !reads).victims()[i].size())
				good := start + into + later
				for _, then := range []uint32{good, start + into + size + 1, start + into - 1, start + into + 1<<31} {
					for _, op := range []string{"read", "recv", "write", "send"} {
						for _, n := range []int{now, later, int(size)} {
							for at := 1; at <= mostAccesses; at++ {
								p := primed(t, l, start, !reads)
								v := p.victims()[i]
								operation := v.operations(n)[op]
								if operation == nil {
									continue
								}
								p.ctl.Store32(v.peerOff, start+into+now)
								limit := now
								if then == good {
									limit = later
								}
								own, touched := p.ctl.Load32(v.ownOff).Unchecked(), 0
								p.observe(func(k int, a shm.Access) {
									if k == at {
										p.ctl.Store32(v.peerOff, then)
									}
									if p.isData(a) {
										touched += a.Len
									}
								})
								moved, err := operation()
								p.unobserve()
								where := fmt.Sprintf("%s of %d of %s, %#x before access %d", op, n, v.field, then, at)
								if err != nil {
									requirePeerError(t, err, v.field, uint64(then))
									require.Zero(t, moved, where)
								}
								require.LessOrEqual(t, moved, limit, where)
								require.Equal(t, moved, touched, where)
								require.Equal(t, own+uint32(moved), p.ctl.Load32(v.ownOff).Unchecked(), where)
							}
						}
					}
				}
			}
		}
	}
}

// V-03: where there is an error, the count is 0, nothing was sent or received, and nobody is to be told.
func TestV03_ErrorsAreNoCounts(t *testing.T) {
	for name, spoil := range map[string]func(p *testPair){
		"indices": func(p *testPair) {
			for _, v := range p.victims() {
				p.ctl.Store32(v.peerOff, 0x80000000)
			}
		},
		"live bytes": func(p *testPair) { p.ctl.Store16(offCliLive, 0x4242) },
		"closes":     func(p *testPair) { p.server.Close(); p.client.Close() },
		"deaths":     func(p *testPair) { p.ctl.Store16(offCliLive, 0) },
		"memory":     func(p *testPair) { _ = p.ctl.Close(); _ = p.left.Close(); _ = p.right.Close() },
	} {
		p := primed(t, Layout{12, 12}, 0, true)
		for _, half := range []*Receiver{&p.server.In, &p.client.In} {
			_, _, err := half.TryDiscard()
			require.NoError(t, err)
		}
		for _, half := range []*Sender{&p.client.Out, &p.server.Out} {
			n, _, err := half.TryWrite(make([]byte, half.Size())) // and nothing free
			require.NoError(t, err)
			require.NotZero(t, n)
		}
		for _, half := range []*Receiver{&p.server.In, &p.client.In} {
			_, _, err := half.TryDiscard()
			require.NoError(t, err)
		}
		spoil(p)
		for range 2 {
			for _, v := range p.victims() {
				if v.in != nil {
					n, notify, err := v.in.TryRead(make([]byte, 10))
					require.Error(t, err, "%s: %s", name, v.field)
					require.Zero(t, n)
					require.False(t, notify)
					ok, notify, err := v.in.TryRecv(make([]byte, 10))
					require.Error(t, err)
					require.False(t, ok)
					require.False(t, notify)
					ok, notify, err = v.in.TryRecv(make([]byte, v.in.Size()+1))
					require.ErrorAs(t, err, new(*TooLargeError))
					require.False(t, ok)
					require.False(t, notify)
					n, notify, err = v.in.TryDiscard()
					require.Zero(t, n, "%s: %v", name, err)
					require.False(t, notify)
					continue
				}
				n, notify, err := v.out.TryWrite(make([]byte, v.out.Size()))
				require.Error(t, err, "%s: %s", name, v.field)
				require.Zero(t, n)
				require.False(t, notify)
				ok, notify, err := v.out.TrySend([]byte("head"), make([]byte, v.out.Size()-4))
				require.Error(t, err)
				require.False(t, ok)
				require.False(t, notify)
				ok, notify, err = v.out.TrySend([]byte("head"), make([]byte, v.out.Size()))
				require.ErrorAs(t, err, new(*TooLargeError))
				require.False(t, ok)
				require.False(t, notify)
			}
		}
	}
}

// V-04: the peer writes over an end's own indices, before any access. The end never reads them, and what it shows the peer next is right.
func TestV04_OwnIndicesAreNotBelieved(t *testing.T) {
	for _, start := range []uint32{0, 0xfffffff0} {
		for i := range 4 {
			p := connectedPair(t, Layout{12, 12}, start)
			v := p.victims()[i]
			mem := p.left
			if v.field[:1] == "r" {
				mem = p.right
			}
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			scribble := func() { p.ctl.Store32(v.ownOff, rng.Uint32()) }
			p.observe(func(_ int, a shm.Access) {
				if a.Region == p.ctl && a.Off < v.ownOff+4 && a.Off+a.Len > v.ownOff {
					require.Equal(t, shm.Store, a.Kind, "an end reads its own index back")
				}
				scribble()
			})
			// The peer is played here, with indices of its own.
			own, peer := start, start
			for round := range 200 {
				n := 1 + rng.IntN(100)
				data := bytes.Repeat([]byte{byte(round)}, n)
				if v.in != nil {
					p.put(mem, peer, data)
					peer += uint32(n)
					p.ctl.Store32(v.peerOff, peer)
					got := make([]byte, n)
					ok, _, err := v.in.TryRecv(got)
					require.NoError(t, err)
					require.True(t, ok)
					require.Equal(t, data, got)
				} else {
					ok, _, err := v.out.TrySend(data[:n/2], data[n/2:])
					require.NoError(t, err)
					require.True(t, ok)
					require.Equal(t, data, p.get(mem, peer, n))
					peer += uint32(n)
					p.ctl.Store32(v.peerOff, peer)
				}
				own += uint32(n)
			}
			p.unobserve()
			if v.in != nil {
				p.put(mem, peer, []byte("x"))
				p.ctl.Store32(v.peerOff, peer+1)
				_, _, err := v.in.TryRead(make([]byte, 1))
				require.NoError(t, err)
			} else {
				_, _, err := v.out.TryWrite([]byte("x"))
				require.NoError(t, err)
			}
			require.Equal(t, own+1, p.ctl.Load32(v.ownOff).Unchecked())
		}
	}
}

// put and get are what a peer does with a ring of a page.
func (p *testPair) put(mem *shm.Region, index uint32, data []byte) {
	for i, b := range data {
		mem.Store8(int((index+uint32(i))%shm.PageSize), b)
	}
}

func (p *testPair) get(mem *shm.Region, index uint32, n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = mem.Load8(int((index + uint32(i)) % shm.PageSize)).Unchecked()
	}
	return data
}

// V-05: orders that no vchan can have are refused; each is read once, and one that changes is as it was or as it is, never some of both.
func TestV05_OrdersAreReadOnce(t *testing.T) {
	for _, c := range []struct {
		left, right uint16
		field       string
	}{
		{9, 12, "left_order"}, {21, 12, "left_order"}, {0, 0, "left_order"}, {65535, 12, "left_order"}, {12, 9, "right_order"},
		{12, 65535, "right_order"}, {10, 10, "right_order"}, {11, 11, "right_order"}, {32, 12, "left_order"}, {12, 31, "right_order"},
	} {
		ctl := shm.New(1)
		ctl.Store16(offLeftOrder, c.left)
		ctl.Store16(offRightOrder, c.right)
		_, err := ReadHeader(ctl)
		var peer *PeerError
		require.ErrorAs(t, err, &peer, "%d, %d", c.left, c.right)
		require.Equal(t, c.field, peer.Field)
	}
	for _, evil := range []Layout{{11, 11}, {10, 10}, {9, 21}, {20, 20}, {65535, 65535}, {12, 12}} {
		for at := 1; at <= mostAccesses; at++ {
			p := newTestPair(t, Layout{14, 13}, 0)
			reads := make(map[int]int)
			p.observe(func(n int, a shm.Access) {
				if n == at {
					p.ctl.Store16(offLeftOrder, uint16(evil.LeftOrder))
					p.ctl.Store16(offRightOrder, uint16(evil.RightOrder))
				}
				for i := a.Off; i < a.Off+a.Len; i++ {
					reads[i]++
				}
			})
			h, err := ReadHeader(p.ctl)
			p.unobserve()
			for off, n := range reads {
				require.Equal(t, 1, n, "byte %d was read more than once", off)
			}
			if err != nil {
				require.ErrorAs(t, err, new(*PeerError))
				continue
			}
			require.Contains(t, []int{14, evil.LeftOrder}, h.LeftOrder)
			require.Contains(t, []int{13, evil.RightOrder}, h.RightOrder)
			require.NoError(t, h.Check())
			require.Len(t, h.LeftRefs, h.LeftPages())
			require.Len(t, h.RightRefs, h.RightPages())
		}
	}

	// Once connected, nobody looks at the orders any more.
	p := connectedPair(t, Layout{14, 13}, 0)
	p.ctl.Store16(offLeftOrder, 20)
	p.ctl.Store16(offRightOrder, 65535)
	p.observe(func(_ int, a shm.Access) {
		require.False(t, a.Region == p.ctl && a.Off >= offLeftOrder && a.Off < offCliLive, "%v", a)
	})
	stream(t, &p.client.Out, &p.server.In, 1<<14)
	stream(t, &p.server.Out, &p.client.In, 1<<13)
}

// V-06: a list of grants that would run into a ring is refused, nothing beyond the list is read, and each grant is read once. Indices that
// a ring cannot begin with are refused, too.
func TestV06_GrantsAreReadOnce(t *testing.T) {
	for left := range 24 {
		for right := range 24 {
			l := Layout{left, right}
			p := &testPair{ctl: shm.New(1)}
			p.ctl.Store16(offLeftOrder, uint16(left))
			p.ctl.Store16(offRightOrder, uint16(right))
			first := shm.PageSize // byte of a ring
			for _, o := range []int{left, right} {
				if at := inPage(o); at != 0 {
					first = min(first, at)
				}
			}
			reads := make(map[int]int)
			p.observe(func(_ int, a shm.Access) {
				require.LessOrEqual(t, a.Off+a.Len, first, "%v", l)
				for i := a.Off; i < a.Off+a.Len; i++ {
					reads[i]++
				}
			})
			h, err := ReadHeader(p.ctl)
			for off, n := range reads {
				require.Equal(t, 1, n, "byte %d was read more than once", off)
			}
			if err != nil {
				require.ErrorAs(t, err, new(*PeerError), "%v", l)
				continue
			}
			require.LessOrEqual(t, offGrants+4*(len(h.LeftRefs)+len(h.RightRefs)), first, "%v", l)
		}
	}

	for at := 1; at <= 20; at++ {
		p := newTestPair(t, Layout{14, 13}, 0)
		refs := refsFor(6)
		read := 0
		p.observe(func(n int, a shm.Access) {
			if n == at {
				p.ctl.CopyIn(offGrants, bytes.Repeat([]byte{0xee}, 24))
			}
			if a.Off >= offGrants {
				if n >= at && read < len(refs) {
					refs[read] = 0xeeeeeeee
				}
				read++
			}
		})
		h, err := ReadHeader(p.ctl)
		require.NoError(t, err)
		p.unobserve()
		p.ctl.CopyIn(offGrants, make([]byte, 24))
		require.Equal(t, len(refs), read, "each once")
		require.Equal(t, refs, append(h.LeftRefs, h.RightRefs...), "changed before access %d", at)
	}

	p := newTestPair(t, Layout{12, 12}, 7)
	p.ctl.Store32(offLeftProd, 7+4097)
	_, err := ReadHeader(p.ctl)
	requirePeerError(t, err, "left.prod", 7+4097)
	p.ctl.Store32(offLeftProd, 7)
	p.ctl.Store32(offRightProd, 6)
	_, err = ReadHeader(p.ctl)
	requirePeerError(t, err, "right.prod", 6)
}

// V-07: what was written before a close is read after it, even if both come between any two accesses of the reader.
func TestV07_CloseLosesNothing(t *testing.T) {
	for _, packets := range []bool{false, true} {
		for _, reader := range []Role{Server, Client} {
			for at := 1; at <= mostAccesses; at++ {
				p := connectedPair(t, Layout{12, 12}, 0)
				from, to := p.client, p.server
				if reader == Client {
					from, to = to, from
				}
				done := p.before(at, func() {
					_, _, err := from.Out.TryWrite([]byte("last"))
					require.NoError(t, err)
					from.Close()
				})
				got := readToEnd(t, &to.In, packets)
				require.True(t, done(), "access %d", at)
				require.Equal(t, "last", got, "the close before access %d", at)
				_, _, err := to.Out.TryWrite([]byte("x"))
				require.ErrorIs(t, err, syscall.EPIPE)
			}
		}
	}
}

// readToEnd reads until the end of the stream.
func readToEnd(t *testing.T, in *Receiver, packets bool) string {
	var got []byte
	for range 100 {
		buf := make([]byte, 4)
		n, err := 0, error(nil)
		if packets {
			var ok bool
			if ok, _, err = in.TryRecv(buf); ok {
				n = len(buf)
			}
		} else {
			n, _, err = in.TryRead(buf)
		}
		got = append(got, buf[:n]...)
		if err == io.EOF {
			return string(got)
		}
		require.NoError(t, err)
	}
	require.Fail(t, "the stream has no end")
	return ""
}

// V-07: a client comes, writes and leaves before the server has looked once, or while it does.
func TestV07_LeftBeforeTheServerLooked(t *testing.T) {
	for at := 0; at <= 2; at++ {
		p := newTestPair(t, Layout{12, 12}, 0)
		visit := func() {
			require.NoError(t, p.client.Connect())
			_, _, err := p.client.Out.TryWrite([]byte("note"))
			require.NoError(t, err)
			p.client.Close()
		}
		if at == 0 {
			visit()
		} else {
			p.before(at, visit)
		}
		a, err := p.server.Arrival()
		if a == NotYet && err == nil {
			a, err = p.server.Arrival()
		}
		require.NoError(t, err)
		if at == 0 {
			require.Equal(t, Left, a)
		}
		if a == NotYet {
			continue // it did not make so many accesses
		}
		require.Equal(t, "note", readToEnd(t, &p.server.In, false))
	}
}

// V-08: an end that goes to sleep and one that moves its index meet in every order: all of one between any two accesses of the other.
// Whoever sleeps then has an event coming.
func TestV08_NoLostWakeup(t *testing.T) {
	for _, direction := range []string{toServer, toClient} {
		for _, sleeper := range []string{"reader", "writer"} {
			for _, outer := range []string{"sleeper", "waker"} {
				for at := 1; at <= mostAccesses; at++ {
					p := connectedPair(t, Layout{12, 12}, 0)
					h := p.direction(direction)
					if sleeper == "writer" {
						for free := h.out.Size(); free > 0; {
							n, _, err := h.out.TryWrite(make([]byte, free))
							require.NoError(t, err)
							free -= n
						}
					} else { // the first request is used up
						_, notify, err := h.out.TryWrite([]byte("a"))
						require.NoError(t, err)
						require.True(t, notify)
						_, _, err = h.in.TryRead(make([]byte, 1))
						require.NoError(t, err)
					}
					asleep, told := false, false
					sleep := func() {
						var n int
						var err error
						arm := h.in.Arm
						if sleeper == "writer" {
							n, _, err = h.out.TryWrite([]byte("b"))
							arm = h.out.Arm
						} else {
							n, _, err = h.in.TryRead(make([]byte, 1))
						}
						require.NoError(t, err)
						if n == 0 {
							ready, err := arm(1)
							require.NoError(t, err)
							asleep = !ready
						}
					}
					wake := func() {
						var n int
						var err error
						if sleeper == "writer" {
							n, told, err = h.in.TryRead(make([]byte, 1))
						} else {
							n, told, err = h.out.TryWrite([]byte("b"))
						}
						require.NoError(t, err)
						require.Equal(t, 1, n)
					}
					first, second := sleep, wake
					if outer == "waker" {
						first, second = second, first
					}
					done := p.before(at, second)
					first()
					if !done() {
						second()
					}
					require.False(t, asleep && !told, "%s, the %s sleeps for ever: the other end came before access %d of the %s",
						direction, sleeper, at, outer)
				}
			}
		}
	}
}

// V-08: the two requests of an end lie in one byte. Setting one and taking the other away at the same time loses neither.
func TestV08_RequestsShareAByte(t *testing.T) {
	for at := 1; at <= mostAccesses; at++ {
		// The client asks to be told of reads while the server takes the request to be told of writes away.
		p := connectedPair(t, Layout{12, 12}, 0)
		fill := func(out *Sender) {
			ok, _, err := out.TrySend(nil, make([]byte, out.Size()))
			require.NoError(t, err)
			require.True(t, ok)
		}
		fill(&p.client.Out)
		ask := func() {
			ready, err := p.client.Out.Arm(1)
			require.NoError(t, err)
			require.False(t, ready)
		}
		done := p.before(at, ask)
		_, notify, err := p.server.Out.TryWrite([]byte("x"))
		require.NoError(t, err)
		require.True(t, notify, "the client's first request")
		if !done() {
			ask()
		}
		_, notify, err = p.server.In.TryRead(make([]byte, 1))
		require.NoError(t, err)
		require.True(t, notify, "the request before access %d", at)

		// The client's two directions ask at the same time.
		p = connectedPair(t, Layout{12, 12}, 0)
		fill(&p.client.Out)
		_, notify, err = p.server.Out.TryWrite([]byte("x"))
		require.NoError(t, err)
		require.True(t, notify)
		_, _, err = p.client.In.TryRead(make([]byte, 1))
		require.NoError(t, err)
		done = p.before(at, func() {
			ready, err := p.client.In.Arm(1)
			require.NoError(t, err)
			require.False(t, ready)
		})
		ask()
		if !done() {
			continue
		}
		_, notify, err = p.server.In.TryRead(make([]byte, 1))
		require.NoError(t, err)
		require.True(t, notify, "the other direction before access %d", at)
		_, notify, err = p.server.Out.TryWrite([]byte("y"))
		require.NoError(t, err)
		require.True(t, notify, "the other direction before access %d", at)
	}
}

// V-09: both ends ask to be told of the first write from the start, so that a program that waits before it looks is woken.
func TestV09_FirstWriteIsTold(t *testing.T) {
	for _, l := range allPlacements[:10] {
		p := newTestPair(t, l, 0)
		_, notify, err := p.server.Out.TryWrite([]byte("greeting")) // before there is a client
		require.NoError(t, err)
		require.False(t, notify)
		require.NoError(t, p.client.Connect())
		n, err := p.client.In.Buffered()
		require.NoError(t, err)
		require.Equal(t, 8, n)
		_, notify, err = p.client.Out.TryWrite([]byte("x"))
		require.NoError(t, err)
		require.True(t, notify, "the server waits before it looks")
		_, notify, err = p.server.Out.TryWrite([]byte("x"))
		require.NoError(t, err)
		require.True(t, notify, "the client waits before it looks")
	}
}

// V-10: live bytes are 0, 1, or (of a client) 2 until it has come; the end of a connection is final.
func TestV10_HostileLiveByte(t *testing.T) {
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

	// A close that is taken back, at any moment.
	for at := 1; at <= mostAccesses; at++ {
		p := connectedPair(t, Layout{12, 12}, 0)
		p.ctl.Store8(offCliLive, 0)
		back := func() {
			p.ctl.Store8(offCliLive, 1)
			_, _, err := p.client.Out.TryWrite([]byte("zombie"))
			require.NoError(t, err)
		}
		done := p.before(at, back)
		n, _, first := p.server.In.TryRead(make([]byte, 10))
		if !done() {
			back()
		}
		if first == nil {
			continue // the close was not seen, or not before what was written
		}
		require.Equal(t, syscall.ECONNRESET, first)
		require.Zero(t, n)
		for range 2 {
			n, _, err := p.server.In.TryRead(make([]byte, 10))
			require.Equal(t, syscall.ECONNRESET, err, "gone is gone")
			require.Zero(t, n)
			ok, _, err := p.server.In.TryRecv(make([]byte, 1))
			require.Equal(t, syscall.ECONNRESET, err)
			require.False(t, ok)
		}
		ready, err := p.server.In.Arm(1)
		require.NoError(t, err)
		require.True(t, ready, "nobody is to wait for one who has gone")
	}
	p = connectedPair(t, Layout{12, 12}, 0)
	p.client.Close()
	_, _, err = p.server.Out.TryWrite([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)
	p.ctl.Store8(offCliLive, 1)
	_, _, err = p.server.Out.TryWrite([]byte("x"))
	require.ErrorIs(t, err, syscall.EPIPE)
}

// V-11: a peer that is gone without the close that it promised has died; one that never promised, as libxenvchan, has closed.
func TestV11_DeathIsNotAClose(t *testing.T) {
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

// V-13: a packet that the ring can never hold is an error at once, whatever is in the ring; the largest that it can hold goes through.
func TestV13_PacketLargerThanTheRing(t *testing.T) {
	for _, l := range allPlacements[:10] {
		for _, direction := range []string{toServer, toClient} {
			p := connectedPair(t, l, 0xfffffff0)
			h := p.direction(direction)
			size := h.out.Size()
			large := func() {
				t.Helper()
				var e *TooLargeError
				for _, n := range []int{size + 1, 2 * size, size + 4096} {
					_, _, err := h.out.TrySend(nil, make([]byte, n))
					require.ErrorAs(t, err, &e)
					require.Equal(t, TooLargeError{n, size}, *e)
					_, _, err = h.out.TrySend(make([]byte, n-1), make([]byte, 1))
					require.ErrorAs(t, err, &e)
					_, _, err = h.in.TryRecv(make([]byte, n))
					require.ErrorAs(t, err, &e)
					require.Equal(t, TooLargeError{n, size}, *e)
				}
			}
			large()
			data := bytes.Repeat([]byte("data"), size/4)
			ok, _, err := h.out.TrySend(data[:3], data[3:])
			require.NoError(t, err)
			require.True(t, ok)
			large() // also while there is no room for anything
			got := make([]byte, size)
			ok, _, err = h.in.TryRecv(got)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, data, got)
			large()
		}
	}
}

// V-18: whatever a reader asks for and whatever there is, the bytes that it gets are those that were sent, no byte of its memory beyond
// them is written, and no byte beyond them is taken from the ring.
func TestV18_ReadsStayInTheirBuffers(t *testing.T) {
	rng := rand.New(rand.NewPCG(18, 18))
	for _, l := range allPlacements[:10] {
		for _, direction := range []string{toServer, toClient} {
			p := connectedPair(t, l, 0xfffffc00)
			h := p.direction(direction)
			size := h.out.Size()
			var queue []byte
			for step := range 300 {
				data := make([]byte, rng.IntN(size))
				for i := range data {
					data[i] = byte(rng.IntN(canary)) // never the canary
				}
				n, _, err := h.out.TryWrite(data)
				require.NoError(t, err)
				queue = append(queue, data[:n]...)

				// A buffer inside a larger one: what is beyond its length is another's.
				want := rng.IntN(size + 1)
				around := bytes.Repeat([]byte{canary}, want+2*size)
				buf := around[:want]
				if step%2 == 0 {
					n, _, err = h.in.TryRead(buf)
				} else {
					var ok bool
					ok, _, err = h.in.TryRecv(buf)
					n = 0
					if ok {
						n = want
					}
				}
				require.NoError(t, err)
				require.LessOrEqual(t, n, min(want, len(queue)))
				require.True(t, bytes.Equal(queue[:n], around[:n]))
				require.Equal(t, len(around)-n, bytes.Count(around[n:], []byte{canary}), "bytes beyond the %d that were read", n)
				queue = queue[n:]
				left, err := h.in.Buffered()
				require.NoError(t, err)
				require.Equal(t, len(queue), left)
			}
		}
	}
}

// V-20: the platform closes the memory under an end that knows of bytes: a resume, or the end of the domain. What it copies then is nothing
// that the peer sent.
func TestV20_ClosedMemoryIsNoData(t *testing.T) {
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

// V-20: what a closed control page says is not what the peer did.
func TestV20_ClosedMemoryIsNoPeersFault(t *testing.T) {
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

	// The ring's own index is not zero, so the zero that a closed page has for the peer's is no index that it can have.
	p = connectedPair(t, Layout{12, 12}, 0x80000000)
	require.NoError(t, p.ctl.Close())
	_, err = p.client.In.Arm(1)
	require.ErrorIs(t, err, hypercall.ErrStale, "not a wrong index")
}
