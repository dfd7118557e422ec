package xenstored

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// model is a store of the plainest kind, without sharing, indexes or quotas. Its transactions are the C server's: no snapshot, each node
// is copied from the live store when it is first touched.
type model struct {
	gen   int
	nodes map[string]modelNode
	watch []modelWatch
}

type modelNode struct {
	gen      int // 0: does not exist
	data     string
	perms    []xenstore.Perm
	children []string
}

type modelWatch struct {
	dom         hypercall.DomID
	path, token string
}

type modelTx struct {
	orig, cur map[string]modelNode
	order     []string
	changed   map[string]bool
	fire      map[string]match
	diverged  bool // something touched is not what it was: what is read now may differ from the snapshot of ours
}

func newModel() *model {
	m := &model{nodes: map[string]modelNode{}}
	own := []xenstore.Perm{{}}
	m.put(nil, "/", modelNode{perms: own, children: []string{"tool"}})
	m.put(nil, "/tool", modelNode{perms: own, children: []string{"xenstored"}})
	m.put(nil, "/tool/xenstored", modelNode{perms: own})
	return m
}

func (m *model) get(tx *modelTx, path string) modelNode {
	if tx == nil {
		return m.nodes[path]
	}
	if _, ok := tx.cur[path]; !ok {
		tx.orig[path], tx.cur[path] = m.nodes[path], m.nodes[path]
		tx.order = append(tx.order, path)
	}
	return tx.cur[path]
}

func (m *model) put(tx *modelTx, path string, n modelNode) {
	m.gen++
	n.gen = m.gen
	if tx == nil {
		m.nodes[path] = n
	} else {
		tx.cur[path], tx.changed[path] = n, true
	}
}

func (m *model) del(tx *modelTx, path string) {
	if tx == nil {
		delete(m.nodes, path)
	} else {
		tx.cur[path], tx.changed[path] = modelNode{}, true
	}
}

func (m *model) may(dom hypercall.DomID, n modelNode) access {
	if dom == 0 || n.perms[0].Dom == dom {
		return canRead | canWrite | owns
	}
	for _, p := range n.perms[1:] {
		if p.Dom == dom {
			return access(p.Access)
		}
	}
	return access(n.perms[0].Access)
}

func (m *model) node(tx *modelTx, dom hypercall.DomID, path string, need access) (modelNode, xenstore.Errno) {
	n, e := m.get(tx, path), xenstore.ENOENT
	if n.gen != 0 {
		if m.may(dom, n)&need == need {
			return n, ""
		}
		e = xenstore.EACCES
	}
	for p := path; p != "/"; {
		p = xenstore.Parent(p)
		if up := m.get(tx, p); up.gen != 0 {
			if m.may(dom, up)&need != 0 {
				return n, e
			}
			break
		}
	}
	return n, xenstore.EACCES
}

// do makes a request and returns its answer, and the events it causes as "domain path token".
func (m *model) do(tx *modelTx, dom hypercall.DomID, typ xenstore.MsgType, path, arg string) (string, []string) {
	need := map[xenstore.MsgType]access{xenstore.MsgRead: canRead, xenstore.MsgDirectory: canRead, xenstore.MsgGetPerms: canRead,
		xenstore.MsgSetPerms: canWrite | owns}[typ]
	if need == 0 {
		need = canWrite
	}
	n, e := m.node(tx, dom, path, need)
	creates := typ == xenstore.MsgWrite || typ == xenstore.MsgMkdir
	if e == xenstore.ENOENT && creates {
		m.create(tx, dom, path, arg)
		return "OK\x00", m.changed(tx, path, matchSubtree, n)
	}
	if e == xenstore.ENOENT && typ == xenstore.MsgRemove && m.get(tx, xenstore.Parent(path)).gen != 0 {
		return "OK\x00", nil
	}
	if e != "" {
		return string(e) + "\x00", nil
	}
	switch typ {
	case xenstore.MsgRead:
		return n.data, nil
	case xenstore.MsgDirectory:
		out := ""
		for _, c := range n.children {
			out += c + "\x00"
		}
		return out, nil
	case xenstore.MsgGetPerms:
		return string(xenstore.AppendPerms(nil, n.perms)), nil
	case xenstore.MsgMkdir:
		return "OK\x00", nil
	case xenstore.MsgRemove:
		if path == "/" {
			return "EINVAL\x00", nil
		}
		return "OK\x00", m.remove(tx, path)
	case xenstore.MsgSetPerms:
		perms, err := xenstore.ParsePerms([]byte(arg))
		if err != nil {
			return "EINVAL\x00", nil
		}
		if dom != 0 && perms[0].Dom != n.perms[0].Dom {
			return "EPERM\x00", nil
		}
		old := n
		n.perms = perms
		m.put(tx, path, n)
		return "OK\x00", m.changed(tx, path, matchSubtree, old)
	}
	old := n
	n.data = arg
	m.put(tx, path, n)
	return "OK\x00", m.changed(tx, path, matchSubtree, old)
}

