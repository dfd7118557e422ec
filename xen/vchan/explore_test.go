package vchan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim/explore"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// traffic is what a scenario sends.
type traffic struct {
	messages int
	packets  bool // whole or not at all, as libxenvchan_send and _recv; else as much as there is room for
	sleepy   bool // readers wait before they look the first time, as QubesDB does
	oneWay   bool // only the client writes
	end      ending
}

// ending is how a connection comes to its end, beside that all was sent and the writers close.
type ending uint8

const (
	allSent ending = iota
	clientCloses
	serverCloses
	bothClose
	clientDies
	serverDies
	clientResumes
	serverResumes
)

func (e ending) String() string {
	return [...]string{"all sent", "client closes", "server closes", "both close", "client dies", "server dies", "client resumes",
		"server resumes"}[e]
}

// The sizes of messages: neither ring holds two, and most wrap in them.
const (
	leftMessage  = 600  // in a ring of 1024 bytes
	rightMessage = 1100 // in a ring of 2048
)

// party is one end of the connection, as a scenario drives it.
type party struct {
	w    *explore.World
	name string
	core *Core
	ctl  *shm.Region
	peer *party
	// One event channel serves both directions: each has its own way to wait for it.
	rd, wr  *explore.Event
	tasks   []*explore.Task
	traffic *traffic

	closing  bool   // it closes, or has
	dead     bool   // killed, or resumed: the platform told the peer
	told     bool   // it knows that the peer's domain is no more
	closed   bool   // its close was seen by all
	start0   uint32 // where the index began of the ring that it reads
	sent     int    // bytes
	got      int
	readErr  error // how reading ended
	writeErr error
	asleep   *explore.Task // of readers
}

// connection is a pair of connected ends over the smallest rings.
func connection(w *explore.World, tr *traffic) (client, server *party) {
	mem := shm.New(1)
	w.Watch("page", mem, fieldAt) // which nobody closes
	start := [...]uint32{0, 1<<32 - 700}[w.Choose("where the indices start", 2)]
	ctl := [2]*shm.Region{shm.Join(mem), shm.Join(mem)}
	s, err := NewServer(ctl[0], nil, nil, Layout{SmallOrder, LargeOrder}, nil, start)
	must(w, err)
	h, err := ReadHeader(ctl[1])
	must(w, err)
	c, err := NewClient(ctl[1], nil, nil, h)
	must(w, err)
	must(w, c.Connect())
	if a, err := s.Arrival(); err != nil || a != Arrived {
		w.Errorf("arrival: %v, %v", a, err)
		w.FailNow()
	}
	server, client = newParty(w, "server", s, ctl[0], tr), newParty(w, "client", c, ctl[1], tr)
	server.peer, client.peer = client, server
	return client, server
}

func must(w *explore.World, err error) {
	if err != nil {
		w.Errorf("set-up: %v", err)
		w.FailNow()
	}
}

func newParty(w *explore.World, name string, core *Core, ctl *shm.Region, tr *traffic) *party {
	w.Watch("page", ctl, fieldAt)
	return &party{w: w, name: name, core: core, ctl: ctl, traffic: tr, start0: core.In.own,
		rd: w.Event(name + " rd"), wr: w.Event(name + " wr")}
}

// fieldAt names what lies at an offset of the control page.
func fieldAt(off, n int) string {
	names := map[int]string{
		offLeftCons: "left.cons", offLeftProd: "left.prod", offRightCons: "right.cons", offRightProd: "right.prod",
		offLeftOrder: "left_order", offRightOrder: "right_order", offCliLive: "cli_live", offSrvLive: "srv_live",
		offCliNotify: "cli_notify", offSrvNotify: "srv_notify",
	}
	switch {
	case off < offGrants:
		return names[off]
	case off >= offLargeRing:
		return fmt.Sprintf("right[%d:%d]", off-offLargeRing, off-offLargeRing+n)
	case off >= offSmallRing:
		return fmt.Sprintf("left[%d:%d]", off-offSmallRing, off-offSmallRing+n)
	}
	return ""
}

// notify sends the event to the peer.
func (p *party) notify() { p.w.Notify("event to the "+p.peer.name, p.peer.rd, p.peer.wr) }

// size returns how long the messages are that this end writes.
func (p *party) size() int {
	if p.core.Role() == Client {
		return leftMessage
	}
	return rightMessage
}

// sequence returns n bytes of what an end writes, from position at on.
func sequence(at, n int) []byte {
	at %= 251
	return pattern[at : at+n]
}

