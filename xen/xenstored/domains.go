package xenstored

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// ErrReleased is why the server ended the connections of a domain that was released.
var ErrReleased = errors.New("xenstored: the domain was released")

// firstReserved is the first domain id that names no domain of its own (DOMID_FIRST_RESERVED), self the one that means the caller
// (DOMID_SELF), both of public/xen.h.
const (
	firstReserved hypercall.DomID = 0x7ff0
	self          hypercall.DomID = 0x7ff0
)

// introduction is an INTRODUCE that waits for the shell to make the domain's connection. It travels as an error because it stands where
// a failure would.
type introduction struct {
	cn   *conn
	req  *call
	dom  hypercall.DomID
	gfn  hypercall.GFN
	port hypercall.Port

	released bool // the domain was released meanwhile
}

func (*introduction) Error() string { return "xenstored: introduction pending" }

func (c *core) introduceRequest(cn *conn, req *call) error {
	args, err := xenstore.SplitStrings(req.payload)
	if err != nil || len(args) < 3 {
		return xenstore.EINVAL
	}
	dom, err := xenstore.ParseDomID(args[0])
	if err != nil || dom >= firstReserved {
		return xenstore.EINVAL
	}
	gfn, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return xenstore.EINVAL
	}
	port, err := xenstore.ParseUint32(args[2])
	if err != nil || port == 0 || port > 1<<31-1 {
		return xenstore.EINVAL
	}
	if c.introducer && dom != dom0 {
		p := &introduction{cn: cn, req: req, dom: dom, gfn: hypercall.GFN(gfn), port: hypercall.Port(port)}
		c.introductions = append(c.introductions, p)
		return p
	}
	c.introduceOrReset(dom)
	c.ack(cn, req)
	return nil
}

// introduced ends an introduction: the shell has made the connection, or could not. Of a domain that was released meanwhile nothing
// remains, as if it had been released right after, and the client is answered ENOENT.
func (c *core) introduced(p *introduction, err error) {
	i := slices.Index(c.introductions, p)
	c.introductions = slices.Delete(c.introductions, i, i+1)
	switch {
	case p.released:
		c.fail(p.cn, p.req, xenstore.ENOENT)
		return
	case err != nil:
		e := xenstore.EINVAL
		errors.As(err, &e)
		c.fail(p.cn, p.req, e)
		return
	}
	c.introduceOrReset(p.dom)
	c.ack(p.cn, p.req)
}

// introduceOrReset makes a domain known. For one that is known already, its connections begin anew: their watches and transactions go.
func (c *core) introduceOrReset(id hypercall.DomID) {
	if c.introduce(id) {
		return
	}
	if id == dom0 {
		return // sockets are many connections, of which none is the domain's own
	}
	for _, cn := range c.conns {
		if cn.dom.id == id {
			c.reset(cn)
		}
	}
}

// introduce makes a domain known, and reports whether it was not before.
func (c *core) introduce(id hypercall.DomID) bool {
	d := c.domain(id)
	if d.introduced {
		return false
	}
	d.introduced, d.shutdown = true, false
	c.fireSpecial(xenstore.IntroduceDomain)
	return true
}

func (c *core) fireSpecial(path string) {
	c.fire(nil, matchExact, change{path: path, new: c.live.get(path), treeOld: c.live, treeNew: c.live})
}

// knownDomain parses the only string of a request as a domain that is introduced and not domain 0.
func (c *core) knownDomain(req *call) (*domain, error) {
	arg, ok := req.one()
	if !ok {
		return nil, xenstore.EINVAL
	}
	id, err := xenstore.ParseDomID(string(arg))
	if err != nil || id == dom0 {
		return nil, xenstore.EINVAL
	}
	d := c.domains[id]
	if d == nil || !d.introduced {
		return nil, xenstore.ENOENT
	}
	return d, nil
}

func (c *core) releaseRequest(cn *conn, req *call) error {
	d, err := c.knownDomain(req)
	if err != nil {
		return err
	}
	c.releaseDomain(d.id)
	c.ack(cn, req)
	return nil
}

func (c *core) resume(cn *conn, req *call) error {
	d, err := c.knownDomain(req)
	if err != nil {
		return err
	}
	d.shutdown = false
	c.ack(cn, req)
	return nil
}

// shutdown tells watchers of @releaseDomain that a domain has shut down, once until it is resumed.
func (c *core) shutdown(id hypercall.DomID) {
	d := c.domains[id]
	if d == nil || !d.introduced || d.shutdown {
		return
	}
	d.shutdown = true
	c.fireSpecial(xenstore.ReleaseDomain)
}

func (c *core) setTarget(cn *conn, req *call) error {
	args, err := xenstore.SplitStrings(req.payload)
	if err != nil || len(args) < 2 {
		return xenstore.EINVAL
	}
	var d [2]*domain
	for i := range d {
		id, err := xenstore.ParseDomID(args[i])
		if err != nil {
			return err
		}
		if d[i] = c.domains[id]; d[i] == nil || !d[i].introduced {
			return xenstore.ENOENT
		}
	}
	d[0].hasTarget, d[0].target = true, d[1].id
	c.ack(cn, req)
	return nil
}

