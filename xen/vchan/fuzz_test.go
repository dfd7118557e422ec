package vchan

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// FuzzHostilePeer runs a program of two parties: an end of ours, and a peer that also has such an end but may write any byte of the control
// page and the rings, at once or before the k-th access from now. The first three bytes choose who is ours, the rings, and where indices
// start; then six bytes are a step. What is checked after each step of ours is in [hostileRun.step].
func FuzzHostilePeer(f *testing.F) {
	for k := range byte(8) { // before which access a value changes
		f.Add(slices.Concat([]byte{0, 4, 1}, []byte{peerWrites, 0, 200, 0, 0, 0}, []byte{laterWord, k, 0xff, 0xff, 0xff, 1},
			[]byte{ourRead, 0, 0xff, 0x0f, 0, 0}, []byte{ourRecv, 0, 250, 0, 0, 0}))
		f.Add(slices.Concat([]byte{1, 4, 1}, []byte{ourWrite, 0, 0, 0x10, 0, 0}, []byte{peerReads, 0, 99, 0, 0, 0},
			[]byte{laterWord, k, 0, 0xff, 0xff, 0}, []byte{ourWrite, 0, 0xff, 0x0f, 0, 0}))
		f.Add(slices.Concat([]byte{0, 3, 0}, []byte{peerWrites, 0, 9, 0, 0, 0}, []byte{laterByte, k, 20, 0, 0, 0},
			[]byte{ourRecv, 0, 10, 0, 0, 0}, []byte{ourWrite, 0, 10, 0, 0, 0}, []byte{pokeByte, 0, 20, 0, 1, 0}, []byte{peerWrites, 0, 9, 0, 0, 0},
			[]byte{ourRead, 0, 100, 0, 0, 0}, []byte{ourRead, 0, 10, 0, 0, 0}, []byte{ourWrite, 0, 10, 0, 0, 0}))
		f.Add(slices.Concat([]byte{1, 2, 2}, []byte{laterByte, k, 21, 0, 33, 0}, []byte{ourRecv, 0, 10, 0, 0, 0},
			[]byte{ourWrite, 0, 10, 0, 0, 0}, []byte{ourSend, 1, 1, 20, 0, 0}))
		f.Add(slices.Concat([]byte{2, 2, 0}, []byte{pokeWord, 4, 10 + k%2, 0, 10 + k/2, 0}, []byte{ourHeader, 0, 0, 0, 0, 0},
			[]byte{pokeWord, 4, 20, 0, 10 + k%3, 0}, []byte{ourHeader, 0, 0, 0, 0, 0}))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		runHostilePeer(t, program[:min(len(program), 3+6*200)])
	})
}

// The steps of a program, by their first byte modulo the number of them.
const (
	pokeByte   = iota // the byte at v[0:2] of the region arg becomes v[2]
	pokeWord          // the header's word arg becomes v
	pokeIndex         // the peer's index arg becomes what it would rightly be, and v[0] less 128 more
	laterByte         // as pokeByte, of the control page, before the arg-th access from now
	laterWord         // as pokeWord, with the word in v[3] and v[0:3], likewise
	peerWrites        // v[0:2] bytes
	peerReads         // likewise
	peerArms          // both directions
	peerCloses        //
	ourRead           // at most v[0:2] bytes
	ourRecv           // v[0:2] bytes
	ourWrite          // at most v[0:2] bytes
	ourSend           // v[0:2] bytes, arg of them as the head
	ourArm            // for v[0:2] bytes; arg says which direction
	ourDiscard        //
	ourLook           // Buffered, Unread, Changed, Arrival: what does not move anything
	ourHeader         // reads the header anew
	ourClose          //
	steps
)

// hostileRun is a program that runs.
type hostileRun struct {
	t        *testing.T
	p        *testPair
	us, peer *Core

	ours     bool         // a step of ours runs
	accesses []shm.Access // of it
	total    int          // of all steps of ours
	later    map[int]func()

	failed  [2]error // how our reading and our writing ended, for good
	ended   bool     // our reading saw the end
	last    uint32   // the peer's index then
	badLive bool     // the step loaded a live byte that nobody may have
	closed  bool
}

