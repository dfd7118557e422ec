package xenstored

import (
	"iter"
	"slices"
	"strings"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// Snapshot is the store at one moment. It costs nothing to take and never changes; it holds on to the memory of what it shows.
type Snapshot struct{ t tree }

// Node is one node of a [Snapshot].
type Node struct {
	Path       string
	Value      string // any bytes
	Perms      []xenstore.Perm
	Children   []string // in order of creation
	Generation uint64   // of its last change; higher is later
}

// Snapshot returns the store as it is now.
func (s *Server) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Snapshot{s.core.live}
}

// Len returns how many nodes there are, @introduceDomain and @releaseDomain included.
func (s Snapshot) Len() int { return s.t.n }

// Node returns the node at an absolute path.
func (s Snapshot) Node(path string) (Node, bool) {
	n := s.t.get(path)
	if n == nil {
		return Node{}, false
	}
	return n.export(), true
}

// All returns the nodes at and under an absolute path, each before those under it, children in order of creation.
func (s Snapshot) All(path string) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		nodes, _ := subtree(path, func(path string) (*node, error) { return s.t.get(path), nil })
		for _, n := range nodes {
			if !yield(n.export()) {
				return
			}
		}
	}
}

// Difference is a node that is not the same version in two snapshots. Both are the same in content where it was written anew.
type Difference struct {
	Path            string
	Was, Is         Node // as far as Existed and Exists say
	Existed, Exists bool
}

// Since returns the nodes in which the store differs from another snapshot of the same server, by path. It costs what the differences are,
// not what the store is.
func (s Snapshot) Since(before Snapshot) []Difference {
	pairs := map[string][2]*node{}
	diffBranches(before.t.root, s.t.root, func(side int, n *node) {
		p := pairs[n.path]
		p[side] = n
		pairs[n.path] = p
	})
	var out []Difference
	for path, p := range pairs {
		if p[0] == p[1] {
			continue
		}
		d := Difference{Path: path, Existed: p[0] != nil, Exists: p[1] != nil}
		if d.Existed {
			d.Was = p[0].export()
		}
		if d.Exists {
			d.Is = p[1].export()
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// diffBranches visits the leaves of two tries, with the side they are on, but for those below a branch that both have.
func diffBranches(a, b *branch, visit func(side int, n *node)) {
	if a == b {
		return
	}
	if a == nil || b == nil || a.bits == 0 || b.bits == 0 {
		leavesOf(a, 0, visit)
		leavesOf(b, 1, visit)
		return
	}
	i, j := 0, 0
	for bits := a.bits | b.bits; bits != 0; bits &= bits - 1 {
		bit := bits & -bits
		var x, y slot
		if a.bits&bit != 0 {
			x = a.slots[i]
			i++
		}
		if b.bits&bit != 0 {
			y = b.slots[j]
			j++
		}
		if x.sub != nil && y.sub != nil {
			diffBranches(x.sub, y.sub, visit)
			continue
		}
		if x != y {
			leavesOf(&branch{slots: []slot{x}}, 0, visit)
			leavesOf(&branch{slots: []slot{y}}, 1, visit)
		}
	}
}

// leavesOf visits the leaves of a trie.
func leavesOf(b *branch, side int, visit func(side int, n *node)) {
	if b == nil {
		return
	}
	for _, s := range b.slots {
		if s.leaf != nil {
			visit(side, s.leaf)
		}
		leavesOf(s.sub, side, visit)
	}
}

func (n *node) export() Node {
	out := Node{Path: n.path, Value: n.data, Perms: append([]xenstore.Perm(nil), n.perms...), Generation: n.gen}
	if n.children != "" {
		out.Children = strings.Split(strings.TrimSuffix(n.children, "\x00"), "\x00")
	}
	return out
}