func (m *model) create(tx *modelTx, dom hypercall.DomID, path, data string) {
	parent := xenstore.Parent(path)
	if m.get(tx, parent).gen == 0 {
		m.create(tx, dom, parent, "")
	}
	p := m.get(tx, parent)
	perms := slices.Clone(p.perms)
	if dom != 0 {
		perms[0].Dom = dom
	}
	m.put(tx, path, modelNode{data: data, perms: perms})
	p.children = append(slices.Clone(p.children), xenstore.Base(path))
	m.put(tx, parent, p)
}

func (m *model) remove(tx *modelTx, path string) (events []string) {
	m.get(tx, xenstore.Parent(path))
	var order []string
	var walk func(p string)
	walk = func(p string) {
		if tx != nil {
			order = append(order, p)
		}
		for _, c := range m.get(tx, p).children {
			walk(xenstore.Join(p, c))
		}
		if tx == nil {
			order = append(order, p)
		}
	}
	walk(path)
	olds := map[string]modelNode{}
	for _, p := range order {
		olds[p] = m.get(tx, p)
	}
	up := m.get(tx, xenstore.Parent(path))
	up.children = slices.DeleteFunc(slices.Clone(up.children), func(c string) bool { return c == xenstore.Base(path) })
	for _, p := range order {
		m.del(tx, p)
	}
	m.put(tx, xenstore.Parent(path), up)
	lookup := func(p string) modelNode {
		if n, ok := olds[p]; ok {
			return n
		}
		return m.nodes[p]
	}
	for _, p := range order {
		k := matchExact
		if p == path {
			k = matchSubtree
		}
		if tx != nil {
			tx.fire[p] = max(tx.fire[p], k)
			continue
		}
		events = append(events, m.events(p, k, olds[p], modelNode{}, lookup)...)
	}
	return events
}

func (m *model) changed(tx *modelTx, path string, k match, old modelNode) []string {
	if tx != nil {
		tx.fire[path] = max(tx.fire[path], k)
		return nil
	}
	return m.events(path, k, old, m.nodes[path], func(p string) modelNode { return m.nodes[p] })
}

func (m *model) events(path string, k match, old, now modelNode, lookup func(string) modelNode) (events []string) {
	for dom := hypercall.DomID(0); dom < 3; dom++ {
		parent := lookup(xenstore.Parent(path))
		visible := old.gen != 0 && m.may(dom, old)&canRead != 0 || now.gen != 0 && m.may(dom, now)&canRead != 0 ||
			parent.gen != 0 && m.may(dom, parent)&canRead != 0
		for _, w := range m.watch {
			if w.dom == dom && visible && (w.path == path || k == matchSubtree && xenstore.Within(path, w.path)) {
				events = append(events, fmt.Sprintf("%d %s %s", dom, path, w.token))
			}
		}
	}
	return events
}

// stale reports whether something that the transaction has touched is not what it was.
func (m *model) stale(tx *modelTx) bool {
	for p, o := range tx.orig {
		if m.nodes[p].gen != o.gen {
			return true
		}
	}
	return false
}

func (m *model) commit(tx *modelTx) (ok bool, events []string) {
	if m.stale(tx) {
		return false, nil
	}
	before := maps.Clone(m.nodes)
	for _, p := range tx.order {
		if !tx.changed[p] {
			continue
		}
		if tx.cur[p].gen == 0 {
			delete(m.nodes, p)
		} else {
			m.put(nil, p, tx.cur[p])
		}
	}
	for _, p := range tx.order {
		if tx.fire[p] != matchNone {
			lookup := func(p string) modelNode {
				if n := m.nodes[p]; n.gen != 0 {
					return n
				}
				return before[p]
			}
			events = append(events, m.events(p, tx.fire[p], tx.orig[p], m.nodes[p], lookup)...)
		}
	}
	return true, events
}

// shape is the tree as text, as core.shape gives it.
func (m *model) shape() string {
	var b strings.Builder
	var walk func(p string)
	walk = func(p string) {
		fmt.Fprintf(&b, "%s=%q %v\n", p, m.nodes[p].data, m.nodes[p].perms)
		for _, c := range m.nodes[p].children {
			walk(xenstore.Join(p, c))
		}
	}
	walk("/")
	return b.String()
}