var pattern = func() []byte {
	b := make([]byte, 4096)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}()

// start adds what the end does.
func (p *party) start(reads, writes bool) {
	if writes {
		p.tasks = append(p.tasks, p.w.Go(p.name+" writes", p.write))
	}
	if reads {
		p.asleep = p.w.Go(p.name+" reads", p.read)
		p.tasks = append(p.tasks, p.asleep)
	}
}

// interrupted is what the shell looks at before each try.
func (p *party) interrupted() bool { return p.closing || p.told }

func (p *party) write(t *explore.Task) {
	out := &p.core.Out
	want := 1
	if p.traffic.packets {
		want = p.size()
	}
	for range p.traffic.messages {
		done, b := 0, sequence(p.sent, p.size())
		for done < len(b) {
			p.settle(t, &out.ring, &out.peer, p.sent)
			t.Step(lookAround)
			if p.interrupted() {
				return
			}
			n, notify, err := p.push(b[done:])
			done += n
			p.sent += n
			if notify {
				p.notify()
			}
			if err != nil {
				p.writeErr = err
				return
			}
			if n > 0 {
				p.noteFull()
				if n < len(b) && !p.traffic.packets {
					p.w.Reached("a write is cut")
				}
				continue
			}
			if ready, err := out.Arm(want); ready || err != nil {
				continue // the next try says why
			}
			t.WaitFor(p.wr, func() bool { return p.room() >= want })
		}
	}
	if p.traffic.end == allSent {
		p.close(t)
	}
}

// push tries to write.
func (p *party) push(b []byte) (n int, notify bool, err error) {
	if !p.traffic.packets {
		return p.core.Out.TryWrite(b)
	}
	ok, notify, err := p.core.Out.TrySend(nil, b)
	if ok {
		n = len(b)
	}
	return n, notify, err
}

func (p *party) read(t *explore.Task) {
	in := &p.core.In
	b := make([]byte, p.peer.size())
	want := 1
	if p.traffic.packets {
		want = len(b)
	}
	ready := func() bool { return p.waiting() >= want }
	if p.traffic.sleepy {
		t.WaitFor(p.rd, ready)
	}
	for woken := false; ; woken = true {
		p.settle(t, &in.ring, &in.peer, p.got)
		t.Step(lookAround)
		if p.closing {
			return
		}
		gone := p.told
		n, notify, err := p.pull(b)
		if notify {
			p.notify()
		}
		if n > 0 {
			p.accept(t, b[:n])
			woken = false
			continue
		}
		if err == nil && gone {
			err = syscall.ECONNRESET
		}
		if err != nil {
			p.readErr = err
			return
		}
		if woken {
			p.w.Reached("a wakeup for nothing")
		}
		if more, err := in.Arm(want); more || err != nil {
			continue
		}
		t.WaitFor(p.rd, ready)
	}
}

// pull tries to read.
func (p *party) pull(b []byte) (n int, notify bool, err error) {
	if !p.traffic.packets {
		return p.core.In.TryRead(b)
	}
	ok, notify, err := p.core.In.TryRecv(b)
	if ok {
		n = len(b)
	}
	return n, notify, err
}

// accept is the oracle of integrity: what was got is a prefix of what was sent.
func (p *party) accept(t *explore.Task, b []byte) {
	if !bytes.Equal(sequence(p.got, len(b)), b) {
		t.Fatalf("integrity: the bytes from %d on are not those that were sent", p.got)
	}
	if p.core.In.own < uint32(len(b)) && p.core.In.own > 0 {
		p.w.Reached("an index passes 2^32")
	}
	p.got += len(b)
	if p.peer.closing || p.peer.dead {
		p.w.Reached("data is read after the other end has gone")
	}
}

// settle tells the explorer all that a half's future depends on.
func (p *party) settle(t *explore.Task, g *ring, half *peer, at int) {
	flags := uint64(0)
	for i, b := range []bool{half.closed, half.cutOff, half.mayWait, half.err != nil, p.core.In.final, p.closing, p.told, p.dead} {
		if b {
			flags |= 1 << i
		}
	}
	t.Settle(uint64(g.own)<<32|uint64(g.seen), flags, uint64(at))
}

// waiting returns how many bytes there are to read, and much where there is another reason to look.
func (p *party) waiting() int {
	if p.peer.gone() || p.closing {
		return 1 << 20
	}
	return int(p.peer.core.Out.own - p.core.In.own)
}

