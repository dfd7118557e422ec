package xenstored

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// ErrFrozen is why connections ended that [Server.Freeze] has kept.
var ErrFrozen = errors.New("xenstored: the server was frozen")

// StateVersion is the version of [State] that this package writes and reads.
const StateVersion = 1

// State is what a server leaves to the one after it: all that its clients could notice. It is plain data, for encoding/json and the like.
//
// Transactions that were open go on as far as their clients see, but cannot be committed: their end answers EAGAIN, and clients begin anew,
// as after any conflict.
type State struct {
	Version    int
	Generation uint64 // of the newest change
	Nodes      []StateNode
	Domains    []StateDomain `json:",omitempty"`
	Conns      []StateConn   `json:",omitempty"` // in order of connection
}

// StateNode is a node. Each comes after the one above it, and those of one parent in the order of their creation.
type StateNode struct {
	Path  string
	Value []byte   `json:",omitempty"`
	Perms []string // as GET_PERMS has them
}

// StateDomain is a domain that was introduced, or has a target.
type StateDomain struct {
	ID         hypercall.DomID
	Introduced bool             `json:",omitempty"`
	Shutdown   bool             `json:",omitempty"`
	Target     *hypercall.DomID `json:",omitempty"`
}

// StateConn is a connection.
type StateConn struct {
	Dom    hypercall.DomID
	Handle string // what Freeze was given for it: by it the stream is found again
	// Introduced says that it is the connection of an INTRODUCE, which the next one for the domain takes the place of.
	Introduced   bool         `json:",omitempty"`
	ReadOnly     bool         `json:",omitempty"`
	Watches      []StateWatch `json:",omitempty"` // in order of registration
	Transactions []uint32     `json:",omitempty"`
	NextTx       uint32
	In           []byte `json:",omitempty"` // read and not handled: the beginning of a message, or several
	Out          []byte `json:",omitempty"` // not written yet; it may begin within a message
}

// StateWatch is a watch.
type StateWatch struct {
	Path     string
	Token    string
	Relative bool `json:",omitempty"`
}

// frozen is a session that Freeze keeps, and under what name.
type frozen struct {
	ss     *session
	handle string
}

