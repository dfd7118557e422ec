package xenstored

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// call is a request being handled.
type call struct {
	hdr     xenstore.Header
	payload []byte
	tx      *transaction
	cause   *request // nil for privileged connections, whose requests are not counted
}

// one returns the only string of the payload, which ends in the only NUL.
func (r *call) one() ([]byte, bool) {
	i := bytes.IndexByte(r.payload, 0)
	if i < 0 || i != len(r.payload)-1 {
		return nil, false
	}
	return r.payload[:i], true
}

// strings returns the strings of a payload that has exactly n. What follows the last NUL is ignored, as by the C server.
func (r *call) strings(n int) ([]string, bool) {
	if bytes.Count(r.payload, nul) != n {
		return nil, false
	}
	return strings.SplitN(string(r.payload), "\x00", n+1)[:n], true
}

var nul = []byte{0}

// operation is how one type of message is handled.
type operation struct {
	do         func(c *core, cn *conn, req *call) error
	privileged bool // only for domain 0
	anyTx      bool // the transaction id is ignored
	changes    bool // not for connections that only read
}

// operations is indexed by message type. What is not here answers ENOSYS.
var operations [xenstore.MsgSetQuota + 1]operation

func init() {
	for t, op := range map[xenstore.MsgType]operation{
		xenstore.MsgControl:          {do: (*core).control, privileged: true, changes: true},
		xenstore.MsgDirectory:        {do: (*core).directory},
		xenstore.MsgDirectoryPart:    {do: (*core).directoryPart},
		xenstore.MsgRead:             {do: (*core).readValue},
		xenstore.MsgGetPerms:         {do: (*core).getPerms},
		xenstore.MsgWatch:            {do: (*core).watch, anyTx: true},
		xenstore.MsgUnwatch:          {do: (*core).unwatchRequest, anyTx: true},
		xenstore.MsgTransactionStart: {do: (*core).startTransaction},
		xenstore.MsgTransactionEnd:   {do: (*core).endTransaction},
		xenstore.MsgIntroduce:        {do: (*core).introduceRequest, privileged: true, changes: true},
		xenstore.MsgRelease:          {do: (*core).releaseRequest, privileged: true, changes: true},
		xenstore.MsgGetDomainPath:    {do: (*core).domainPath},
		xenstore.MsgWrite:            {do: (*core).write, changes: true},
		xenstore.MsgMkdir:            {do: (*core).mkdir, changes: true},
		xenstore.MsgRemove:           {do: (*core).removeRequest, changes: true},
		xenstore.MsgSetPerms:         {do: (*core).setPerms, changes: true},
		xenstore.MsgIsIntroduced:     {do: (*core).isIntroduced, privileged: true},
		xenstore.MsgResume:           {do: (*core).resume, privileged: true, changes: true},
		xenstore.MsgSetTarget:        {do: (*core).setTarget, privileged: true, changes: true},
		xenstore.MsgResetWatches:     {do: (*core).resetWatches},
	} {
		operations[t] = op
	}
}

// handle answers one request: its reply, and the events that it causes, are in the queues of their connections afterwards.
func (c *core) handle(cn *conn, hdr xenstore.Header, payload []byte) error {
	if cn.ended != nil {
		return cn.ended
	}
	c.stats.Requests++
	req := &cn.req
	*req = call{hdr: hdr, payload: payload}
	if !cn.privileged() {
		req.cause = &request{dom: cn.dom, refs: 1}
		cn.dom.outstanding++
		defer req.cause.done()
	}
	before := c.live
	err := c.dispatch(cn, req)
	c.tell(cn.dom.id, hdr.Type, before)
	if err != nil {
		if pending, ok := err.(*introduction); ok {
			return pending
		}
		c.fail(cn, req, errnoOf(err))
	}
	return nil
}

// errnoOf returns the name under which an error goes over the wire.
func errnoOf(err error) xenstore.Errno {
	if e, ok := err.(xenstore.Errno); ok {
		return e
	}
	return xenstore.EINVAL
}

func (c *core) dispatch(cn *conn, req *call) error {
	if req.hdr.Type >= xenstore.MsgType(len(operations)) || operations[req.hdr.Type].do == nil {
		return xenstore.ENOSYS
	}
	op := &operations[req.hdr.Type]
	if op.privileged && !cn.privileged() {
		return xenstore.EACCES
	}
	if op.changes && cn.readOnly {
		return xenstore.EROFS
	}
	if !op.anyTx && req.hdr.TxID != 0 {
		if req.tx = cn.transaction(req.hdr.TxID); req.tx == nil {
			return xenstore.ENOENT
		}
	}
	return op.do(c, cn, req)
}