// room returns how much can be written, and much where there is another reason to look.
func (p *party) room() int {
	if p.peer.gone() || p.closing {
		return 1 << 20
	}
	return int(p.core.Out.size - (p.core.Out.own - p.peer.core.In.own))
}

func (p *party) gone() bool { return p.closed || p.dead }

// close is what the shell's Close does, without waiting for the peer.
func (p *party) close(t *explore.Task) {
	p.closing = true
	p.rd.Notify()
	p.wr.Notify()
	t.Until("turns", func() bool {
		for _, other := range p.tasks {
			if other != t && !other.Done() {
				return false
			}
		}
		return true
	})
	if p.dead {
		return
	}
	if p.core.Out.own != p.peer.core.In.own {
		p.w.Reached("close with data in flight")
	}
	p.core.Close()
	p.closed = true
	p.notify()
}

// faults names what happens at any step.
func (p *party) faults() {
	switch p.traffic.end {
	case clientCloses, bothClose:
		if p.core.Role() == Client {
			p.closeAtAnyStep()
		}
	case clientDies:
		if p.core.Role() == Client {
			p.w.Fault("the client's process is killed", p.die).Kills(p.tasks...)
		}
	case clientResumes:
		if p.core.Role() == Client {
			p.w.Fault("the client's domain is resumed", p.resume)
		}
	}
	if p.core.Role() == Client {
		return
	}
	switch p.traffic.end {
	case serverCloses, bothClose:
		p.closeAtAnyStep()
	case serverDies:
		p.w.Fault("the server's process is killed", p.die).Kills(p.tasks...)
	case serverResumes:
		p.w.Fault("the server's domain is resumed", p.resume)
	}
}

func (p *party) closeAtAnyStep() {
	p.w.Fault("the "+p.name+" closes", func() {
		p.w.Go(p.name+" closes", p.close)
	}).When(p.mayNotice)
}

// mayNotice reports whether one of the end's parties has just come to where it looks whether the end is closing.
func (p *party) mayNotice() bool {
	t := p.w.Moved()
	return t == nil || slices.Contains(p.tasks, t) && (t.Done() || t.Idle(lookAround))
}

// lookAround is the step before each try.
const lookAround = "look around"

// die is kill -9: the platform clears the live byte and sends the event.
func (p *party) die() {
	p.noteDeath()
	p.dead = true
	p.ctl.Store8(p.core.ownLive, liveExited)
	p.w.Notify("", p.peer.rd, p.peer.wr)
}

// resume takes the memory away under the end, as a resume does. The peer hears of it from Xenstore.
func (p *party) resume() {
	p.noteDeath()
	p.dead = true
	p.ctl.Close()
	p.peer.told = true
	p.w.Notify("", p.rd, p.wr, p.peer.rd, p.peer.wr)
}

func (p *party) noteDeath() {
	if p.core.Out.own != p.peer.core.In.own {
		p.w.Reached("death with data in flight")
	}
}

func (p *party) noteFull() {
	full := func(q *party) bool { return q.core.Out.own-q.peer.core.In.own > q.core.Out.size-uint32(q.size()) }
	if !full(p) {
		return
	}
	p.w.Reached("a ring is full")
	if full(p.peer) {
		p.w.Reached("both rings are full")
	}
	if p.core.Out.own&(p.core.Out.size-1) < uint32(p.size()) && p.core.Out.own&(p.core.Out.size-1) != 0 {
		p.w.Reached("a message wraps")
	}
}

// oracles names what must hold at every step, and in the end.
func oracles(w *explore.World, tr *traffic, client, server *party) {
	w.Always("indices: no end is ahead of what the other one did, nor more than a ring apart", func() error {
		for _, p := range []*party{client, server} {
			out, in := &p.core.Out, &p.peer.core.In
			if used := out.own - in.own; used > out.size {
				return fmt.Errorf("the %s wrote %d bytes that were not read, into a ring of %d", p.name, used, out.size)
			}
			// An end whose memory was taken away sees zeros. What it makes of them stays with it.
			if !p.peer.dead && in.seen-in.own > out.own-in.own {
				return fmt.Errorf("the %s's peer saw more than was written", p.name)
			}
			if !p.dead && (out.own-out.seen > out.size || out.own-out.seen < out.own-in.own) {
				return fmt.Errorf("the %s saw more read than was", p.name)
			}
		}
		return nil
	})
	w.Finally("availability and shutdown", func() error {
		return errors.Join(client.verdict(), server.verdict())
	})
}