func runHostilePeer(t *testing.T, program []byte) {
	if len(program) < 3 {
		return
	}
	layouts := []Layout{{SmallOrder, LargeOrder}, {LargeOrder, SmallOrder}, {12, LargeOrder}, {SmallOrder, 12}, {12, 12}}
	start := []uint32{0, 0xffffff80, 0x7fffff80}[program[2]%3]
	r := &hostileRun{t: t, p: newTestPair(t, layouts[int(program[1])%len(layouts)], start), later: make(map[int]func())}
	r.us, r.peer = r.p.server, r.p.client
	if program[0]%2 == 1 {
		r.us, r.peer = r.peer, r.us
	}
	if program[0]&2 == 0 {
		require.NoError(t, r.p.client.Connect())
	}
	r.p.observe(func(_ int, a shm.Access) {
		if !r.ours {
			return
		}
		r.total++
		if poke := r.later[r.total]; poke != nil {
			poke()
		}
		r.accesses = append(r.accesses, a)
		if a.Region == r.p.ctl && a.Off == r.us.In.liveOff && a.Kind == shm.Load {
			v := r.p.ctl.Load8(a.Off).Unchecked()
			r.badLive = v > liveWaiting || v == liveWaiting && r.us.Role() == Client
		}
	})
	for s := program[3:]; len(s) >= 6 && !r.closed; s = s[6:] {
		r.run(int(s[0])%steps, int(s[1]), [4]byte(s[2:6]))
	}
}

func (r *hostileRun) run(step, arg int, v [4]byte) {
	n := int(v[0]) | int(v[1])<<8
	word := uint32(n) | uint32(v[2])<<16 | uint32(v[3])<<24
	ctl := r.p.ctl
	switch step {
	case pokeByte:
		regions := []*shm.Region{ctl, r.p.left, r.p.right}
		if m := regions[arg%3]; m != nil {
			m.Store8(n%m.Size(), v[2])
		}
	case pokeWord:
		ctl.Store32(arg%8*4, word)
	case pokeIndex:
		own := []uint32{r.us.In.own, r.us.In.seen, r.us.Out.seen, r.us.Out.own}[arg%4]
		off := r.us.In.peerOff
		if arg%4 >= 2 {
			off = r.us.Out.peerOff
		}
		ctl.Store32(off, own+uint32(v[0])-128+uint32(v[1])*64)
	case laterByte:
		r.later[r.total+1+arg] = func() { ctl.Store8(n%ctl.Size(), v[2]) }
	case laterWord:
		r.later[r.total+1+arg] = func() { ctl.Store32(int(v[3])%8*4, word&0xffffff) }
	case peerWrites:
		_, _, _ = r.peer.Out.TryWrite(bytes.Repeat([]byte{0x11}, n%5000))
	case peerReads:
		_, _, _ = r.peer.In.TryRead(make([]byte, n%5000))
	case peerArms:
		_, _ = r.peer.In.Arm(1)
		_, _ = r.peer.Out.Arm(1)
	case peerCloses:
		r.peer.Close()
	default:
		r.ours, r.badLive, r.accesses = true, false, r.accesses[:0]
		r.step(step, arg, n%5000)
		r.ours = false
	}
}

// canary is a byte that nobody sends on purpose, so that what is left of it was not written.
const canary = 0xc5

// step runs a step of ours and checks what must hold after any step, whatever the peer did: as many bytes were moved as was said, within
// what there can be; each byte of a ring was touched once, and none beside; only words of ours were written; the work is bounded; and
// what is broken, or closed, stays so.
func (r *hostileRun) step(step, arg, n int) {
	t, us := r.t, r.us
	around := bytes.Repeat([]byte{canary}, n+64)
	buf := around[:n]
	moved, reads, discards := 0, false, false
	var err error
	half := &r.failed[0]
	switch step {
	case ourRead:
		reads = true
		moved, _, err = us.In.TryRead(buf)
		require.LessOrEqual(t, moved, min(n, us.In.Size()))
		require.True(t, err == nil || moved == 0)
	case ourRecv:
		reads = true
		var ok bool
		if ok, _, err = us.In.TryRecv(buf); ok {
			moved = n
		}
		require.True(t, err == nil || !ok)
	case ourWrite:
		half = &r.failed[1]
		moved, _, err = us.Out.TryWrite(make([]byte, n))
		require.LessOrEqual(t, moved, min(n, us.Out.Size()))
		require.True(t, err == nil || moved == 0)
	case ourSend:
		half = &r.failed[1]
		head := min(arg, n)
		var ok bool
		if ok, _, err = us.Out.TrySend(make([]byte, head), make([]byte, n-head)); ok {
			moved = n
		}
		require.True(t, err == nil || !ok)
	case ourArm:
		half = nil // a direction that has ended is ready
		if arg%2 == 0 {
			_, _ = us.In.Arm(n)
		} else {
			_, _ = us.Out.Arm(n)
		}
	case ourDiscard:
		half, discards = nil, true
		k, _, e := us.In.TryDiscard()
		require.LessOrEqual(t, k, us.In.Size())
		require.True(t, e == nil || k == 0)
	case ourLook:
		half = nil
		r.look()
	case ourHeader:
		half = nil
		r.header()
	case ourClose:
		half = nil
		r.closed = true
		us.Close()
	}
	if reads {
		require.Equal(t, len(around)-moved, bytes.Count(around[moved:], []byte{canary}), "bytes beyond those that were read")
	}
	if half != nil {
		var large *TooLargeError
		size := us.Out.Size()
		if reads {
			size = us.In.Size()
		}
		require.Equal(t, n > size && (step == ourRecv || step == ourSend), errors.As(err, &large))
		require.True(t, !r.badLive || errors.As(err, new(*PeerError)), "a live byte that nobody may have: %v", err)
		r.checkEnd(half, err)
	}
	if reads {
		if !r.ended && isEnd(err) {
			r.ended, r.last = true, us.In.seen
		}
		require.True(t, !r.ended || us.In.seen == r.last, "bytes after the end")
	}
	r.checkAccesses(step, moved, discards)
}

