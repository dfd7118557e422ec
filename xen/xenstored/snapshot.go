package xenstored

import (
	"iter"
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

func (n *node) export() Node {
	out := Node{Path: n.path, Value: n.data, Perms: append([]xenstore.Perm(nil), n.perms...), Generation: n.gen}
	if n.children != "" {
		out.Children = strings.Split(strings.TrimSuffix(n.children, "\x00"), "\x00")
	}
	return out
}