// verdict says what is wrong with how the end got on.
func (p *party) verdict() error {
	if p.dead || p.asleep == nil {
		return nil
	}
	want := error(io.EOF)
	if p.peer.dead {
		want = syscall.ECONNRESET
	}
	wrote := int(p.ctl.Load32(p.core.In.peerOff).Unchecked() - p.start0)
	switch {
	case p.closing && p.readErr == nil:
		return nil // it did not want to know
	case !errors.Is(p.readErr, want) && !(p.traffic.packets && errors.Is(p.readErr, io.ErrUnexpectedEOF)):
		return fmt.Errorf("the %s's reading ended with %v, not %v", p.name, p.readErr, want)
	case p.got != wrote && !p.told:
		return fmt.Errorf("the %s got %d of %d bytes that were written before the end", p.name, p.got, wrote)
	case p.writeErr != nil && !p.peer.gone():
		return fmt.Errorf("the %s's writing ended with %v", p.name, p.writeErr)
	case errors.Is(p.writeErr, hypercall.ErrStale):
		return fmt.Errorf("the %s was told that it is stale", p.name)
	}
	return nil
}

func scenario(tr traffic) explore.Scenario {
	return func(w *explore.World) {
		client, server := connection(w, &tr)
		client.start(!tr.oneWay, true)
		server.start(true, !tr.oneWay)
		client.faults()
		server.faults()
		oracles(w, &tr, client, server)
	}
}

func (tr traffic) String() string {
	kind := "stream"
	if tr.packets {
		kind = "packets"
	}
	if tr.sleepy {
		kind += ", readers wait first"
	}
	return fmt.Sprintf("%s, %d messages, %v", kind, tr.messages, tr.end)
}

// TestExploreOneWay: the client writes and closes, the server reads to the end.
func TestExploreOneWay(t *testing.T) {
	for _, tr := range []traffic{{}, {sleepy: true}, {packets: true}, {packets: true, sleepy: true}} {
		for _, size := range []struct{ messages, delays int }{
			{16, explore.Pick(2, 3, 3)}, {3, explore.Pick(3, 4, 5)}, {1, explore.Unbounded},
		} {
			tr := tr
			tr.messages, tr.oneWay = size.messages, true
			t.Run(tr.String(), func(t *testing.T) {
				t.Parallel()
				cfg := &explore.Config{Delays: size.delays, Merge: true}
				if tr.messages > 1 {
					cfg.MustReach = []string{"a ring is full", "a message wraps", "an index passes 2^32", "close with data in flight",
						"data is read after the other end has gone", "a wakeup for nothing"}
				}
				explore.Check(t, cfg, scenario(tr))
			})
		}
	}
}

// TestExploreBothWays: both ends write and read; beside that, an end closes, dies or is resumed at any step. Readers that wait first have
// it with the few messages.
func TestExploreBothWays(t *testing.T) {
	for _, packets := range []bool{false, true} {
		for end := allSent; end <= serverResumes; end++ {
			few := explore.Pick(1, 2, 3)
			if end == allSent {
				few = explore.Pick(2, 3, 4)
			}
			exploreBothWays(t, traffic{messages: 3, packets: packets, end: end}, few)
			exploreBothWays(t, traffic{messages: 3, packets: packets, end: end, sleepy: true}, few)
			exploreBothWays(t, traffic{messages: 16, packets: packets, end: end}, explore.Pick(0, 1, 2))
		}
	}
}

func exploreBothWays(t *testing.T, tr traffic, delays int) {
	t.Run(tr.String(), func(t *testing.T) {
		t.Parallel()
		cfg := &explore.Config{Delays: delays, Merge: true}
		// It takes two delays until a client closes that has something under way.
		if delays > 1 || delays == 1 && tr.end != clientCloses {
			cfg.MustReach = rareStates(tr.end)
		}
		explore.Check(t, cfg, scenario(tr))
	})
}

// rareStates are what an exploration with the ending must come to.
func rareStates(end ending) []string {
	states := []string{"a ring is full", "both rings are full", "a message wraps", "an index passes 2^32",
		"data is read after the other end has gone"}
	switch end {
	case allSent, clientCloses, serverCloses, bothClose:
		return append(states, "close with data in flight")
	}
	return append(states, "death with data in flight")
}

