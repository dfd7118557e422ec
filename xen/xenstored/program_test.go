package xenstored

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// A program is what several clients do to the server, and what befalls them: instructions of a byte and its operands. Every string of
// bytes is one.
type program []byte

// next takes a byte, 0 at the end.
func (p *program) next() int {
	if len(*p) == 0 {
		return 0
	}
	b := (*p)[0]
	*p = (*p)[1:]
	return int(b)
}

// take takes up to n bytes.
func (p *program) take(n int) []byte {
	n = min(n, len(*p))
	b := (*p)[:n]
	*p = (*p)[n:]
	return b
}

// Instructions. Those that concern a client have its number as their first operand.
const (
	opRequest    = iota // type, transaction, path, a byte more: a request that makes sense
	opRaw               // type, transaction, length, payload: any message
	opBytes             // length, bytes: of the stream, whole messages or not
	opRead              // begins to take what waits, or how much of it is taken then, in 64ths
	opDrain             // takes all
	opWait              // time goes by, events expire
	opRelease           // domain
	opIntroduce         // domain
	opShutdown          // domain
	opDisconnect        // and connects anew
	opRestart           // a ring is reset
	opLength            // length field of a message that is not whole
	opcodes
)

// operands of opRequest
var (
	programPaths = []string{
		"/", "a", "a/b", "a/b/c/d/e", "/local/domain/1", "/local/domain/1/a", "/local/domain/2/a/b", "/pub", "/pub/x", "/pub/x/y", "/pub/x/y/z",
		"@introduceDomain", "@releaseDomain", "/tool", "/local/domain/", "/local/domain/3/long",
	}
	programPerms = []string{"n0", "n1", "n2", "b0", "b1", "b2", "r1\x00w2", "n2\x00b1", "n1\x00r2\x00r3", "x", "n1\x00n1\x00n1\x00n1"}
)

// machine runs a program.
type machine struct {
	*rig
	clients []*programClient
}

type programClient struct {
	*conn
	dec      xenstore.Decoder
	flight   []byte // what it takes at the moment
	got      []byte // what it has taken and not looked at
	unasked  int    // requests that were handled and not answered yet
	violated bool
}

func newMachine(t testT) *machine {
	r := newRig(t, Quota{Nodes: 12, NodeSize: 200, Watches: 4, Transactions: 2, TransactionNodes: 12, Permissions: 3, Outstanding: 5,
		Memory: 1300})
	r.maxQueued = 16 << 10
	m := &machine{rig: r}
	host := r.connect(dom0, nil)
	for _, dom := range []string{"1", "2"} {
		r.ok(host, xenstore.MsgIntroduce, 0, dom, "1", "1")
		r.ok(host, xenstore.MsgMkdir, 0, "/local/domain/"+dom)
		r.ok(host, xenstore.MsgSetPerms, 0, "/local/domain/"+dom, "n"+dom)
	}
	r.ok(host, xenstore.MsgMkdir, 0, "/pub")
	r.ok(host, xenstore.MsgSetPerms, 0, "/pub", "b0")
	for _, dom := range []hypercall.DomID{0, 1, 1, 2, 3} {
		m.clients = append(m.clients, &programClient{conn: r.connect(dom, nil)})
	}
	r.disconnect(host)
	r.check()
	return m
}

// step runs one instruction, and holds what came of it against what must always be.
func (m *machine) step(p *program) {
	op := p.next() % opcodes
	c := m.clients[p.next()%len(m.clients)]
	switch op {
	case opRequest:
		typ := xenstore.MsgType(p.next() % int(xenstore.MsgDirectoryPart+1))
		tx := m.transactionOf(c, p.next())
		m.feed(c, xenstore.AppendMessage(nil, xenstore.Header{Type: typ, TxID: tx}, programPayload(typ, p.next(), p.next())))
	case opRaw:
		typ, tx := xenstore.MsgType(p.next()), m.transactionOf(c, p.next())
		m.feed(c, xenstore.AppendMessage(nil, xenstore.Header{Type: typ, TxID: tx}, p.take(p.next())))
	case opBytes:
		m.feed(c, p.take(p.next()))
	case opLength:
		m.feed(c, xenstore.Header{Type: xenstore.MsgWrite, Len: binary.LittleEndian.Uint32(append(p.take(4), 0, 0, 0, 0))}.Append(nil))
	case opRead:
		if n := p.next() % 65; c.flight == nil && c.ended == nil {
			c.flight = c.conn.out.take() // and keeps the server waiting
		} else {
			m.wroteTo(c, (len(c.flight)*n+63)/64)
		}
	case opDrain:
		m.takeAll(c)
	case opWait:
		m.now += int64(p.next()) * 1e6
		for _, cn := range m.conns {
			m.expire(cn, m.now-50e6)
		}
	case opRelease:
		m.releaseDomain(hypercall.DomID(p.next() % 4))
	case opIntroduce:
		m.introduceOrReset(hypercall.DomID(p.next() % 4))
	case opShutdown:
		m.shutdown(hypercall.DomID(p.next() % 4))
	case opDisconnect:
		m.reconnect(c)
	case opRestart:
		if c.flight == nil && c.ended == nil {
			m.restart(c.conn)
			c.dec.Reset()
			c.unasked, c.got = 0, nil
		}
	}
	m.invariants()
}