// TestModel makes random requests of three domains, in and out of transactions, of the core and of the model, and compares answers,
// events, commits and trees. The rig recounts the books after each step.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, Quota{Nodes: -1, Watches: -1, Transactions: -1, Memory: -1})
		m := newModel()
		conns := []*conn{r.connect(0, nil), r.connect(1, nil), r.connect(2, nil)}
		open := make([]map[uint32]*modelTx, 3)
		for i := range open {
			open[i] = map[uint32]*modelTx{}
		}
		paths := rapid.SampledFrom([]string{"/", "/a", "/b", "/a/x", "/a/y", "/a/x/1", "/b/x/2", "/a/x/1/deep/er", "/tool"})
		perms := rapid.SampledFrom([]string{"n0\x00", "n1\x00", "n2\x00", "b0\x00", "r1\x00", "n0\x00b1\x00", "n1\x00r2\x00", "w2\x00n1\x00"})
		types := rapid.SampledFrom([]xenstore.MsgType{xenstore.MsgRead, xenstore.MsgWrite, xenstore.MsgWrite, xenstore.MsgMkdir,
			xenstore.MsgRemove, xenstore.MsgDirectory, xenstore.MsgGetPerms, xenstore.MsgSetPerms})
		nwatch := 0
		expect := func(what, got, want string, events []string) {
			if got != want {
				t.Fatalf("%s: got %q, the model says %q", what, got, want)
			}
			seen := map[string]bool{}
			events = slices.DeleteFunc(events, func(e string) bool { dup := seen[e]; seen[e] = true; return dup })
			var have []string
			for _, cn := range conns {
				for _, e := range r.taken[cn] {
					have = append(have, fmt.Sprintf("%d %s", cn.dom.id, e))
				}
				for _, e := range r.events(cn) {
					have = append(have, fmt.Sprintf("%d %s", cn.dom.id, e))
				}
				r.taken[cn] = nil
			}
			slices.SortStableFunc(events, func(a, b string) int { return strings.Compare(a[:1], b[:1]) })
			if !slices.Equal(have, events) {
				t.Fatalf("%s: events\n%q, the model says\n%q", what, have, events)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if got, want := r.shape(), m.shape(); got != want {
					t.Fatalf("tree is\n%s, the model says\n%s", got, want)
				}
			},
			"request": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "domain")
				id := rapid.SampledFrom(append([]uint32{0}, slices.Sorted(maps.Keys(open[i]))...)).Draw(t, "transaction")
				typ, path, arg := types.Draw(t, "type"), paths.Draw(t, "path"), ""
				switch typ {
				case xenstore.MsgWrite:
					arg = rapid.SampledFrom([]string{"", "v", "w"}).Draw(t, "value")
				case xenstore.MsgSetPerms:
					arg = perms.Draw(t, "perms")
				}
				tx := open[i][id]
				if tx != nil {
					tx.diverged = tx.diverged || m.stale(tx)
				}
				want, events := m.do(tx, conns[i].dom.id, typ, path, arg)
				got := r.raw(conns[i], typ, id, path+"\x00"+arg).payload
				if tx != nil && tx.diverged {
					return // it will fail; what it sees is another view than the C server's
				}
				expect(fmt.Sprintf("domain %d: %s %s %q in %d", i, typ, path, arg, id), got, want, events)
			},
			"start": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "domain")
				if len(open[i]) < 3 {
					open[i][r.begin(conns[i])] = &modelTx{orig: map[string]modelNode{}, cur: map[string]modelNode{},
						changed: map[string]bool{}, fire: map[string]match{}}
				}
			},
			"end": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "domain")
				if len(open[i]) == 0 {
					t.Skip("no transaction")
				}
				id := rapid.SampledFrom(slices.Sorted(maps.Keys(open[i]))).Draw(t, "transaction")
				ok, events := m.commit(open[i][id])
				delete(open[i], id)
				want := "OK\x00"
				if !ok {
					want = "EAGAIN\x00"
				}
				expect("commit", r.do(conns[i], xenstore.MsgTransactionEnd, id, "T").payload, want, events)
			},
			"watch": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "domain")
				path := paths.Draw(t, "path")
				nwatch++
				token := fmt.Sprint(nwatch % 7)
				if a := r.do(conns[i], xenstore.MsgWatch, 0, path, token); a.err == "" {
					m.watch = append(m.watch, modelWatch{conns[i].dom.id, path, token})
				}
				r.taken[conns[i]] = nil
			},
			"reset": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "domain")
				r.ok(conns[i], xenstore.MsgResetWatches, 0, "")
				clear(open[i])
				m.watch = slices.DeleteFunc(m.watch, func(w modelWatch) bool { return w.dom == conns[i].dom.id })
			},
		})
	})
}

