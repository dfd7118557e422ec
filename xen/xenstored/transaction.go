package xenstored

import (
	"slices"
	"strconv"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// transaction is a snapshot of the tree with changes of its own on top.
//
// The C server has no snapshots: it reads each node from the live store when the transaction first touches it, and commits if every
// touched node is then still the version that was read. To commit exactly when it does, and yet never to show a transaction two nodes
// that were not there together, the snapshot moves: when a node is touched first that has changed since, and nothing that was touched
// before has, then the snapshot becomes the present tree, in which all that the transaction has seen is the same. If something has
// changed, the transaction is lost anyway, and keeps its old view.
type transaction struct {
	id      uint32
	cn      *conn
	base    tree
	touched map[string]*touch
	order   []*touch    // in order of first touch: the order of events at commit
	delta   []nodeDelta // what the changes add to the counts of nodes
	memory  int         // bytes counted against the domain of cn
	created bool        // at least one node was created: the quota of nodes is looked at again at commit
	failed  bool        // an operation failed half way: commit answers ENOMEM
	started int64       // on core.now's clock
	lost    bool        // a domain that the changes mention has gone: commit answers EAGAIN
}

// touch is a node that a transaction has read or changed. Everything that is changed has been read first, if only to look at its
// permissions, so all touched nodes take part in the decision at commit.
type touch struct {
	path    string
	orig    *node // as the snapshot has it, nil if it does not exist
	cur     *node // as the transaction sees it
	changed bool
	fire    match
}

type nodeDelta struct {
	dom hypercall.DomID
	n   int
}

// touchBytes is what a touched node costs in the quota of memory, beside its path.
const touchBytes = 96

// startTransaction handles TRANSACTION_START.
func (c *core) startTransaction(cn *conn, req *call) error {
	if req.tx != nil {
		return xenstore.EBUSY
	}
	if !cn.privileged() && cn.dom.txs > c.quota.Transactions {
		return xenstore.ENOSPC
	}
	for cn.nextTx == 0 || cn.transaction(cn.nextTx) != nil {
		cn.nextTx++
	}
	tx := &transaction{id: cn.nextTx, cn: cn, base: c.live, started: c.now, touched: map[string]*touch{}}
	cn.nextTx++
	cn.txs = append(cn.txs, tx)
	cn.dom.txs++
	c.ntxs++
	c.reply(cn, req, xenstore.MsgTransactionStart, strconv.FormatUint(uint64(tx.id), 10), "\x00")
	return nil
}

func (cn *conn) transaction(id uint32) *transaction {
	for _, tx := range cn.txs {
		if tx.id == id {
			return tx
		}
	}
	return nil
}

// endTransaction handles TRANSACTION_END. A malformed one leaves the transaction alive; every other ends it, whatever the answer.
func (c *core) endTransaction(cn *conn, req *call) error {
	arg, ok := req.one()
	if !ok || string(arg) != "T" && string(arg) != "F" {
		return xenstore.EINVAL
	}
	tx := req.tx
	if tx == nil {
		return xenstore.ENOENT
	}
	c.dropTransaction(tx)
	if string(arg) == "T" {
		if err := c.commit(tx, req); err != nil {
			return err
		}
	}
	c.ack(cn, req)
	return nil
}

// dropTransaction takes a transaction off its connection's list.
func (c *core) dropTransaction(tx *transaction) {
	i := slices.Index(tx.cn.txs, tx)
	tx.cn.txs = slices.Delete(tx.cn.txs, i, i+1)
	tx.cn.dom.txs--
	tx.cn.dom.memory -= tx.memory
	c.ntxs--
}

// commit makes the changes of a transaction, all or none.
func (c *core) commit(tx *transaction, req *call) error {
	if tx.failed {
		return xenstore.ENOMEM
	}
	if tx.created && !tx.cn.privileged() {
		for _, d := range tx.delta {
			if d.dom != dom0 && c.nodesOf(d.dom)+d.n >= c.quota.Nodes {
				return xenstore.ENOSPC
			}
		}
	}
	if tx.lost {
		c.stats.Conflicts++
		return xenstore.EAGAIN
	}
	for _, t := range tx.order {
		if now := c.live.get(t.path); now != t.orig {
			c.conflict(tx, t.path, now)
			return xenstore.EAGAIN
		}
	}
	c.stats.Commits++
	before := c.live
	for _, t := range tx.order {
		switch {
		case !t.changed || t.cur == nil && t.orig == nil:
		case t.cur == nil:
			c.erase(t.orig)
		default:
			c.store(t.orig, t.cur)
		}
	}
	for _, t := range tx.order {
		if t.fire != matchNone && (t.orig != nil || t.cur != nil) { // what came and went was never there
			c.fire(req, t.fire, change{t.path, t.orig, t.cur, before, c.live})
		}
	}
	return nil
}

func (c *core) nodesOf(id hypercall.DomID) int {
	if d := c.domains[id]; d != nil {
		return d.nodes
	}
	return 0
}

// touch returns what the transaction knows of a path, after reading it from the snapshot the first time.
func (c *core) touch(tx *transaction, path string) (*touch, error) {
	if t := tx.touched[path]; t != nil {
		return t, nil
	}
	if !tx.cn.privileged() && len(tx.order) >= c.quota.TransactionNodes {
		tx.failed = true
		return nil, xenstore.ENOSPC
	}
	cost := len(path) + touchBytes
	if c.overMemory(tx.cn.dom, cost) {
		tx.failed = true
		return nil, xenstore.ENOMEM
	}
	tx.charge(cost)
	n := tx.base.get(path)
	if tx.base.root != c.live.root {
		if now := c.live.get(path); now != n && tx.unchanged(c.live) {
			tx.base, n = c.live, now
		}
	}
	t := &touch{path: path, orig: n, cur: n}
	tx.touched[path] = t
	tx.order = append(tx.order, t)
	return t, nil
}

// unchanged reports whether all that was touched is the same in another tree.
func (tx *transaction) unchanged(in tree) bool {
	for _, t := range tx.order {
		if in.get(t.path) != t.orig {
			return false
		}
	}
	return true
}

// change puts another version, or nil, in place of a touched node.
func (tx *transaction) change(t *touch, n *node) {
	if t.cur != nil {
		tx.count(t.cur.owner(), -1)
		if t.cur != t.orig {
			tx.charge(-t.cur.memory())
		}
	}
	if n != nil {
		tx.count(n.owner(), 1)
		tx.charge(n.memory())
	}
	t.cur, t.changed = n, true
}

func (tx *transaction) charge(bytes int) {
	tx.memory += bytes
	tx.cn.dom.memory += bytes
}

func (tx *transaction) count(dom hypercall.DomID, n int) {
	for i := range tx.delta {
		if tx.delta[i].dom == dom {
			tx.delta[i].n += n
			return
		}
	}
	tx.delta = append(tx.delta, nodeDelta{dom, n})
}
