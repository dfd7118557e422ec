package xenstored

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// testT is what the helpers below need of *testing.T, *testing.F and *rapid.T.
type testT interface {
	Helper()
	Errorf(format string, args ...any)
	FailNow()
	Fatalf(format string, args ...any)
}

// rig drives a core without a shell, and checks its books after every step.
type rig struct {
	testT
	*core
	nextReq uint32
	taken   map[*conn][]string // events that came with the answer to the last request, for those who look later
}

func newRig(t testT, q Quota) *rig {
	return &rig{testT: t, core: newCore(q, DefaultMaxQueued), taken: map[*conn][]string{}}
}

// answer is what came of a request: the reply, and the events that came before and after it on the same connection.
type answer struct {
	payload string
	err     xenstore.Errno // "" if it was no error
	before  []string       // events as "path token"
	after   []string
	replies int
}

func (a answer) strings() []string {
	if a.payload == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(a.payload, "\x00"), "\x00")
}

// raw sends a payload as it is.
func (r *rig) raw(cn *conn, typ xenstore.MsgType, tx uint32, payload string) answer {
	r.Helper()
	r.nextReq++
	if err := r.handle(cn, xenstore.Header{Type: typ, ReqID: r.nextReq, TxID: tx, Len: uint32(len(payload))}, []byte(payload)); err != nil {
		r.Fatalf("%s %q: %v", typ, payload, err)
	}
	a := r.drain(cn)
	if a.replies != 1 {
		r.Fatalf("%s %q: %d replies", typ, payload, a.replies)
	}
	r.taken[cn] = append(a.before, a.after...)
	r.check()
	return a
}

// do sends strings, each with a NUL.
func (r *rig) do(cn *conn, typ xenstore.MsgType, tx uint32, args ...string) answer {
	r.Helper()
	return r.raw(cn, typ, tx, strings.Join(args, "\x00")+"\x00")
}

// ok is do that must succeed.
func (r *rig) ok(cn *conn, typ xenstore.MsgType, tx uint32, args ...string) answer {
	r.Helper()
	a := r.do(cn, typ, tx, args...)
	if a.err != "" {
		r.Fatalf("domain %d: %s %.80q in transaction %d: %s", cn.dom.id, typ, args, tx, a.err)
	}
	return a
}

// write is a WRITE, whose value has no NUL.
func (r *rig) write(cn *conn, tx uint32, path, value string) answer {
	r.Helper()
	return r.raw(cn, xenstore.MsgWrite, tx, path+"\x00"+value)
}

func (r *rig) begin(cn *conn) uint32 {
	r.Helper()
	var id uint32
	if _, err := fmt.Sscan(strings.TrimSuffix(r.ok(cn, xenstore.MsgTransactionStart, 0, "").payload, "\x00"), &id); err != nil {
		r.Fatalf("transaction id: %v", err)
	}
	return id
}

func (r *rig) end(cn *conn, tx uint32) xenstore.Errno {
	r.Helper()
	return r.do(cn, xenstore.MsgTransactionEnd, tx, "T").err
}

// drain takes all output of a connection.
func (r *rig) drain(cn *conn) (a answer) {
	r.Helper()
	for buf := cn.out.take(); buf != nil; buf = cn.out.take() {
		all := buf
		for len(buf) > 0 {
			h := xenstore.DecodeHeader(buf)
			payload := string(buf[xenstore.HeaderSize : xenstore.HeaderSize+h.Len])
			buf = buf[xenstore.HeaderSize+h.Len:]
			switch {
			case h.Type == xenstore.MsgWatchEvent && a.replies == 0:
				a.before = append(a.before, eventText(payload))
			case h.Type == xenstore.MsgWatchEvent:
				a.after = append(a.after, eventText(payload))
			default:
				a.replies++
				a.payload = payload
				if h.Type == xenstore.MsgError {
					a.err = xenstore.Errno(strings.TrimSuffix(payload, "\x00"))
				}
			}
		}
		r.wrote(cn, len(all))
	}
	return a
}

func eventText(payload string) string {
	return strings.ReplaceAll(strings.TrimSuffix(payload, "\x00"), "\x00", " ")
}

// events takes the events that wait for a connection that has no request under way.
func (r *rig) events(cn *conn) []string {
	r.Helper()
	a := r.drain(cn)
	return append(a.before, a.after...)
}

// check recounts everything that the core keeps books of.
func (r *rig) check() {
	r.Helper()
	if err := r.recount(); err != nil {
		r.Fatalf("books are wrong: %v", err)
	}
}

type books struct{ nodes, memory, queued, watches, txs, conns int }