// Freeze ends the server as [Server.Close] does, and returns its state. hold is asked for each connection, before its stream is closed, and
// says under what name the stream will be found again; "" gives the connection up, with its watches. What it does to find it again is its
// own: duplicate a descriptor, or nothing, as for a ring page, which stays where it is.
func (s *Server) Freeze(hold func(dom hypercall.DomID, stream io.ReadWriteCloser) string) (*State, error) {
	err := s.shut(func(ss *session) error {
		handle := hold(ss.dom, ss.rw)
		if handle == "" {
			return net.ErrClosed
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.frozen = append(s.frozen, frozen{ss, handle})
		return ErrFrozen
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state()
	for _, f := range s.frozen {
		s.core.disconnect(f.ss.cn)
	}
	s.frozen = nil
	return st, err
}

// +checklocks:s.mu
func (s *Server) state() *State {
	c := s.core
	st := &State{Version: StateVersion, Generation: c.gen, Nodes: Snapshot{c.live}.state()}
	for _, d := range c.domains {
		if d.introduced || d.hasTarget {
			sd := StateDomain{ID: d.id, Introduced: d.introduced, Shutdown: d.shutdown}
			if d.hasTarget {
				sd.Target = &d.target
			}
			st.Domains = append(st.Domains, sd)
		}
	}
	slices.SortFunc(st.Domains, func(a, b StateDomain) int { return int(a.ID) - int(b.ID) })
	slices.SortFunc(s.frozen, func(a, b frozen) int { return compare(a.ss.cn.seq, b.ss.cn.seq) })
	for _, f := range s.frozen {
		cn := f.ss.cn
		if !slices.Contains(c.conns, cn) {
			continue // it ended by itself meanwhile
		}
		sc := StateConn{
			Dom: cn.dom.id, Handle: f.handle, Introduced: s.rings[cn.dom.id] == f.ss, ReadOnly: cn.readOnly, NextTx: cn.nextTx,
			In: slices.Clone(f.ss.dec.Rest()), Out: slices.Concat(cn.out.flight, cn.out.buf),
		}
		for _, w := range cn.watches {
			sc.Watches = append(sc.Watches, StateWatch{Path: w.path, Token: w.token, Relative: w.prefix > 0})
		}
		for _, tx := range cn.txs {
			sc.Transactions = append(sc.Transactions, tx.id)
		}
		st.Conns = append(st.Conns, sc)
	}
	return st
}

// State returns the nodes as a [State] without domains and connections: what a server begins with that shall have this tree.
func (s Snapshot) State() *State { return &State{Version: StateVersion, Nodes: s.state()} }

func (s Snapshot) state() []StateNode {
	var out []StateNode
	for n := range s.All("/") {
		out = append(out, n.state())
	}
	for _, path := range []string{xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		if n, ok := s.Node(path); ok {
			out = append(out, n.state())
		}
	}
	return out
}

func (n Node) state() StateNode {
	sn := StateNode{Path: n.Path, Value: []byte(n.Value)}
	for _, p := range n.Perms {
		sn.Perms = append(sn.Perms, p.String())
	}
	return sn
}

// Restore returns a server with the state that another one has left. attach finds the streams of the connections; those that it returns an
// error for are given up, with their watches, and the error is logged. They are served from now on, in the order of the state.
func Restore(cfg *Config, st *State, attach func(StateConn) (io.ReadWriteCloser, error)) (*Server, error) {
	s := New(cfg)
	if err := s.restoreCore(st); err != nil {
		return nil, errors.Join(fmt.Errorf("xenstored: restore: %w", err), s.Close())
	}
	var sessions []*session // none is served before all are there: one may have events for another
	for _, sc := range st.Conns {
		ss, err := s.restoreConn(sc, attach)
		if err != nil {
			s.log.Warn("xenstore: a connection is not restored", "domain", sc.Dom, "handle", sc.Handle, "err", err)
			continue
		}
		sessions = append(sessions, ss)
	}
	for _, ss := range sessions {
		s.serveRing(ss)
	}
	return s, nil
}

func (s *Server) restoreCore(st *State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.restore(st)
}

// restore puts a state in place of what a new store begins with.
func (c *core) restore(st *State) error {
	if st.Version != StateVersion {
		return fmt.Errorf("the state is of version %d, not %d", st.Version, StateVersion)
	}
	for _, n := range []string{"/tool/xenstored", "/tool", "/", xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		c.erase(c.live.get(n))
	}
	c.gen = max(c.gen, st.Generation)
	for _, sn := range st.Nodes {
		if err := c.restoreNode(sn); err != nil {
			return fmt.Errorf("node %q: %w", sn.Path, err)
		}
	}
	for _, path := range []string{"/", xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		if c.live.get(path) == nil {
			return fmt.Errorf("there is no %s", path)
		}
	}
	for _, sd := range st.Domains {
		if sd.ID >= firstReserved {
			return fmt.Errorf("domain %#x: %w", sd.ID, xenstore.EINVAL)
		}
		d := c.domain(sd.ID)
		d.introduced, d.shutdown = sd.Introduced, sd.Shutdown
		if sd.Target != nil {
			d.hasTarget, d.target = true, *sd.Target
		}
	}
	return nil
}

func (c *core) restoreNode(sn StateNode) error {
	n := &node{path: sn.Path, hash: hashPath(sn.Path), data: string(sn.Value)}
	for _, text := range sn.Perms {
		p, err := xenstore.ParsePerm(text)
		if err != nil {
			return fmt.Errorf("permission %q: %w", text, err)
		}
		n.perms = append(n.perms, p)
	}
	special := sn.Path == xenstore.IntroduceDomain || sn.Path == xenstore.ReleaseDomain
	if !special {
		privileged := &conn{dom: c.domain(dom0)}
		if path, err := c.canonical(privileged, []byte(sn.Path), false); err != nil || path != sn.Path {
			return errors.New("it is not an absolute path")
		}
	}
	switch {
	case len(n.perms) == 0:
		return errors.New("it has no owner")
	case c.live.get(sn.Path) != nil:
		return errors.New("it is there already")
	case sn.Path != "/" && !special:
		above := c.live.get(xenstore.Parent(sn.Path))
		if above == nil {
			return errors.New("the node above it does not come before it")
		}
		grown := *above
		grown.children = withChild(above.children, xenstore.Base(sn.Path))
		c.store(above, &grown)
	}
	c.store(nil, n)
	return nil
}

// restoreConn restores a connection.
func (s *Server) restoreConn(sc StateConn, attach func(StateConn) (io.ReadWriteCloser, error)) (*session, error) {
	rw, err := attach(sc)
	if err != nil {
		return nil, err
	}
	ss, err := s.begin(rw, sc.Dom)
	if err != nil {
		return nil, err
	}
	s.restoreSession(ss, sc)
	return ss, nil
}

func (s *Server) restoreSession(ss *session, sc StateConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, cn := s.core, ss.cn
	cn.readOnly = sc.ReadOnly
	cn.nextTx = sc.NextTx
	for _, w := range sc.Watches {
		c.restoreWatch(cn, w)
	}
	for _, id := range sc.Transactions {
		tx := &transaction{id: id, cn: cn, base: c.live, started: c.now, touched: map[string]*touch{}, lost: true}
		cn.txs = append(cn.txs, tx)
		cn.dom.txs++
		c.ntxs++
	}
	if len(sc.Out) > 0 {
		cn.out.buf = slices.Clone(sc.Out)
		cn.out.items = append(cn.out.items, item{size: len(sc.Out), at: c.now})
		cn.dom.memory += len(sc.Out)
		cn.dom.queued += len(sc.Out)
		wake(ss.kick)
	}
	if in := sc.In[:min(len(sc.In), len(ss.dec.Space()))]; len(in) > 0 {
		ss.dec.Filled(copy(ss.dec.Space(), in))
	}
	if sc.Introduced {
		s.rings[sc.Dom] = ss
	}
}

func (c *core) restoreWatch(cn *conn, sw StateWatch) {
	c.watchSeq++
	w := &watch{seq: c.watchSeq, cn: cn, path: c.live.intern([]byte(sw.Path)), token: sw.Token}
	if sw.Relative {
		w.prefix = min(len(cn.home)+1, len(w.path))
	}
	c.watches[w.path] = append(c.watches[w.path], w)
	cn.watches = append(cn.watches, w)
	cn.dom.watches++
	cn.dom.memory += len(w.path) + len(w.token)
	c.nwatches++
}