// programPayload is what a request of the type says.
func programPayload(typ xenstore.MsgType, path, more int) []byte {
	where := programPaths[path%len(programPaths)]
	switch typ {
	case xenstore.MsgWrite:
		return append([]byte(where+"\x00"), make([]byte, more)...)
	case xenstore.MsgSetPerms:
		return []byte(where + "\x00" + programPerms[more%len(programPerms)] + "\x00")
	case xenstore.MsgWatch, xenstore.MsgUnwatch:
		return fmt.Appendf(nil, "%s\x00t%d\x00", where, more%8)
	case xenstore.MsgDirectoryPart:
		return fmt.Appendf(nil, "%s\x00%d\x00", where, more)
	case xenstore.MsgTransactionEnd:
		return []byte{"TTTF"[more%4], 0}
	case xenstore.MsgTransactionStart, xenstore.MsgResetWatches:
		return []byte{0}
	case xenstore.MsgIntroduce:
		return fmt.Appendf(nil, "%d\x001\x001\x00", more%5)
	case xenstore.MsgSetTarget:
		return fmt.Appendf(nil, "%d\x00%d\x00", path%4, more%4)
	case xenstore.MsgRelease, xenstore.MsgResume, xenstore.MsgIsIntroduced, xenstore.MsgGetDomainPath:
		return fmt.Appendf(nil, "%d\x00", more%5)
	}
	return []byte(where + "\x00")
}

// transactionOf returns an id of one that the client has open, often, or any other.
func (m *machine) transactionOf(c *programClient, choice int) uint32 {
	if n := len(c.txs); n > 0 && choice%4 != 0 {
		return c.txs[choice%n].id
	}
	return uint32(choice % 8 / 4)
}

// feed has bytes come from a client, and the server handle what it may.
func (m *machine) feed(c *programClient, b []byte) {
	for {
		if c.ended != nil || c.violated {
			return
		}
		m.handleAll(c)
		n := copy(c.dec.Space(), b)
		c.dec.Filled(n)
		if n == 0 {
			return // all is there, or there is no room until the client reads
		}
		b = b[n:]
	}
}

// handleAll handles whole messages, while there is room for what comes of them.
func (m *machine) handleAll(c *programClient) {
	for c.ended == nil && !c.violated && !m.full(c.conn) && m.pausedUntil(c.conn) == 0 {
		h, payload, ok, err := c.dec.Next()
		if err != nil {
			var perr *xenstore.ProtocolError
			if !errors.As(err, &perr) {
				m.Fatalf("%v", err)
			}
			c.violated = true
			m.disconnect(c.conn)
			return
		}
		if !ok {
			return
		}
		c.unasked++
		if err := m.handle(c.conn, h, payload); err != nil {
			m.Fatalf("%v %q: %v", h, payload, err)
		}
	}
}

// wroteTo says that the client has taken bytes, and looks at them.
func (m *machine) wroteTo(c *programClient, n int) {
	if c.flight == nil {
		return
	}
	c.got = append(c.got, c.flight[:n]...)
	c.flight = c.flight[n:]
	m.wrote(c.conn, n)
	c.flight = nil
	for len(c.got) >= xenstore.HeaderSize {
		h := xenstore.DecodeHeader(c.got)
		if h.Len > xenstore.MaxPayload {
			m.Fatalf("the server sent %v", h)
		}
		if len(c.got) < xenstore.HeaderSize+int(h.Len) {
			return
		}
		c.got = c.got[xenstore.HeaderSize+h.Len:]
		if h.Type != xenstore.MsgWatchEvent {
			c.unasked--
		}
		if c.unasked < 0 {
			m.Fatalf("a reply to no request: %v", h)
		}
	}
}

// takeAll has the client take all that waits and all that comes of it.
func (m *machine) takeAll(c *programClient) {
	m.wroteTo(c, len(c.flight))
	for c.ended == nil && !c.violated {
		if c.flight = c.conn.out.take(); c.flight == nil {
			if c.unasked != 0 {
				m.Fatalf("%d requests are not answered", c.unasked)
			}
			return
		}
		m.wroteTo(c, len(c.flight))
		m.handleAll(c)
	}
}

// reconnect has the client die, and another one of its domain come.
func (m *machine) reconnect(c *programClient) {
	id := c.dom.id
	if c.flight != nil {
		m.wrote(c.conn, 0)
	}
	m.disconnect(c.conn)
	m.disconnect(c.conn)
	*c = programClient{conn: m.connect(id, nil)}
}