// recount compares the books with what there is: what each domain owns and uses, the index of watches, the lists of children.
func (c *core) recount() error {
	want := map[hypercall.DomID]*books{}
	of := func(id hypercall.DomID) *books {
		if want[id] == nil {
			want[id] = &books{}
		}
		return want[id]
	}
	nodes, _ := subtree("/", func(path string) (*node, error) {
		n := c.live.get(path)
		if n == nil {
			return nil, fmt.Errorf("%s is listed by its parent and does not exist", path)
		}
		return n, nil
	})
	nodes = append(nodes, c.live.get(xenstore.IntroduceDomain), c.live.get(xenstore.ReleaseDomain))
	if len(nodes) != c.live.n {
		return fmt.Errorf("%d nodes are reachable, the tree counts %d", len(nodes), c.live.n)
	}
	for _, n := range nodes {
		if n.children != "" && !strings.HasSuffix(n.children, "\x00") || n.gen > c.gen {
			return fmt.Errorf("%s: children %q, generation %d of %d", n.path, n.children, n.gen, c.gen)
		}
		b := of(n.owner())
		b.nodes++
		b.memory += 24 + 8*len(n.perms) + len(n.data) + len(n.children) + len(n.path)
	}
	if err := c.recountConns(of); err != nil {
		return err
	}
	for id, d := range c.domains {
		got, b := books{d.nodes, d.memory, d.queued, d.watches, d.txs, d.conns}, of(id)
		if got != *b {
			return fmt.Errorf("domain %d: has %+v, the books say %+v", id, *b, got)
		}
		delete(want, id)
	}
	for id, b := range want {
		if *b != (books{}) {
			return fmt.Errorf("domain %d is not known and has %+v", id, *b)
		}
	}
	return nil
}

func (c *core) recountConns(of func(hypercall.DomID) *books) error {
	watches, txs, caused := 0, 0, 0
	waiting := map[*request]int{} // by the messages that a request waits for
	for _, cn := range c.conns {
		b := of(cn.dom.id)
		b.conns++
		for _, w := range cn.watches {
			b.watches++
			b.memory += len(w.path) + len(w.token)
			found := 0
			for _, at := range c.watches[w.path] {
				if at == w {
					found++
				}
			}
			if found != 1 {
				return fmt.Errorf("watch %s %s is %d times in the index", w.path, w.token, found)
			}
		}
		watches += len(cn.watches)
		for _, tx := range cn.txs {
			b.txs++
			for _, t := range tx.order {
				b.memory += len(t.path) + touchBytes
				if t.cur != nil && t.cur != t.orig {
					b.memory += t.cur.memory()
				}
			}
		}
		txs += len(cn.txs)
		for _, it := range append(append([]item(nil), cn.out.items...), cn.out.taken...) {
			b.memory += it.size
			b.queued += it.size
			if it.cause == nil {
				continue
			}
			waiting[it.cause]++
			if it.event {
				caused++
			}
		}
	}
	if err := c.recountOutstanding(waiting); err != nil {
		return err
	}
	indexed := 0
	for path, at := range c.watches {
		if len(at) == 0 {
			return fmt.Errorf("empty index entry for %s", path)
		}
		indexed += len(at)
	}
	if watches != c.nwatches || indexed != watches || txs != c.ntxs || caused != c.caused {
		return fmt.Errorf("watches %d, counted %d, indexed %d; transactions %d, counted %d; caused %d, counted %d",
			watches, c.nwatches, indexed, txs, c.ntxs, caused, c.caused)
	}
	return nil
}

// recountOutstanding looks at the requests whose replies or events wait to be taken.
func (c *core) recountOutstanding(waiting map[*request]int) error {
	outstanding := map[*domain]int{}
	for req, messages := range waiting {
		outstanding[req.dom]++
		if req.refs != messages {
			return fmt.Errorf("a request of domain %d waits for %d messages, and %d are there", req.dom.id, req.refs, messages)
		}
	}
	for id, d := range c.domains {
		if d.outstanding != outstanding[d] {
			return fmt.Errorf("domain %d: %d requests are outstanding, the books say %d", id, outstanding[d], d.outstanding)
		}
	}
	return nil
}

// shape is the tree as text, for comparisons.
func (c *core) shape() string {
	var b bytes.Buffer
	nodes, _ := subtree("/", func(path string) (*node, error) { return c.live.get(path), nil })
	for _, n := range nodes {
		fmt.Fprintf(&b, "%s=%q %v\n", n.path, n.data, n.perms)
	}
	return b.String()
}

// BenchmarkCore is what the core alone needs for a request, without a connection.
func BenchmarkCore(b *testing.B) {
	c := newCore(Quota{}, DefaultMaxQueued)
	cn := c.connect(0, nil)
	send := func(typ xenstore.MsgType, tx uint32, payload []byte) {
		_ = c.handle(cn, xenstore.Header{Type: typ, TxID: tx}, payload) // never an introduction
		c.wrote(cn, len(cn.out.take()))
		c.dirty, cn.dirty = c.dirty[:0], false
	}
	for i := range 10000 {
		send(xenstore.MsgWrite, 0, fmt.Appendf(nil, "/local/domain/%d/device/vif/0/state\x004", i))
	}
	path := []byte("/local/domain/4711/device/vif/0/state\x00")
	value := append(bytes.Clone(path), '4')
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			send(xenstore.MsgRead, 0, path)
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			send(xenstore.MsgWrite, 0, value)
		}
	})
	b.Run("transaction", func(b *testing.B) {
		b.ReportAllocs()
		start, end := []byte{0}, []byte("T\x00")
		for b.Loop() {
			id := cn.nextTx
			send(xenstore.MsgTransactionStart, 0, start)
			send(xenstore.MsgRead, id, path)
			send(xenstore.MsgWrite, id, value)
			send(xenstore.MsgTransactionEnd, id, end)
		}
		if c.stats.Errors > 0 {
			b.Fatal("transactions fail")
		}
	})
}
