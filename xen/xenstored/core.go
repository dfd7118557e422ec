package xenstored

import (
	"slices"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// dom0 is the privileged domain.
const dom0 hypercall.DomID = 0

// core is the store and all that the protocol says about it: messages in, messages out. It has no lock, goroutine, clock, log, or
// order that depends on chance; the same calls give the same output. [Server] is the shell around it.
type core struct {
	quota      Quota
	maxQueued  int // bytes that may wait for a privileged connection
	live       tree
	gen        uint64 // the newest generation
	domains    map[hypercall.DomID]*domain
	conns      []*conn // in order of connection
	connSeq    uint64
	watchSeq   uint64
	watches    map[string][]*watch // by path, in order of registration
	nwatches   int
	ntxs       int
	dirty      []*conn // those that were given output, or ended, since the shell last asked
	caused     int     // queued events that a request of an unprivileged domain waits for
	now        int64   // nanoseconds on the shell's clock, for events that wait too long
	stats      Stats
	fired      []*watch     // scratch of fire
	path       []byte       // scratch of canonical
	introducer bool         // INTRODUCE needs the shell
	changedBy  func(Change) // nil: nobody is told

	introductions []*introduction // that the shell has not ended yet
}

// domain is what the server keeps of one domain: while it is introduced, connected, or owns nodes.
type domain struct {
	id          hypercall.DomID
	introduced  bool
	shutdown    bool // @releaseDomain was fired because it shut down
	hasTarget   bool
	target      hypercall.DomID // whose permissions it has too (SET_TARGET)
	nodes       int             // nodes it owns
	memory      int             // bytes, as Quota.Memory counts them
	queued      int             // of these, in messages that wait for its connections
	watches     int
	txs         int
	outstanding int
	conns       int
	credit      credit
}

// conn is one connection.
type conn struct {
	seq      uint64
	dom      *domain
	home     string // what relative paths are under
	ended    error  // why the core ended the connection, or nil
	dirty    bool   // is in core.dirty
	readOnly bool   // it may change nothing but its own watches
	stale    bool   // the peer asks for a reset: what it said and was to hear before that is to be forgotten
	watches  []*watch
	txs      []*transaction
	nextTx   uint32
	out      queue
	req      call // the request being handled
	tag      any  // the shell's
}

func (c *conn) privileged() bool { return c.dom.id == dom0 }

// newCore returns a store with the nodes that the C server begins with.
func newCore(q Quota, maxQueued int) *core {
	c := &core{quota: q.resolve(), maxQueued: maxQueued, domains: map[hypercall.DomID]*domain{}, watches: map[string][]*watch{}}
	c.domain(dom0).introduced = true
	own := []xenstore.Perm{{Dom: dom0}}
	for _, n := range []*node{
		{path: "/", children: "tool\x00", perms: own},
		{path: "/tool", children: "xenstored\x00", perms: own},
		{path: "/tool/xenstored", perms: own},
		{path: xenstore.IntroduceDomain, perms: own},
		{path: xenstore.ReleaseDomain, perms: own},
	} {
		n.hash = hashPath(n.path)
		c.store(nil, n)
	}
	return c
}

// domain returns the record of a domain, a new one if there is none.
func (c *core) domain(id hypercall.DomID) *domain {
	d := c.domains[id]
	if d == nil {
		d = &domain{id: id}
		c.domains[id] = d
	}
	return d
}

// forget drops the record of a domain that nothing refers to.
func (c *core) forget(d *domain) {
	if !d.introduced && !d.hasTarget && d.conns == 0 && d.nodes == 0 && c.domains[d.id] == d {
		delete(c.domains, d.id)
	}
}

// connect adds a connection of a domain.
func (c *core) connect(id hypercall.DomID, tag any) *conn {
	c.connSeq++
	d := c.domain(id)
	d.conns++
	cn := &conn{seq: c.connSeq, dom: d, home: xenstore.DomainPath(id), nextTx: 1, tag: tag}
	c.conns = append(c.conns, cn)
	return cn
}

// disconnect takes a connection out, with its watches, transactions and queued output. It may be called again.
func (c *core) disconnect(cn *conn) {
	i := slices.Index(c.conns, cn)
	if i < 0 {
		return
	}
	c.conns = slices.Delete(c.conns, i, i+1)
	c.reset(cn)
	c.discard(cn)
	cn.dom.conns--
	c.forget(cn.dom)
}

// end is disconnect by the core itself: the shell finds the connection among the dirty ones.
func (c *core) end(cn *conn, why error) {
	if cn.ended == nil {
		cn.ended = why
	}
	c.disconnect(cn)
	c.markDirty(cn)
}

// reset is RESET_WATCHES: watches and transactions go. It is harmless at any time and any number of times.
func (c *core) reset(cn *conn) {
	for _, w := range cn.watches {
		c.unindex(w)
	}
	cn.watches = nil
	for len(cn.txs) > 0 {
		c.dropTransaction(cn.txs[len(cn.txs)-1])
	}
}

func (c *core) markDirty(cn *conn) {
	if !cn.dirty {
		cn.dirty = true
		c.dirty = append(c.dirty, cn)
	}
}

// store puts a version of a node into the live tree, in place of old (nil if there was none), and accounts for it.
func (c *core) store(old, n *node) {
	c.gen++
	n.gen = c.gen
	if old != nil {
		c.account(old, -1)
	}
	c.account(n, 1)
	c.live = c.live.put(n)
}

// erase takes a node out of the live tree.
func (c *core) erase(old *node) {
	c.gen++
	c.account(old, -1)
	c.live = c.live.remove(old.path)
}

// tell tells the host what has changed since before, if anything has.
func (c *core) tell(dom hypercall.DomID, t xenstore.MsgType, before tree) {
	if c.changedBy != nil && c.live.root != before.root {
		c.changedBy(Change{Dom: dom, Type: t, Before: Snapshot{before}, After: Snapshot{c.live}})
	}
}

// account adds a node to what its owner uses, or takes it off.
func (c *core) account(n *node, sign int) {
	d := c.domain(n.owner())
	d.nodes += sign
	d.memory += sign * n.memory()
	if sign < 0 {
		c.forget(d)
	}
}

// overMemory reports whether d may not use more bytes.
func (c *core) overMemory(d *domain, more int) bool {
	return d.id != dom0 && more > 0 && d.memory+more >= c.quota.Memory
}

// payer returns who is charged for a version of a node: its owner; until commit, the domain of the transaction.
func (c *core) payer(cn *conn, tx *transaction, n *node) *domain {
	if tx != nil {
		return cn.dom
	}
	if d := c.domains[n.owner()]; d != nil {
		return d
	}
	return &domain{id: n.owner()} // of which nothing is known yet
}

// allowed returns what the connection may do with a node of these permissions.
func (cn *conn) allowed(perms []xenstore.Perm) access {
	if cn.privileged() || cn.is(perms[0].Dom) {
		return canRead | canWrite | owns
	}
	for _, p := range perms[1:] {
		if cn.is(p.Dom) {
			return access(p.Access)
		}
	}
	return access(perms[0].Access)
}

// is reports whether the connection acts for dom.
func (cn *conn) is(dom hypercall.DomID) bool {
	return cn.dom.id == dom || cn.dom.hasTarget && cn.dom.target == dom
}

// access is a set of rights to a node; the first two bits are those of [xenstore.PermAccess].
type access uint8

const (
	canRead  = access(xenstore.AccessRead)
	canWrite = access(xenstore.AccessWrite)
	owns     = access(4)
)