func (c *core) ack(cn *conn, req *call) { c.reply(cn, req, req.hdr.Type, "OK\x00") }

// canonical returns the absolute form of a path as the connection means it, or EINVAL. special says that @introduceDomain and the like
// are allowed. For a path of a node that exists it does not allocate.
func (c *core) canonical(cn *conn, path []byte, special bool) (string, error) {
	if len(path) == 0 || path[0] == '@' && !special {
		return "", xenstore.EINVAL
	}
	for i := range path {
		if !xenstore.IsPathByte(path[i]) || path[i] == '/' && i+1 < len(path) && path[i+1] == '/' {
			return "", xenstore.EINVAL
		}
	}
	if path[len(path)-1] == '/' && len(path) > 1 {
		return "", xenstore.EINVAL
	}
	if path[0] != '/' && path[0] != '@' {
		c.path = append(append(append(c.path[:0], cn.home...), '/'), path...)
		path = c.path
	}
	if len(path) > xenstore.MaxAbsPath || len(path)-homePrefix(path) > c.quota.PathLength {
		return "", xenstore.EINVAL
	}
	return c.live.intern(path), nil
}

var domains = []byte("/local/domain/")

// homePrefix returns the length of "/local/domain/<domid>/" at the beginning of a path, 0 if it does not begin so. It does not count
// against the limit of paths, so that a path that fits as a relative one fits as an absolute one.
func homePrefix(path []byte) int {
	rest, ok := bytes.CutPrefix(path, domains)
	if !ok {
		return 0
	}
	i := 0
	for i < len(rest) && i < 5 && rest[i] >= '0' && rest[i] <= '9' {
		i++
	}
	if i == 0 || i == len(rest) || rest[i] != '/' {
		return 0
	}
	return len(path) - len(rest) + i + 1
}

// read returns the node at a canonical path as the transaction, or the live store, has it; nil if there is none. An error says that a
// quota of the transaction is used up.
func (c *core) read(tx *transaction, path string) (*node, error) {
	if tx == nil {
		return c.live.get(path), nil
	}
	t, err := c.touch(tx, path)
	if err != nil {
		return nil, err
	}
	return t.cur, nil
}

// node returns the node at a canonical path if the connection has all the rights of need to it. If not, it says ENOENT only to those
// who have some of these rights to the nearest node above, and EACCES to others: names are not to be guessed by their errors.
func (c *core) node(cn *conn, tx *transaction, path string, need access) (*node, error) {
	n, err := c.read(tx, path)
	if err != nil {
		return nil, err
	}
	why := xenstore.ENOENT
	if n != nil {
		if cn.allowed(n.perms)&need == need {
			return n, nil
		}
		why = xenstore.EACCES
	}
	for above := path; ; {
		above = xenstore.Parent(above)
		p, err := c.read(tx, above)
		if err != nil {
			return nil, err
		}
		if p != nil && cn.allowed(p.perms)&need != 0 {
			return nil, why
		}
		if p != nil || above == "/" {
			return nil, xenstore.EACCES
		}
	}
}

// argNode resolves the only string of a request as a path of a node to which the connection has the rights.
func (c *core) argNode(cn *conn, req *call, need access, special bool) (*node, string, error) {
	arg, ok := req.one()
	if !ok {
		return nil, "", xenstore.EINVAL
	}
	path, err := c.canonical(cn, arg, special)
	if err != nil {
		return nil, "", err
	}
	n, err := c.node(cn, req.tx, path, need)
	return n, path, err
}

func (c *core) readValue(cn *conn, req *call) error {
	n, _, err := c.argNode(cn, req, canRead, false)
	if err != nil {
		return err
	}
	c.reply(cn, req, xenstore.MsgRead, n.data)
	return nil
}

func (c *core) directory(cn *conn, req *call) error {
	n, _, err := c.argNode(cn, req, canRead, false)
	if err != nil {
		return err
	}
	c.reply(cn, req, xenstore.MsgDirectory, n.children)
	return nil
}

// directoryPart answers the node's generation and whole names from an offset on, as many as fit, and one more NUL if they are the last.
func (c *core) directoryPart(cn *conn, req *call) error {
	args, ok := req.strings(2)
	if !ok {
		return xenstore.EINVAL
	}
	path, err := c.canonical(cn, []byte(args[0]), false)
	if err != nil {
		return err
	}
	off, err := xenstore.ParseUint32(args[1])
	if err != nil {
		return err
	}
	n, err := c.node(cn, req.tx, path, canRead)
	if err != nil {
		return err
	}
	gen := strconv.FormatUint(n.gen, 10) + "\x00"
	if uint64(off) >= uint64(len(n.children)) {
		c.reply(cn, req, xenstore.MsgDirectoryPart, gen, "\x00")
		return nil
	}
	rest := n.children[off:]
	room := xenstore.MaxPayload - len(gen) - 1
	size := len(rest)
	if size > room {
		size = strings.LastIndexByte(rest[:room], 0) + 1
	}
	end := ""
	if size == len(rest) {
		end = "\x00"
	}
	c.reply(cn, req, xenstore.MsgDirectoryPart, gen, rest[:size], end)
	return nil
}

