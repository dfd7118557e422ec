package xenstored

import (
	"slices"
	"strings"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// watch is one watch of a connection.
type watch struct {
	seq    uint64
	cn     *conn
	path   string // canonical
	token  string
	prefix int // bytes to cut off paths of events, for a relative watch
}

// match says which watches a change concerns.
type match uint8

const (
	matchNone    match = iota
	matchExact         // those on the very path
	matchSubtree       // also those on the nodes above it
)

// change is what happened to a node, for the question who may know of it.
type change struct {
	path             string
	old, new         *node // nil where the node did not, or does not, exist
	treeOld, treeNew tree
}

// watch registers a watch. Its first event follows the reply.
func (c *core) watch(cn *conn, req *call) error {
	args, ok := req.strings(2)
	if !ok {
		return xenstore.EINVAL
	}
	path, token := args[0], args[1]
	canonical, err := c.canonical(cn, []byte(path), true)
	if err != nil {
		return err
	}
	for _, w := range c.watches[canonical] {
		if w.cn == cn && w.token == token {
			return xenstore.EEXIST
		}
	}
	if !cn.privileged() && cn.dom.watches > c.quota.Watches {
		return xenstore.E2BIG
	}
	cost := len(canonical) + len(token)
	if c.overMemory(cn.dom, cost) {
		return xenstore.ENOMEM
	}
	c.watchSeq++
	w := &watch{seq: c.watchSeq, cn: cn, path: canonical, token: token}
	if path[0] != '/' && path[0] != '@' {
		w.prefix = len(cn.home) + 1
	}
	c.watches[canonical] = append(c.watches[canonical], w)
	cn.watches = append(cn.watches, w)
	cn.dom.watches++
	cn.dom.memory += cost
	c.nwatches++
	c.ack(cn, req)
	c.event(cn, nil, w.path[w.prefix:], token)
	return nil
}

// unwatchRequest handles UNWATCH.
func (c *core) unwatchRequest(cn *conn, req *call) error {
	args, ok := req.strings(2)
	if !ok {
		return xenstore.EINVAL
	}
	path, err := c.canonical(cn, []byte(args[0]), true)
	if err != nil {
		return err
	}
	for _, w := range c.watches[path] {
		if w.cn == cn && w.token == args[1] {
			c.unwatch(w)
			c.ack(cn, req)
			return nil
		}
	}
	return xenstore.ENOENT
}

// unwatch removes a watch from all that knows it.
func (c *core) unwatch(w *watch) {
	c.unindex(w)
	i := slices.Index(w.cn.watches, w)
	w.cn.watches = slices.Delete(w.cn.watches, i, i+1)
}

// unindex takes a watch out of all but its connection's list.
func (c *core) unindex(w *watch) {
	at := c.watches[w.path]
	i := slices.Index(at, w)
	if at = slices.Delete(at, i, i+1); len(at) == 0 {
		delete(c.watches, w.path)
	} else {
		c.watches[w.path] = at
	}
	w.cn.dom.watches--
	w.cn.dom.memory -= len(w.path) + len(w.token)
	c.nwatches--
}

// fire sends the events of a change: connections in the order in which they came, watches of each in the order of registration.
func (c *core) fire(req *call, m match, ch change) {
	if c.nwatches == 0 {
		return
	}
	fired := append(c.fired[:0], c.watches[ch.path]...)
	if m == matchSubtree && ch.path[0] == '/' {
		for i := strings.LastIndexByte(ch.path, '/'); i > 0; i = strings.LastIndexByte(ch.path[:i], '/') {
			fired = append(fired, c.watches[ch.path[:i]]...)
		}
		if ch.path != "/" {
			fired = append(fired, c.watches["/"]...)
		}
	}
	slices.SortFunc(fired, func(a, b *watch) int {
		if a.cn != b.cn {
			return compare(a.cn.seq, b.cn.seq)
		}
		return compare(a.seq, b.seq)
	})
	var last *conn
	permitted := false
	for _, w := range fired {
		if w.cn != last {
			last, permitted = w.cn, ch.visible(w.cn)
		}
		// A relative watch on an ancestor is always at or under the home, so the prefix is there to cut.
		if permitted {
			c.event(w.cn, req, ch.path[w.prefix:], w.token)
		}
	}
	clear(fired)
	c.fired = fired[:0]
}

func compare(a, b uint64) int {
	if a < b {
		return -1
	}
	return 1
}

// visible reports whether a connection may know of the change: it may read the node as it was or is, or the node above. For
// @introduceDomain and @releaseDomain only their own permissions count.
func (ch *change) visible(cn *conn) bool {
	if cn.privileged() ||
		ch.old != nil && cn.allowed(ch.old.perms)&canRead != 0 ||
		ch.new != nil && cn.allowed(ch.new.perms)&canRead != 0 {
		return true
	}
	if ch.path[0] == '@' {
		return false
	}
	path := xenstore.Parent(ch.path)
	parent := ch.treeNew.get(path)
	if parent == nil {
		parent = ch.treeOld.get(path)
	}
	return parent != nil && cn.allowed(parent.perms)&canRead != 0
}