// TestExploreHostileIndices: a server against a client that writes whatever it likes into the indices, at any step. The server's own idea
// of the rings stays sound; where it cannot, it says so.
func TestExploreHostileIndices(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(3, 4, 6), MustReach: []string{"the reader names the index", "the writer names the index",
		"the reader reads"}}
	explore.Check(t, cfg, func(w *explore.World) {
		client, server := connection(w, &traffic{messages: 1})
		start := client.core.Out.own
		hostile := func(name string, off int, values ...uint32) {
			w.Go(name, func(*explore.Task) {
				for _, v := range values {
					client.ctl.Store32(off, start+v)
				}
			})
		}
		hostile("lies about left.prod", offLeftProd, 100, 5000, 200)
		hostile("lies about right.cons", offRightCons, 1, 0x8000_0000, 10)
		w.Go("server reads", func(*explore.Task) {
			b := make([]byte, 300)
			for range 3 {
				n, _, err := server.core.In.TryRead(b)
				if n > 0 {
					w.Reached("the reader reads")
				}
				if peer, ok := errors.AsType[*PeerError](err); ok && peer.Field == "left.prod" {
					w.Reached("the reader names the index")
				}
			}
		})
		w.Go("server writes", func(*explore.Task) {
			for range 3 {
				_, _, err := server.core.Out.TryWrite(sequence(0, rightMessage))
				if peer, ok := errors.AsType[*PeerError](err); ok && peer.Field == "right.cons" {
					w.Reached("the writer names the index")
				}
			}
		})
		w.Always("indices stay within their rings", func() error {
			in, out := &server.core.In, &server.core.Out
			if in.seen-in.own > in.size || out.own-out.seen > out.size {
				return fmt.Errorf("%d bytes readable of %d, %d written of %d", in.seen-in.own, in.size, out.own-out.seen, out.size)
			}
			return nil
		})
	})
}

// TestExploreAsking: both halves of an end ask for events at the same time, in the one byte that they share, while the peer takes requests
// away. A request that nobody took is there in the end.
func TestExploreAsking(t *testing.T) {
	explore.Check(t, &explore.Config{Delays: explore.Unbounded, Merge: true}, func(w *explore.World) {
		client, server := connection(w, &traffic{messages: 1})
		client.ctl.And8(client.core.ownAsk, ^uint8(notifyWrite|notifyRead))
		for { // fill the ring, so that there is something to wait for
			n, _, err := client.core.Out.TryWrite(sequence(0, 1024))
			must(w, err)
			if n == 0 {
				break
			}
		}
		taken := uint8(0)
		w.Go("client reads", func(t *explore.Task) {
			if ready, err := client.core.In.Arm(1); ready || err != nil {
				t.Fatalf("arm: %v, %v", ready, err)
			}
		})
		w.Go("client writes", func(t *explore.Task) {
			if ready, err := client.core.Out.Arm(1); ready || err != nil {
				t.Fatalf("arm: %v, %v", ready, err)
			}
		})
		w.Go("server writes", func(*explore.Task) {
			if server.core.Out.told(notifyWrite) {
				taken |= notifyWrite
			}
		})
		w.Finally("no request is lost", func() error {
			if got := client.ctl.Load8(client.core.ownAsk).Bits(notifyRead|notifyWrite) | taken; got != notifyRead|notifyWrite {
				return fmt.Errorf("of the requests %#x are left or were taken", got)
			}
			return nil
		})
	})
}

// TestExploreHash: the same schedules have the same trace on every machine. The figure changes when the core takes other steps.
func TestExploreHash(t *testing.T) {
	for _, workers := range []int{1, 2} {
		r, err := explore.Explore(&explore.Config{Random: 50, Seed: 3, Workers: workers}, scenario(traffic{messages: 5, end: bothClose}))
		require.NoError(t, err)
		require.Equal(t, "8a786d8286fb3f8", fmt.Sprintf("%x", r.Hash))
	}
}

// TestExploreAtRandom: long runs that no search gets through.
func TestExploreAtRandom(t *testing.T) {
	const kinds = 2 * int(serverResumes+1)
	for _, packets := range []bool{false, true} {
		for end := allSent; end <= serverResumes; end++ {
			tr := traffic{messages: 40, packets: packets, end: end, sleepy: packets == (end%2 == 0)} // half of them
			t.Run(tr.String(), func(t *testing.T) {
				cfg := &explore.Config{Random: explore.Pick(1600, 100_000, 10_000_000) / kinds, Seed: 1, MustReach: rareStates(end)}
				explore.Check(t, cfg, scenario(tr))
			})
		}
	}
}
