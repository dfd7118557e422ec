package xenstored

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// Defaults of [Config].
const (
	DefaultEventTimeout = 20 * time.Second
	DefaultMaxQueued    = 16 << 20
)

// Introducer makes the connection of a domain that a privileged client introduces by INTRODUCE: it maps the page gfn of the domain (or
// its grant [hypercall.GrantRef] 1), binds its event channel port, and returns the stream, as [xenstore.NewRingConn] with
// [xenstore.RoleServer] makes one. An [xenstore.Errno] among its errors is what the client is answered, EINVAL stands for others. The
// server closes the stream, also before it asks for the same domain again.
type Introducer interface {
	Introduce(dom hypercall.DomID, gfn hypercall.GFN, port hypercall.Port) (io.ReadWriteCloser, error)
}

// Config configures a [Server]. A field that is zero has its default.
type Config struct {
	Quota Quota // of unprivileged domains
	// EventTimeout is how long the requests of one domain wait for others to take the events they caused; after that, unprivileged
	// receivers lose the event. Default DefaultEventTimeout, which is the C server's.
	EventTimeout time.Duration
	// MaxQueued is how many bytes may wait for a privileged connection that does not read; one more ends it with [ErrOverflow]. What
	// waits for unprivileged ones is bounded by their quotas. Default DefaultMaxQueued.
	MaxQueued  int
	Introducer Introducer   // nil: INTRODUCE makes domains known but no connections
	Logger     *slog.Logger // nil is silent
	// Changed is told of each change of the tree: of a request, a transaction that was committed, or a release. It is called with the
	// server's lock held, in the order of the changes, and must neither wait nor call the server. nil is nobody.
	Changed func(Change)
}

// Change is one change of the tree, whole: a transaction's are one.
type Change struct {
	Dom           hypercall.DomID  // who made it; of a release by the host, who was released
	Type          xenstore.MsgType // of the request: MsgTransactionEnd for a transaction
	Before, After Snapshot
}

// Server is a Xenstore server. It is safe for concurrent use.
type Server struct {
	conf Config
	log  *slog.Logger
	work sync.WaitGroup

	mu sync.Mutex
	// +checklocks:mu
	start time.Time // of the core's clock
	// +checklocks:mu
	core *core
	// +checklocks:mu
	sessions map[*session]struct{}
	// +checklocks:mu
	paused map[*session]struct{} // readers that wait until there is room
	// +checklocks:mu
	rings map[hypercall.DomID]*session // the connections that the Introducer made
	// +checklocks:mu
	introducing map[hypercall.DomID]chan struct{} // domains that are being introduced; closed when it is over
	// +checklocks:mu
	listeners map[net.Listener]struct{}
	// +checklocks:mu
	timer *time.Timer // expires events; nil while none is waited for
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	frozen []frozen // what Freeze has kept
}

// New returns a server with an empty store: /tool/xenstored, @introduceDomain and @releaseDomain, all of them domain 0's.
func New(cfg *Config) *Server {
	var conf Config
	if cfg != nil {
		conf = *cfg
	}
	if conf.EventTimeout <= 0 {
		conf.EventTimeout = DefaultEventTimeout
	}
	if conf.MaxQueued <= 0 {
		conf.MaxQueued = DefaultMaxQueued
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	c := newCore(conf.Quota, conf.MaxQueued)
	c.introducer = conf.Introducer != nil
	c.changedBy = conf.Changed
	return &Server{
		conf: conf, log: conf.Logger, start: time.Now(), core: c,
		sessions: map[*session]struct{}{}, paused: map[*session]struct{}{},
		rings: map[hypercall.DomID]*session{}, introducing: map[hypercall.DomID]chan struct{}{}, listeners: map[net.Listener]struct{}{},
	}
}

// clock brings the core's clock up to date.
//
// +checklocks:s.mu
func (s *Server) clock() { s.core.now = int64(time.Since(s.start)) }

// Serve accepts connections and serves them as domain 0, until ctx is done or the server is closed; it closes the listener. Whoever can
// connect is privileged: the socket's permissions are the guard, as with the C server.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.serve(ctx, l, false) }

// ServeReadOnly is Serve for those who may read and watch everything, and change nothing: that is answered EROFS.
func (s *Server) ServeReadOnly(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, true)
}

func (s *Server) serve(ctx context.Context, l net.Listener, readOnly bool) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		_ = l.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for failed := 0; ; {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return ctx.Err()
		case err != nil:
			if failed++; failed == maxAcceptErrors || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("xenstored: accept: %w", err)
			}
			s.log.Warn("xenstore: accept", "err", err)
			wait(ctx, acceptRetry)
			continue
		}
		failed = 0
		ss, err := s.begin(conn, dom0)
		if err != nil {
			return err
		}
		s.restrict(ss, readOnly)
		go func() {
			if err := ss.serve(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrFrozen) {
				s.log.Warn("xenstore connection ended", "domain", dom0, "err", err)
			}
		}()
	}
}

