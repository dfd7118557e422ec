package xenstored

import "github.com/hvkit/hvkit/xen/xenstore"

// Bounds of how much the writes of one domain may make transactions of domain 0 fail. One that wrote without pause could keep a toolstack
// from ever committing. The C server slows down every writer while others have transactions; here, as in oxenstored, only those pay
// whose writes did make one fail: eight times the time that the transaction took, so that a later attempt goes through while they are
// made to wait. One conflict charges one of them, and all recover as time goes by, so the factor bounds how many can take turns.
// Transactions of guests charge nobody, or a guest could have another one stopped by transactions that are meant to fail.
const (
	conflictFactor    = 8     // how much of a transaction's time a conflict costs
	conflictAllowance = 250e6 // nanoseconds of debt that a domain is not made to wait for
	conflictLeast     = 50e6  // nanoseconds that a conflict costs at least
	conflictMost      = 1e9   // and at most
	conflictMaxDebt   = 2e9   // nanoseconds that a domain is made to wait at most, whatever the debt
)

// credit says when the conflicts of a domain are all forgiven.
type credit struct {
	until int64 // nanoseconds on core.now's clock
}

// conflict notes that a transaction failed because a path is not what it was, and charges who changed it.
func (c *core) conflict(tx *transaction, path string, now *node) {
	c.stats.Conflicts++
	if !tx.cn.privileged() {
		return
	}
	if now == nil {
		if now = c.live.get(xenstore.Parent(path)); now == nil {
			return
		}
	}
	d := c.domains[now.writer]
	if d == nil || d.id == dom0 {
		return
	}
	price := min(max(conflictFactor*(c.now-tx.started), conflictLeast), conflictMost)
	d.credit.until = min(max(d.credit.until, c.now)+price, c.now+conflictAllowance+conflictMaxDebt)
}

// pausedUntil returns the time before which no more requests of the connection are to be handled, 0 if there is no reason to wait.
func (c *core) pausedUntil(cn *conn) int64 {
	if t := cn.dom.credit.until - conflictAllowance; cn.dom.id != dom0 && t > c.now {
		return t
	}
	return 0
}

// full reports whether the connection must first take what was sent to it, or others what its requests caused. A domain whose nodes alone
// are more than its quota, as others can make them that may write them, is listened to: it may want to remove some.
func (c *core) full(cn *conn) bool {
	if cn.privileged() {
		return len(cn.out.buf) > keepBytes
	}
	return cn.dom.outstanding >= c.quota.Outstanding || cn.dom.queued > 0 && cn.dom.memory >= c.quota.Memory
}