func (c *core) domainPath(cn *conn, req *call) error {
	arg, ok := req.one()
	if !ok {
		return xenstore.EINVAL
	}
	id, err := xenstore.ParseDomID(string(arg))
	if err != nil {
		return err
	}
	c.reply(cn, req, xenstore.MsgGetDomainPath, xenstore.DomainPath(id), "\x00")
	return nil
}

func (c *core) isIntroduced(cn *conn, req *call) error {
	arg, ok := req.one()
	if !ok {
		return xenstore.EINVAL
	}
	id, err := xenstore.ParseDomID(string(arg))
	if err != nil {
		return err
	}
	answer := "F\x00"
	if d := c.domains[id]; id == self || d != nil && d.introduced {
		answer = "T\x00"
	}
	c.reply(cn, req, xenstore.MsgIsIntroduced, answer)
	return nil
}

func (c *core) resetWatches(cn *conn, req *call) error {
	c.reset(cn) // the transaction that the request may name goes too
	c.ack(cn, req)
	return nil
}

// control answers the few commands that make sense for a library: help, and quota with or without a domain.
func (c *core) control(cn *conn, req *call) error {
	args, err := xenstore.SplitStrings(req.payload)
	if err != nil || len(args) == 0 {
		return xenstore.EINVAL
	}
	switch {
	case args[0] == "help":
		c.reply(cn, req, xenstore.MsgControl, "Commands known:\nhelp\nquota [<domid>]\n\x00")
	case args[0] == "quota" && len(args) == 1:
		c.reply(cn, req, xenstore.MsgControl, c.quota.report(), "\x00")
	case args[0] == "quota" && len(args) == 2:
		id, err := xenstore.ParseDomID(args[1])
		if err != nil {
			return err
		}
		d := c.domains[id]
		if d == nil {
			return xenstore.ENOENT
		}
		c.reply(cn, req, xenstore.MsgControl, d.report(), "\x00")
	default:
		return xenstore.EINVAL
	}
	return nil
}

func (d *domain) report() string {
	var b strings.Builder
	b.WriteString("Domain " + strconv.Itoa(int(d.id)) + ":\n")
	for _, v := range []struct {
		name string
		n    int
	}{{"nodes", d.nodes}, {"memory", d.memory}, {"watches", d.watches}, {"transactions", d.txs}, {"outstanding", d.outstanding}} {
		b.WriteString(v.name + ": " + strconv.Itoa(v.n) + "\n")
	}
	return b.String()
}

// releaseDomain removes all that there is of a domain, so that another one of the same id inherits nothing: its connections with their
// watches and transactions, the nodes it owns with all under them, its entries in the permissions of other nodes, in the tree and in
// transactions that are under way. It may be called for any domain, known or not, any number of times.
func (c *core) releaseDomain(id hypercall.DomID) {
	if id == dom0 {
		return
	}
	for _, p := range c.introductions {
		p.released = p.released || p.dom == id
	}
	for _, cn := range slices.Clone(c.conns) {
		if cn.dom.id == id {
			c.end(cn, ErrReleased)
		}
	}
	c.scrub(id)
	for _, cn := range c.conns {
		for _, tx := range cn.txs {
			tx.lost = tx.lost || tx.mentions(id)
		}
	}
	for _, d := range c.domains { // each on its own, so the order does not matter
		if d.hasTarget && d.target == id {
			d.hasTarget = false
			c.forget(d)
		}
	}
	d := c.domains[id]
	if d == nil {
		return
	}
	was := d.introduced
	d.introduced, d.hasTarget, d.credit = false, false, credit{}
	c.forget(d)
	if was {
		c.fireSpecial(xenstore.ReleaseDomain)
	}
}

// mentions reports whether a change of the transaction would bring a domain into the permissions of a node.
func (tx *transaction) mentions(id hypercall.DomID) bool {
	for _, t := range tx.order {
		if t.changed && t.cur != nil && t.cur.mentions(id) {
			return true
		}
	}
	return false
}

// scrub removes a domain from the tree. Versions that change are new versions to transactions, which therefore do not bring the old
// ones back.
func (c *core) scrub(id hypercall.DomID) {
	by := &conn{dom: c.domain(dom0)}
	before := c.live
	nodes, _ := subtree("/", func(path string) (*node, error) { return before.get(path), nil })
	for _, path := range []string{xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		nodes = append(nodes, before.get(path))
	}
	for _, n := range nodes {
		if !n.mentions(id) {
			continue
		}
		now := c.live.get(n.path)
		switch {
		case now == nil: // went with a node above
		case now.owner() == id && now.path != "/" && now.path[0] != '@':
			_ = c.removeSubtree(by, &call{}, now) // only quotas of transactions make it fail
		default:
			v := now.version(by)
			v.perms = withoutDomain(now.perms, id)
			c.store(now, v)
		}
	}
}

// withoutDomain returns permissions without those of a domain. What it owned belongs to domain 0.
func withoutDomain(perms []xenstore.Perm, id hypercall.DomID) []xenstore.Perm {
	out := []xenstore.Perm{perms[0]}
	if out[0].Dom == id {
		out[0] = xenstore.Perm{Dom: dom0}
	}
	for _, p := range perms[1:] {
		if p.Dom != id {
			out = append(out, p)
		}
	}
	return out
}