// invariants are what holds whatever the clients do.
func (m *machine) invariants() {
	m.check()
	queued := map[*domain]int{}
	for _, cn := range m.conns {
		if cn.ended != nil {
			m.Fatalf("a connection that has ended is still there")
		}
		for _, it := range append(append([]item(nil), cn.out.items...), cn.out.taken...) {
			queued[cn.dom] += it.size
		}
		for _, tx := range cn.txs {
			if !cn.privileged() && len(tx.order) > m.quota.TransactionNodes {
				m.Fatalf("%d nodes in a transaction", len(tx.order))
			}
		}
	}
	for id, d := range m.domains {
		switch {
		case id == dom0:
		case d.watches > m.quota.Watches+1, d.txs > m.quota.Transactions+1, d.outstanding > m.quota.Outstanding:
			m.Fatalf("domain %d holds %+v", id, *d)
		case queued[d] > m.quota.Memory+m.quota.Outstanding*(smallReply+xenstore.HeaderSize):
			m.Fatalf("%d bytes wait for domain %d", queued[d], id)
		}
	}
	for _, cn := range m.conns {
		if m.full(cn) && queued[cn.dom] == 0 && cn.dom.outstanding == 0 {
			m.Fatalf("domain %d is not listened to, and nothing waits that it could take: %+v", cn.dom.id, *cn.dom)
		}
	}
	for _, cn := range m.dirty {
		cn.dirty = false
	}
	m.dirty = m.dirty[:0]
}

// finish has everybody leave, and wants nothing to be left.
func (m *machine) finish() {
	for _, c := range m.clients {
		m.takeAll(c)
		m.disconnect(c.conn)
	}
	for dom := range hypercall.DomID(6) {
		m.releaseDomain(dom)
	}
	m.check()
	if len(m.domains) != 1 || len(m.conns)+m.nwatches+m.ntxs+m.caused+len(m.core.watches) > 0 {
		m.Fatalf("left: %d domains, %d connections, %d watches, %d transactions, %d events",
			len(m.domains), len(m.conns), m.nwatches, m.ntxs, m.caused)
	}
}

// FuzzProgram runs programs.
func FuzzProgram(f *testing.F) {
	request := func(client, typ, tx, path, more byte) []byte { return []byte{opRequest, client, typ, tx, path, more} }
	join := func(parts ...[]byte) (all program) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	f.Add([]byte(join( // a transaction, another client's change, a commit
		request(1, 6, 0, 0, 0), request(1, 11, 1, 2, 9), request(3, 11, 0, 8, 3), request(1, 7, 1, 0, 0), []byte{opDrain, 1},
	)))
	f.Add([]byte(join( // watches, events that nobody takes, their end
		request(3, 4, 0, 7, 1), request(1, 11, 0, 8, 50), request(1, 11, 0, 9, 50), request(1, 11, 0, 10, 50), []byte{opWait, 0, 200},
		[]byte{opRead, 3, 30}, request(1, 13, 0, 8, 0), []byte{opDrain, 3},
	)))
	f.Add([]byte(join( // release in the middle, and another domain of the id
		request(1, 6, 0, 0, 0), request(1, 11, 1, 1, 9), request(0, 14, 0, 7, 5),
		[]byte{opRead, 1, 10, opRelease, 0, 1, opIntroduce, 0, 1, opDisconnect, 1},
		request(1, 2, 0, 4, 0), []byte{opDrain, 1},
	)))
	f.Add([]byte(join( // resets and broken protocols
		request(1, 4, 0, 1, 0), request(1, 6, 0, 0, 0), request(1, 21, 1, 0, 0), []byte{opRestart, 1, opLength, 2, 1, 16, 0, 0, opDisconnect, 2},
		[]byte{opBytes, 4, 20, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, '/', 'p', 'u', 'b'}, []byte{opBytes, 4, 1, 0}, []byte{opDrain, 4},
	)))
	f.Add([]byte(join( // privileged requests, from everybody
		request(0, 8, 0, 0, 3), request(0, 19, 0, 2, 1), request(3, 11, 0, 4, 1), request(1, 9, 0, 0, 2), request(0, 9, 0, 0, 2),
		request(0, 18, 0, 0, 1),
		[]byte{opShutdown, 0, 1}, request(0, 17, 0, 0, 1), []byte{opDrain, 0},
	)))
	drain := func(client byte) []byte { return []byte{opDrain, client} }
	f.Add([]byte(join( // a guest that has little left, and lets another one write, by a transaction, what takes the rest
		request(1, 11, 0, 1, 160), request(1, 11, 0, 2, 160), request(1, 11, 0, 3, 160), drain(1),
		request(1, 12, 0, 8, 0), request(1, 12, 0, 9, 0), request(1, 12, 0, 10, 0), drain(1),
		request(3, 6, 0, 0, 0), request(3, 11, 1, 8, 150), request(3, 11, 1, 9, 150), request(3, 11, 1, 10, 150), drain(3),
		request(3, 7, 1, 0, 0), drain(3), request(1, 13, 0, 8, 0), drain(1),
	)))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := newMachine(t)
		const most = 500 // instructions
		p := program(text)
		for n := 0; len(p) > 0 && n < most; n++ {
			m.step(&p)
		}
		m.finish()
	})
}