// restrict says, before a connection is served, whether it only reads.
func (s *Server) restrict(ss *session, readOnly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss.cn.readOnly = readOnly
}

// Accepting can fail for a while, as for want of descriptors.
const (
	acceptRetry     = 100 * time.Millisecond
	maxAcceptErrors = 100 // in a row
)

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ServeConn serves a stream as a domain until it ends, ctx is done, the domain is released, or the server is closed, and closes it. It
// does not introduce the domain. Any stream will do whose Close makes Read and Write return.
//
// Where the stream has a method TryWrite, as [xenstore.RingConn] has, or is a socket, replies are written by the goroutine that reads
// the requests. On a RingConn, a client that breaks the protocol finds the error code in its page, and a client that asks for a reset
// starts anew.
//
// It returns nil when the peer ends the stream between two messages; [io.ErrUnexpectedEOF] inside one; a [*xenstore.ProtocolError];
// [ErrReleased]; [ErrOverflow]; [net.ErrClosed] after Close; or what the stream or ctx says.
func (s *Server) ServeConn(ctx context.Context, rw io.ReadWriteCloser, dom hypercall.DomID) error {
	ss, err := s.begin(rw, dom)
	if err != nil {
		return err
	}
	return ss.serve(ctx)
}

// begin registers a connection.
func (s *Server) begin(rw io.ReadWriteCloser, dom hypercall.DomID) (*session, error) {
	if dom >= firstReserved {
		return nil, errors.Join(fmt.Errorf("xenstored: domain id %#x is reserved: %w", dom, xenstore.EINVAL), rw.Close())
	}
	ss := newSession(s, rw, dom)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errors.Join(fmt.Errorf("xenstored: %w", net.ErrClosed), rw.Close())
	}
	s.work.Add(1)
	ss.cn = s.core.connect(dom, ss)
	s.sessions[ss] = struct{}{}
	s.mu.Unlock()
	return ss, nil
}

// IntroduceDomain makes a domain known, as INTRODUCE does for a toolstack that is another process: watchers of @introduceDomain hear of
// it. A domain that is known stays as it is.
func (s *Server) IntroduceDomain(dom hypercall.DomID) error {
	if dom >= firstReserved {
		return fmt.Errorf("xenstored: introduce domain %#x: the id is reserved: %w", dom, xenstore.EINVAL)
	}
	return s.change(func(c *core) { c.introduce(dom) })
}

// ReleaseDomain removes all that there is of a domain, known or not: connections, watches, transactions, the nodes that it owns, its
// entries in other nodes' permissions. Watchers of @releaseDomain hear of it if the domain was introduced. Another domain may have the
// id afterwards.
func (s *Server) ReleaseDomain(dom hypercall.DomID) error {
	if dom == dom0 {
		return fmt.Errorf("xenstored: domain 0 cannot be released: %w", xenstore.EINVAL)
	}
	return s.change(func(c *core) {
		before := c.live
		c.releaseDomain(dom)
		c.tell(dom, xenstore.MsgRelease, before)
	})
}

// ShutdownDomain says that a domain has shut down or crashed, and is not gone yet: watchers of @releaseDomain hear of it, once until
// the domain is resumed (RESUME, [Server.ResumeDomain]) or released. The domain stays connected.
func (s *Server) ShutdownDomain(dom hypercall.DomID) error {
	return s.change(func(c *core) { c.shutdown(dom) })
}

// ResumeDomain takes ShutdownDomain back.
func (s *Server) ResumeDomain(dom hypercall.DomID) error {
	return s.change(func(c *core) {
		if d := c.domains[dom]; d != nil {
			d.shutdown = false
		}
	})
}

// Domain is what the server knows of a domain.
type Domain struct {
	ID         hypercall.DomID
	Introduced bool // else it is known by what it owns, or because somebody serves it
	Shutdown   bool // as ShutdownDomain said
}

// Domains returns the domains that the server knows, but for domain 0, in order of their ids.
func (s *Server) Domains() []Domain {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Domain
	for id, d := range s.core.domains {
		if id != dom0 {
			all = append(all, Domain{ID: id, Introduced: d.introduced, Shutdown: d.shutdown})
		}
	}
	slices.SortFunc(all, func(a, b Domain) int { return int(a.ID) - int(b.ID) })
	return all
}

// change changes the store on the host's behalf and sends what follows from it.
func (s *Server) change(f func(*core)) error {
	var w sends
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("xenstored: %w", net.ErrClosed)
	}
	s.clock()
	f(s.core)
	s.collect(&w, nil)
	s.mu.Unlock()
	w.do()
	return nil
}

// Stats returns the server's counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.current()
}

// Close ends all connections and listeners, and waits until nothing of the server runs any more. A second Close returns nil.
func (s *Server) Close() error { return s.shut(func(*session) error { return net.ErrClosed }) }