func (c *core) getPerms(cn *conn, req *call) error {
	n, path, err := c.argNode(cn, req, canRead, true)
	if badSpecial(path) {
		return xenstore.EINVAL
	}
	if err != nil {
		return err
	}
	c.reply(cn, req, xenstore.MsgGetPerms, string(xenstore.AppendPerms(nil, n.perms)))
	return nil
}

// badSpecial reports whether a path begins with @ and is none that has permissions.
func badSpecial(path string) bool {
	return path != "" && path[0] == '@' && path != xenstore.IntroduceDomain && path != xenstore.ReleaseDomain
}

func (c *core) setPerms(cn *conn, req *call) error {
	args, err := xenstore.SplitStrings(req.payload)
	if err != nil || len(args) < 2 {
		return xenstore.EINVAL
	}
	if !cn.privileged() && len(args)-1 > c.quota.Permissions {
		return xenstore.ENOSPC
	}
	perms := make([]xenstore.Perm, len(args)-1)
	for i := range perms {
		if perms[i], err = xenstore.ParsePerm(args[i+1]); err != nil {
			return err
		}
	}
	path, err := c.canonical(cn, []byte(args[0]), true)
	if err != nil || badSpecial(path) {
		return xenstore.EINVAL
	}
	old, err := c.node(cn, req.tx, path, canWrite|owns)
	if err != nil {
		return err
	}
	if !cn.privileged() && perms[0].Dom != old.owner() {
		return xenstore.EPERM
	}
	n := old.version(cn)
	n.perms = perms
	if err := c.admit(cn, req.tx, old, n); err != nil {
		return err
	}
	before := c.live
	c.replace(req.tx, old, n)
	if path[0] != '@' {
		c.changed(req, matchSubtree, change{path, old, n, before, c.live})
	}
	c.ack(cn, req)
	return nil
}

// version returns a copy of a node for cn to change.
func (n *node) version(cn *conn) *node {
	v := *n
	v.writer = cn.dom.id
	return &v
}

// admit reports whether quotas allow one version of a node in place of another (nil: a new node). In a transaction a refusal makes the
// transaction fail.
func (c *core) admit(cn *conn, tx *transaction, old, n *node) error {
	err := c.admitted(cn, tx, old, n)
	if err != nil && tx != nil {
		tx.failed = true
	}
	return err
}

func (c *core) admitted(cn *conn, tx *transaction, old, n *node) error {
	if !cn.privileged() && n.size() >= c.quota.NodeSize {
		return xenstore.ENOSPC
	}
	more := n.memory()
	switch {
	case old == nil:
	case tx == nil && old.owner() == n.owner(), tx != nil && tx.touched[old.path].orig != old:
		more -= old.memory()
	}
	if c.overMemory(c.payer(cn, tx, n), more) {
		return xenstore.ENOMEM
	}
	return nil
}

// replace puts a version of a node in place of another (nil: none), in a transaction or in the live store. In a transaction the node has
// been read before.
func (c *core) replace(tx *transaction, old, n *node) {
	if tx == nil {
		c.store(old, n)
		return
	}
	c.gen++
	n.gen = c.gen
	tx.change(tx.touched[n.path], n)
}

// changed tells watchers of a change, or has the transaction tell them at commit.
func (c *core) changed(req *call, m match, ch change) {
	if req.tx == nil {
		c.fire(req, m, ch)
		return
	}
	t := req.tx.touched[ch.path]
	t.fire = max(t.fire, m)
}

func (c *core) write(cn *conn, req *call) error {
	i := bytes.IndexByte(req.payload, 0)
	if i < 0 {
		return xenstore.EINVAL
	}
	path, err := c.canonical(cn, req.payload[:i], false)
	if err != nil {
		return err
	}
	data := string(req.payload[i+1:])
	old, err := c.node(cn, req.tx, path, canWrite)
	before := c.live
	var n *node
	switch {
	case err == xenstore.ENOENT:
		if n, err = c.create(cn, req.tx, path, data); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		n = old.version(cn)
		n.data = data
		if err := c.admit(cn, req.tx, old, n); err != nil {
			return err
		}
		c.replace(req.tx, old, n)
	}
	c.changed(req, matchSubtree, change{path, old, n, before, c.live})
	c.ack(cn, req)
	return nil
}