// TestXS10_Books makes random requests under tight quotas, domains coming and going included, only to recount the books after each.
func TestXS10_Books(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, Quota{Nodes: 6, NodeSize: 120, Watches: 2, Transactions: 2, TransactionNodes: 6, Permissions: 2, Memory: 1500})
		host := r.connect(0, nil)
		conns := []*conn{host, r.connect(1, nil), r.connect(2, nil)}
		paths := rapid.SampledFrom([]string{"/", "/a", "/a/x", "/a/x/1", "/b/x/2", "/b/3/4/5/6", "rel", "rel/1", "@releaseDomain"})
		perms := rapid.SampledFrom([]string{"n0", "n1", "n2", "b0", "b1"})
		t.Repeat(map[string]func(*rapid.T){
			"request": func(t *rapid.T) {
				cn := conns[rapid.IntRange(0, 2).Draw(t, "conn")]
				tx := uint32(0)
				if len(cn.txs) > 0 && rapid.Bool().Draw(t, "in transaction") {
					tx = cn.txs[rapid.IntRange(0, len(cn.txs)-1).Draw(t, "transaction")].id
				}
				typ := xenstore.MsgType(rapid.IntRange(1, 22).Draw(t, "type"))
				switch typ {
				case xenstore.MsgTransactionEnd:
					r.do(cn, typ, tx, rapid.SampledFrom([]string{"T", "F", "X"}).Draw(t, "end"))
				case xenstore.MsgSetPerms:
					r.do(cn, typ, tx, paths.Draw(t, "path"), perms.Draw(t, "owner"), perms.Draw(t, "other"))
				case xenstore.MsgWrite:
					r.write(cn, tx, paths.Draw(t, "path"), strings.Repeat("v", rapid.IntRange(0, 90).Draw(t, "size")))
				case xenstore.MsgWatch, xenstore.MsgUnwatch:
					r.do(cn, typ, tx, paths.Draw(t, "path"), "token")
				case xenstore.MsgRelease, xenstore.MsgIntroduce: // below
				default:
					r.do(cn, typ, tx, paths.Draw(t, "path"))
				}
			},
			"reuse": func(t *rapid.T) {
				i := rapid.IntRange(1, 2).Draw(t, "domain")
				id := conns[i].dom.id
				r.ok(host, xenstore.MsgIntroduce, 0, fmt.Sprint(id), "1", "1")
				r.check()
				r.ok(host, xenstore.MsgRelease, 0, fmt.Sprint(id))
				if d := r.domains[id]; d != nil {
					t.Fatalf("domain %d left %+v", id, d)
				}
				conns[i] = r.connect(id, nil)
			},
			"disconnect": func(t *rapid.T) {
				i := rapid.IntRange(0, 2).Draw(t, "conn")
				id := conns[i].dom.id
				r.disconnect(conns[i])
				r.disconnect(conns[i])
				r.check()
				conns[i] = r.connect(id, nil)
				host = conns[0]
			},
		})
	})
}

// TestTree compares the trie with a map, old versions included.
func TestTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			t tree
			m map[string]*node
		}
		v := version{m: map[string]*node{}}
		versions := []version{v}
		path := rapid.StringMatching(`/[ab]{1,6}`)
		hash := rapid.SampledFrom([]uint64{0, 1, 1 << 5, 1 << 60, 1<<60 | 1, ^uint64(0)}) // few, so that they collide all the way down
		hashes := map[string]uint64{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			p := path.Draw(t, "path")
			if _, ok := hashes[p]; !ok {
				hashes[p] = hash.Draw(t, "hash")
			}
			next := version{v.t, maps.Clone(v.m)}
			if rapid.Bool().Draw(t, "put") {
				n := &node{path: p, hash: hashes[p]}
				next.t, next.m[p] = next.t.put(n), n
			} else if next.t.find(p, hashes[p]) != nil {
				next.t = tree{next.t.root.remove(p, hashes[p], 0), next.t.n - 1}
				delete(next.m, p)
			}
			v = next
			versions = append(versions, v)
		}
		for _, v := range versions {
			if v.t.n != len(v.m) {
				t.Fatalf("%d nodes, want %d", v.t.n, len(v.m))
			}
			for p, h := range hashes {
				if v.t.find(p, h) != v.m[p] {
					t.Fatalf("%s is %p, want %p", p, v.t.find(p, h), v.m[p])
				}
			}
		}
	})
}
