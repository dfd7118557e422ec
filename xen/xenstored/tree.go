package xenstored

import (
	"hash/maphash"
	"math/bits"
	"strings"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// node is one node of the store. It is never changed once it is in a tree: a change puts another node in its place. Two nodes are the
// same version of the same path exactly when they are the same pointer, which is what transactions compare.
type node struct {
	path     string
	hash     uint64
	gen      uint64          // what DIRECTORY_PART tells clients; rises with every change of the store
	writer   hypercall.DomID // who made this version, to know whose writes make transactions fail
	perms    []xenstore.Perm // at least the owner
	data     string
	children string // names in order of creation, each with a NUL: what DIRECTORY answers, and what DIRECTORY_PART counts in
}

// Bytes that the C server counts for a node beside its value and the names of its children: the record's header, and each permission.
const (
	nodeHeaderBytes = 24
	permBytes       = 8
)

// size is the size of the node as the quota of node sizes counts it.
func (n *node) size() int {
	return nodeHeaderBytes + permBytes*len(n.perms) + len(n.data) + len(n.children)
}

// memory is what the node costs its owner in the quota of memory.
func (n *node) memory() int { return n.size() + len(n.path) }

func (n *node) owner() hypercall.DomID { return n.perms[0].Dom }

// mentions reports whether dom owns the node or has a permission of its own.
func (n *node) mentions(dom hypercall.DomID) bool {
	for _, p := range n.perms {
		if p.Dom == dom {
			return true
		}
	}
	return false
}

// withChild returns the list of children with one more name.
func withChild(children, name string) string { return children + name + "\x00" }

// withoutChild returns the list of children without the name.
func withoutChild(children, name string) string {
	entry := name + "\x00"
	if strings.HasPrefix(children, entry) {
		return children[len(entry):]
	}
	i := strings.Index(children, "\x00"+entry)
	if i < 0 {
		return children
	}
	return children[:i+1] + children[i+1+len(entry):]
}

// nextChild cuts the first name off a list of children.
func nextChild(children string) (name, rest string) {
	name, rest, _ = strings.Cut(children, "\x00")
	return name, rest
}

// tree is an immutable map from path to node: a hash trie of 32-way branches, whose copies share all that did not change. Taking a
// snapshot is copying the struct. A lookup costs the same at any depth of path, and nothing here recurses over that depth.
//
// The hash is seeded, so that a guest cannot choose paths that collide. The seed does not show: nothing goes through a tree in the order of
// its hashes.
type tree struct {
	root *branch
	n    int
}

// branch holds the slots whose bits are set, in order. Below the last bits of the hash, bits is 0 and the slots are all the leaves of
// one hash.
type branch struct {
	bits  uint32
	slots []slot
}

// slot is a leaf or a branch.
type slot struct {
	leaf *node
	sub  *branch
}

const (
	levelBits = 5
	hashBits  = 64
)

var hashSeed = maphash.MakeSeed()

func hashPath(path string) uint64 { return maphash.String(hashSeed, path) }

// get returns the node at path, or nil.
func (t tree) get(path string) *node { return t.find(path, hashPath(path)) }

func (t tree) find(path string, hash uint64) *node {
	for _, s := range t.leaves(hash) {
		if s.leaf.path == path {
			return s.leaf
		}
	}
	return nil
}

// intern returns path as a string: that of the node there, or a new one if there is none.
func (t tree) intern(path []byte) string {
	for _, s := range t.leaves(maphash.Bytes(hashSeed, path)) {
		if s.leaf.path == string(path) {
			return s.leaf.path
		}
	}
	return string(path)
}

// leaves returns the leaves of one hash, of which there is hardly ever more than one.
func (t tree) leaves(hash uint64) []slot {
	b := t.root
	for shift := 0; b != nil; shift += levelBits {
		if shift >= hashBits {
			return b.slots
		}
		bit := uint32(1) << (hash >> shift & 31)
		if b.bits&bit == 0 {
			return nil
		}
		i := bits.OnesCount32(b.bits & (bit - 1))
		if leaf := b.slots[i].leaf; leaf != nil {
			if leaf.hash == hash {
				return b.slots[i : i+1]
			}
			return nil
		}
		b = b.slots[i].sub
	}
	return nil
}

// put returns the tree with n at its path.
func (t tree) put(n *node) tree {
	root, added := t.root.put(n, 0)
	if added {
		t.n++
	}
	t.root = root
	return t
}

// remove returns the tree without the node at path.
func (t tree) remove(path string) tree {
	hash := hashPath(path)
	if t.find(path, hash) == nil {
		return t
	}
	return tree{t.root.remove(path, hash, 0), t.n - 1}
}

// put recurses over the at most 13 levels of the trie.
func (b *branch) put(n *node, shift int) (_ *branch, added bool) {
	if b == nil {
		if shift >= hashBits {
			return &branch{slots: []slot{{leaf: n}}}, true
		}
		return &branch{1 << (n.hash >> shift & 31), []slot{{leaf: n}}}, true
	}
	if shift >= hashBits {
		for i := range b.slots {
			if b.slots[i].leaf.path == n.path {
				return b.with(i, slot{leaf: n}), false
			}
		}
		return &branch{0, append(b.slots[:len(b.slots):len(b.slots)], slot{leaf: n})}, true
	}
	bit := uint32(1) << (n.hash >> shift & 31)
	i := bits.OnesCount32(b.bits & (bit - 1))
	if b.bits&bit == 0 {
		slots := make([]slot, len(b.slots)+1)
		copy(slots, b.slots[:i])
		slots[i] = slot{leaf: n}
		copy(slots[i+1:], b.slots[i:])
		return &branch{b.bits | bit, slots}, true
	}
	old := b.slots[i]
	if old.leaf == nil {
		sub, added := old.sub.put(n, shift+levelBits)
		return b.with(i, slot{sub: sub}), added
	}
	if old.leaf.path == n.path {
		return b.with(i, slot{leaf: n}), false
	}
	sub, _ := (*branch)(nil).put(old.leaf, shift+levelBits)
	sub, _ = sub.put(n, shift+levelBits)
	return b.with(i, slot{sub: sub}), true
}

// with returns a copy of b with another slot at i.
func (b *branch) with(i int, s slot) *branch {
	slots := make([]slot, len(b.slots))
	copy(slots, b.slots)
	slots[i] = s
	return &branch{b.bits, slots}
}

// without returns a copy of b without the slot at i, nil if it was the only one.
func (b *branch) without(i int, bit uint32) *branch {
	if len(b.slots) == 1 {
		return nil
	}
	slots := make([]slot, 0, len(b.slots)-1)
	slots = append(append(slots, b.slots[:i]...), b.slots[i+1:]...)
	return &branch{b.bits &^ bit, slots}
}

// remove takes out a path that is known to be there.
func (b *branch) remove(path string, hash uint64, shift int) *branch {
	if shift >= hashBits {
		for i := range b.slots {
			if b.slots[i].leaf.path == path {
				return b.without(i, 0)
			}
		}
		return b
	}
	bit := uint32(1) << (hash >> shift & 31)
	i := bits.OnesCount32(b.bits & (bit - 1))
	s := b.slots[i]
	if s.leaf != nil {
		return b.without(i, bit)
	}
	sub := s.sub.remove(path, hash, shift+levelBits)
	if sub == nil {
		return b.without(i, bit)
	}
	if len(sub.slots) == 1 && sub.slots[0].leaf != nil {
		return b.with(i, sub.slots[0]) // a lone leaf moves up, so that the shape depends on the content only
	}
	return b.with(i, slot{sub: sub})
}

// subtree returns the nodes at and under path that get knows, each before those under it, children in order of creation. It stops at
// an error of get. It keeps its own stack: the depth of a tree is the guests' choice.
func subtree(path string, get func(path string) (*node, error)) ([]*node, error) {
	n, err := get(path)
	if n == nil || err != nil {
		return nil, err
	}
	nodes := []*node{n}
	type level struct {
		path, rest string
	}
	stack := []level{{path, n.children}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.rest == "" {
			stack = stack[:len(stack)-1]
			continue
		}
		var name string
		name, top.rest = nextChild(top.rest)
		child, err := get(xenstore.Join(top.path, name))
		if err != nil {
			return nodes, err
		}
		if child == nil {
			continue
		}
		nodes = append(nodes, child)
		stack = append(stack, level{child.path, child.children})
	}
	return nodes, nil
}

// postorder puts nodes that subtree returned into the order in which each comes after those under it.
func postorder(nodes []*node) []*node {
	out := make([]*node, 0, len(nodes))
	var open []*node
	for _, n := range nodes {
		for len(open) > 0 && !xenstore.Within(n.path, open[len(open)-1].path) {
			out = append(out, open[len(open)-1])
			open = open[:len(open)-1]
		}
		open = append(open, n)
	}
	for i := len(open) - 1; i >= 0; i-- {
		out = append(out, open[i])
	}
	return out
}
