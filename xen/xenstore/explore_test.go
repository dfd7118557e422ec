package xenstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim/explore"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// echo is the two ends of a ring page: a client that writes and reads, and a server that sends back what it reads. The ends are the
// cores that production uses.
type echo struct {
	w      *explore.World
	page   *shm.Region
	bytes  int // that the client sends
	server *xenstore.Ring
	// One event channel serves both directions; the client has a party for each.
	toServer, clientReads, clientWrites *explore.Event

	sent, got int
	resets    int
}

// pieces is how the client cuts what it sends; the server's buffer is smaller than the ring.
const (
	piece        = 700
	serverBuffer = 900
)

func newEcho(w *explore.World, n int, start uint32) *echo {
	mem := shm.New(1)
	for _, off := range []int{xenstore.OffReqCons, xenstore.OffReqProd, xenstore.OffRspCons, xenstore.OffRspProd} {
		mem.Store32(off, start)
	}
	e := &echo{w: w, page: mem, bytes: n, toServer: w.Event("server"), clientReads: w.Event("client rd"), clientWrites: w.Event("client wr")}
	e.server = e.ring(xenstore.RoleServer)
	w.State(func() uint64 { return uint64(e.sent)<<32 | uint64(e.got)<<8 | uint64(e.resets) })
	return e
}

// ring returns an end with a way of its own to the page.
func (e *echo) ring(role xenstore.RingRole) *xenstore.Ring {
	view := shm.Join(e.page)
	features := uint32(0)
	if role == xenstore.RoleServer {
		features = xenstore.FeatureReconnection | xenstore.FeatureError
	}
	r, err := xenstore.NewRing(view, role, features)
	if err != nil {
		e.w.Errorf("%v", err)
		e.w.FailNow()
	}
	e.w.Watch("page", view, func(off, n int) string {
		switch {
		case off >= xenstore.OffReqCons:
			return map[int]string{xenstore.OffReqCons: "req_cons", xenstore.OffReqProd: "req_prod", xenstore.OffRspCons: "rsp_cons",
				xenstore.OffRspProd: "rsp_prod", xenstore.OffServerFeatures: "features", xenstore.OffConnection: "connection",
				xenstore.OffError: "error"}[off]
		case off >= xenstore.OffRsp:
			return fmt.Sprintf("rsp[%d:%d]", off-xenstore.OffRsp, off-xenstore.OffRsp+n)
		}
		return fmt.Sprintf("req[%d:%d]", off, off+n)
	})
	return r
}

// tide is what a client sends, from a position on. Each client sends other bytes.
func tide(client, at, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((at+i)%251) ^ byte(client<<7)
	}
	return b
}

func (e *echo) tellClient() { e.w.Notify("event to the client", e.clientReads, e.clientWrites) }

// serve is the server: it reads as long as it has room, writes as long as the ring has, and waits when it can do neither.
func (e *echo) serve(t *explore.Task) {
	var held []byte
	buf := make([]byte, serverBuffer)
	for {
		n, notify, err := e.server.Read(buf[:serverBuffer-len(held)])
		if errors.Is(err, xenstore.ErrRingReset) {
			e.w.Reached("a reset")
			e.resets++
			held = nil
			e.server.ResetDone()
			e.tellClient()
			continue
		}
		if err != nil {
			t.Fatalf("the server reads: %v", err)
		}
		held = append(held, buf[:n]...)
		if notify {
			e.w.Reached("the server makes room in a full ring")
			e.tellClient()
		}
		m, notify, err := e.server.Write(held)
		if err != nil && !errors.Is(err, xenstore.ErrRingReset) {
			t.Fatalf("the server writes: %v", err)
		}
		if m < len(held) && m > 0 {
			e.w.Reached("a reply is cut")
		}
		held = held[m:]
		if notify {
			e.tellClient()
		}
		if n == 0 && m == 0 {
			t.Wait(e.toServer)
		}
	}
}