// look calls everything that only looks.
func (r *hostileRun) look() {
	n, err := r.us.In.Buffered()
	require.LessOrEqual(r.t, n, r.us.In.Size())
	require.True(r.t, err == nil || n == 0)
	n, _, _ = r.us.Out.Unread()
	require.LessOrEqual(r.t, n, r.us.Out.Size())
	r.us.In.Changed()
	r.us.Out.Changed()
	if r.us.Role() == Server {
		_, _ = r.us.Arrival()
	}
}

// header reads the header, which is good or an error of the peer's, and fetches each byte once.
func (r *hostileRun) header() {
	r.accesses = r.accesses[:0]
	h, err := ReadHeader(r.p.ctl)
	var fetched [shm.PageSize]bool
	for _, a := range r.accesses {
		for i := a.Off; i < a.Off+a.Len; i++ {
			require.False(r.t, fetched[i], "byte %d was fetched twice", i)
			fetched[i] = true
		}
	}
	r.accesses = r.accesses[:0]
	if err != nil {
		require.ErrorAs(r.t, err, new(*PeerError))
		return
	}
	first := shm.PageSize
	for _, order := range []int{h.LeftOrder, h.RightOrder} {
		require.True(r.t, order >= 10 && order <= 20)
		if order < 12 {
			first = min(first, 1<<order) // where it lies in the page
		}
	}
	require.True(r.t, h.LeftOrder != h.RightOrder || h.LeftOrder >= 12)
	require.LessOrEqual(r.t, 24+4*(len(h.LeftRefs)+len(h.RightRefs)), first)
	require.Len(r.t, append(h.LeftRefs, h.RightRefs...), h.LeftPages()+h.RightPages())
}

// checkEnd holds a direction to its end. What is broken stays broken, with the same error. A writer whose peer has gone writes no more; it
// may still find that the peer broke the protocol, which is then its end.
func (r *hostileRun) checkEnd(failed *error, err error) {
	broken := errors.As(err, new(*PeerError)) || errors.Is(err, hypercall.ErrStale)
	switch {
	case errors.As(err, new(*TooLargeError)), errors.Is(err, io.ErrUnexpectedEOF):
	case *failed == nil, isEnd(*failed) && broken:
		if broken || failed == &r.failed[1] && isEnd(err) {
			*failed = err
		}
	default:
		require.Equal(r.t, *failed, err, "the end is the end")
	}
}

// isEnd reports whether the peer has gone. A reader may still get the bytes that it left; a writer gets no more.
func isEnd(err error) bool {
	return err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// checkAccesses looks at what a step of ours did to the shared memory.
func (r *hostileRun) checkAccesses(step, moved int, discards bool) {
	t, us := r.t, r.us
	require.LessOrEqual(t, len(r.accesses), 16, "the work of one step is bounded")
	in, out := &us.In, &us.Out
	data := 0
	for _, a := range r.accesses {
		writes := a.Kind != shm.Load && a.Kind != shm.CopyOut
		if r.p.isData(a) {
			g := &in.ring
			if writes {
				g = &out.ring
			}
			require.True(t, a.Off >= g.base && a.Off+a.Len <= g.base+int(g.size), "%v of step %d is not in the ring", a, step)
			require.True(t, a.Region == g.mem, "%v of step %d is in the other ring", a, step)
			data += a.Len
			continue
		}
		if !writes {
			require.Equal(t, shm.Load, a.Kind)
			require.False(t, step != ourHeader && (a.Off == in.ownOff || a.Off == out.ownOff), "an own index is read back: %v", a)
			continue
		}
		switch a.Off {
		case in.ownOff:
			require.True(t, moved > 0 || discards, "%v", a)
		case out.ownOff:
			require.True(t, moved > 0, "%v", a)
		case us.ownAsk, in.tellOff:
			require.Equal(t, shm.Modify, a.Kind)
		case us.ownLive:
			require.Equal(t, ourClose, step)
		default:
			require.Fail(t, "a word that is not ours", "%v of step %d", a, step)
		}
	}
	require.Equal(t, moved, data, "each byte that is moved is touched once, and no other")
	require.LessOrEqual(t, in.seen-in.own, in.size)
	require.LessOrEqual(t, out.own-out.seen, out.size)
}