// shut ends all connections, each for a reason, and all listeners.
func (s *Server) shut(why func(*session) error) error {
	sessions, listeners := s.beginShut()
	var errs []error
	for _, l := range listeners {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) { // Serve may be closing it at this moment
			errs = append(errs, err)
		}
	}
	for _, ss := range sessions {
		ss.end(why(ss))
	}
	s.work.Wait()
	return errors.Join(errs...)
}

func (s *Server) beginShut() (sessions []*session, listeners []net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for ss := range s.sessions {
		sessions = append(sessions, ss)
	}
	for l := range s.listeners {
		listeners = append(listeners, l)
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	return sessions, listeners
}

// introduce does what an INTRODUCE needs from outside of the store. A domain is introduced by one client at a time, so that its page has
// one server. It may be released meanwhile.
func (s *Server) introduce(p *introduction) {
	old := s.beginIntroduction(p.dom)
	defer s.endIntroduction(p.dom)
	if old != nil { // its page and port are wanted again
		old.end(ErrReleased)
		<-old.over
	}
	ss, err := s.connectDomain(p)
	if err != nil {
		s.log.Warn("xenstore: introduce", "domain", p.dom, "gfn", p.gfn, "port", p.port, "err", err)
	}
	var w sends
	s.mu.Lock()
	s.clock()
	if ss != nil {
		s.rings[p.dom] = ss
		if p.released {
			s.core.end(ss.cn, ErrReleased)
		}
	}
	s.core.introduced(p, err)
	s.collect(&w, nil)
	s.mu.Unlock()
	w.do()
	if ss != nil {
		s.serveRing(ss)
	}
}

// beginIntroduction waits until nobody introduces the domain, and returns the connection that an introduction before has made.
func (s *Server) beginIntroduction(dom hypercall.DomID) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.introducing[dom] != nil {
		other := s.introducing[dom]
		s.mu.Unlock()
		<-other
		s.mu.Lock()
	}
	s.introducing[dom] = make(chan struct{})
	return s.rings[dom]
}

func (s *Server) endIntroduction(dom hypercall.DomID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.introducing[dom])
	delete(s.introducing, dom)
}

// connectDomain makes the connection of a domain, unless there is no use for it any more.
func (s *Server) connectDomain(p *introduction) (*session, error) {
	s.mu.Lock()
	useless := s.closed || p.released
	s.mu.Unlock()
	if useless {
		return nil, ErrReleased
	}
	rw, err := s.conf.Introducer.Introduce(p.dom, p.gfn, p.port)
	if err != nil {
		return nil, err
	}
	return s.begin(rw, p.dom)
}

// serveRing serves a connection, such as that of an introduced domain, in a goroutine.
func (s *Server) serveRing(ss *session) {
	go func() {
		if err := ss.serve(context.Background()); err != nil && !ordinary(err) {
			s.log.Warn("xenstore connection ended", "domain", ss.dom, "err", err)
		}
	}()
}

// ordinary reports whether connections of a healthy server end so.
func ordinary(err error) bool {
	return errors.Is(err, ErrFrozen) || errors.Is(err, ErrReleased) || errors.Is(err, net.ErrClosed)
}

// collect notes which connections have something to send or have ended since the last time. The caller lets w do it once the lock is
// free.
//
// +checklocks:s.mu
func (s *Server) collect(w *sends, me *session) {
	for i, cn := range s.core.dirty {
		s.core.dirty[i] = nil
		cn.dirty = false
		ss := cn.tag.(*session)
		switch {
		case cn.ended != nil:
			w.ended = append(w.ended, ss)
		case ss == me: // sends its own
		case ss.try != nil && w.n < len(w.now):
			w.now[w.n] = ss
			w.n++
		default:
			wake(ss.kick)
		}
	}
	s.core.dirty = s.core.dirty[:0]
	if len(w.ended) > 0 {
		s.wakePaused()
	}
	if s.core.caused > 0 && s.timer == nil && !s.closed {
		s.timer = time.AfterFunc(s.conf.EventTimeout, s.expire)
	}
}

// wakePaused has paused readers look again.
//
// +checklocks:s.mu
func (s *Server) wakePaused() {
	for ss := range s.paused {
		wake(ss.room)
	}
}

// expire is called every EventTimeout while events are waited for: one waits for at least that long, at most for twice that.
func (s *Server) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock()
	s.timer = nil
	before := s.core.now - int64(s.conf.EventTimeout)
	for _, cn := range s.core.conns {
		s.core.expire(cn, before)
	}
	s.wakePaused()
	if s.core.caused > 0 && !s.closed {
		s.timer = time.AfterFunc(s.conf.EventTimeout, s.expire)
	}
}

// sends is what is to be done after the lock was freed.
type sends struct {
	now   [4]*session // written to by the goroutine that caused it; the writers of further ones are woken
	n     int
	ended []*session
}

func (w *sends) do() {
	for _, ss := range w.now[:w.n] {
		ss.flush()
	}
	for _, ss := range w.ended {
		ss.end(nil)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