// client adds the two parties of a client.
func (e *echo) client(r *xenstore.Ring, number int) []*explore.Task {
	e.sent, e.got = 0, 0
	name := fmt.Sprintf("client %d ", number)
	writer := e.w.Go(name+"writes", func(t *explore.Task) {
		for e.sent < e.bytes {
			n, notify, err := r.Write(tide(number, e.sent, min(piece, e.bytes-e.sent)))
			if err != nil {
				t.Fatalf("write: %v", err)
			}
			e.sent += n
			if n > 0 && n < piece {
				e.w.Reached("a request is cut")
			}
			if notify {
				e.toServer.Notify()
			}
			if n == 0 {
				e.w.Reached("the request ring is full")
				t.Wait(e.clientWrites)
			}
		}
	})
	reader := e.w.Go(name+"reads", func(t *explore.Task) {
		buf := make([]byte, 512)
		for e.got < e.bytes {
			n, notify, err := r.Read(buf)
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			if !bytes.Equal(buf[:n], tide(number, e.got, n)) {
				t.Fatalf("the bytes from %d on are not those that were sent", e.got)
			}
			e.got += n
			if notify {
				e.toServer.Notify()
			}
			if n == 0 {
				t.Wait(e.clientReads)
			}
		}
	})
	return []*explore.Task{writer, reader}
}

// nextClient is who finds the page as another client has left it: it asks for a reset, and then writes and reads.
func (e *echo) nextClient(what string) {
	r := e.ring(xenstore.RoleClient)
	e.w.Go(what, func(t *explore.Task) {
		if !r.RequestReset() {
			t.Fatalf("the server has no reset")
		}
		e.toServer.Notify()
		e.client(r, 1)
	})
}

func startIndex(w *explore.World) uint32 {
	return [...]uint32{0, 1<<32 - 900}[w.Choose("where the indices start", 2)]
}

// TestExploreRing: three rings full of bytes there and back, in every order.
func TestExploreRing(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(2, 3, 4), Merge: true, MustReach: []string{"the request ring is full", "a request is cut",
		"the server makes room in a full ring"}}
	explore.Check(t, cfg, func(w *explore.World) {
		e := newEcho(w, 3*xenstore.RingSize, startIndex(w))
		w.Daemon("server", e.serve)
		e.client(e.ring(xenstore.RoleClient), 0)
	})
}

// TestExploreRingReconnect: a client goes away at any step, in the middle of whatever it does, as it does when its domain boots another
// kernel. The next one finds the page as it was left, asks for a reset, and gets back what it sends, and nothing else.
func TestExploreRingReconnect(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(1, 2, 3), Merge: true, MustReach: []string{"a reset", "a reset with replies under way"}}
	explore.Check(t, cfg, func(w *explore.World) {
		e := newEcho(w, 2*xenstore.RingSize, startIndex(w))
		w.Daemon("server", e.serve)
		first := e.client(e.ring(xenstore.RoleClient), 0)
		w.Fault("another kernel boots", func() {
			if e.sent > e.got {
				w.Reached("a reset with replies under way")
			}
			e.nextClient("boot")
		}).Kills(first...)
	})
}

// TestExploreRingResume: the domain is saved at any step and goes on elsewhere, where another server serves the page as it was left, and
// the domain's program, told that it was resumed, asks for a reset. It gets back what it sends from then on, and nothing else.
func TestExploreRingResume(t *testing.T) {
	cfg := &explore.Config{Delays: explore.Pick(1, 2, 3), Merge: true, MustReach: []string{"a reset", "resumed with replies under way",
		"resumed with a full ring"}}
	explore.Check(t, cfg, func(w *explore.World) {
		e := newEcho(w, 2*xenstore.RingSize, startIndex(w))
		server := w.Daemon("server", e.serve)
		parties := append(e.client(e.ring(xenstore.RoleClient), 0), server)
		w.Fault("the domain is resumed", func() {
			if e.sent > e.got {
				w.Reached("resumed with replies under way")
			}
			if e.page.Load32(xenstore.OffReqProd).Unchecked()-e.page.Load32(xenstore.OffReqCons).Unchecked() == xenstore.RingSize {
				w.Reached("resumed with a full ring")
			}
			e.server = e.ring(xenstore.RoleServer)
			w.Daemon("the next server", e.serve)
			e.nextClient("resume")
		}).Kills(parties...)
	})
}