func (c *core) mkdir(cn *conn, req *call) error {
	_, path, err := c.argNode(cn, req, canWrite, false)
	if err == xenstore.ENOENT {
		before := c.live
		n, err := c.create(cn, req.tx, path, "")
		if err != nil {
			return err
		}
		c.changed(req, matchSubtree, change{path, nil, n, before, c.live})
	} else if err != nil {
		return err
	}
	c.ack(cn, req)
	return nil
}

// create makes a node that does not exist, and those above it that do not. All or none of them come to be. New nodes have the
// permissions of the nearest node above, but belong to an unprivileged domain that makes them.
func (c *core) create(cn *conn, tx *transaction, path, data string) (*node, error) {
	missing := []string{path} // from the bottom up
	var above *node
	for p := path; ; {
		p = xenstore.Parent(p)
		n, err := c.read(tx, p)
		if err != nil {
			return nil, err
		}
		if n != nil {
			above = n
			break
		}
		missing = append(missing, p)
	}
	if tx != nil {
		tx.created = true
	}
	perms := above.perms
	if !cn.privileged() && perms[0].Dom != cn.dom.id {
		perms = append([]xenstore.Perm{{Dom: cn.dom.id, Access: perms[0].Access}}, perms[1:]...)
	}
	made := make([]node, len(missing))
	for i, p := range missing {
		made[i] = node{path: p, hash: hashPath(p), writer: cn.dom.id, perms: perms}
		if i > 0 {
			made[i].children = xenstore.Base(missing[i-1]) + "\x00"
		}
	}
	made[0].data = data
	grown := above.version(cn)
	grown.children = withChild(grown.children, xenstore.Base(missing[len(missing)-1]))
	if err := c.admitNew(cn, tx, made, above, grown); err != nil {
		return nil, err
	}
	for i := range made {
		c.replace(tx, nil, &made[i])
	}
	c.replace(tx, above, grown)
	return &made[0], nil
}

// admitNew reports whether quotas allow all the new nodes, and the node above them with one more child. The C server writes one after the
// other and, in a transaction, marks it as failed when it has to take back what it wrote; so it is with ours. In a transaction both look
// at the nodes that the domain has outside of it: the sum is looked at when it commits.
func (c *core) admitNew(cn *conn, tx *transaction, made []node, above, grown *node) error {
	if !cn.privileged() {
		more := len(made)
		if tx != nil {
			more = 1 // none of the transaction's counts before its commit
		}
		if cn.dom.nodes+more > c.quota.Nodes {
			return xenstore.ENOSPC
		}
	}
	sum := 0
	for i := range made {
		if err := c.admit(cn, tx, nil, &made[i]); err != nil {
			return err
		}
		sum += made[i].memory()
	}
	if c.overMemory(c.payer(cn, tx, &made[0]), sum) {
		if tx != nil {
			tx.failed = true
		}
		return xenstore.ENOMEM
	}
	return c.admit(cn, tx, above, grown)
}

func (c *core) removeRequest(cn *conn, req *call) error {
	n, path, err := c.argNode(cn, req, canWrite, false)
	if err == xenstore.ENOENT {
		parent, perr := c.read(req.tx, xenstore.Parent(path))
		if perr != nil || parent == nil {
			return err
		}
		c.ack(cn, req)
		return nil
	}
	if err != nil {
		return err
	}
	if path == "/" {
		return xenstore.EINVAL
	}
	if err := c.removeSubtree(cn, req, n); err != nil {
		return err
	}
	c.ack(cn, req)
	return nil
}

// removeSubtree removes a node with all under it, whoever owns them, as the right to write it allows. Watches at and above the node, and
// on each node below it, hear of it.
func (c *core) removeSubtree(cn *conn, req *call, top *node) error {
	parent, err := c.read(req.tx, xenstore.Parent(top.path))
	if err != nil {
		return err
	}
	nodes, err := subtree(top.path, func(path string) (*node, error) { return c.read(req.tx, path) })
	if err != nil {
		return err // the transaction is marked as failed
	}
	shrunk := parent.version(cn)
	shrunk.children = withoutChild(parent.children, xenstore.Base(top.path))
	before := c.live
	if req.tx == nil {
		nodes = postorder(nodes)
	}
	for _, n := range nodes {
		if req.tx == nil {
			c.erase(n)
		} else {
			req.tx.change(req.tx.touched[n.path], nil)
		}
	}
	c.replace(req.tx, parent, shrunk)
	for _, n := range nodes {
		m := matchExact
		if n == top {
			m = matchSubtree
		}
		c.changed(req, m, change{n.path, n, nil, before, c.live})
	}
	return nil
}
