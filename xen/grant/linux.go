package grant

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Linux is the grants of the domain of a Linux kernel: what it shares through /dev/xen/gntalloc, what it maps and copies through
// /dev/xen/gntdev. It is a [Table], safe for concurrent use.
//
// The kernel owns the grant table. It chooses pages and references, and takes them back when a share ends: it does not tell whether the
// peer still has a page mapped, and keeps the page until the peer lets go. So ending a share always answers [Surrendered]. How many pages
// may be shared at once, in the whole domain, is a parameter of gntalloc's module ("limit", 1024 by default).
//
// Notifications are the kernel's own, and come also when the process dies without a word.
type Linux struct {
	open  xendev.Opener
	limit func() int // of gntalloc; 0 where it is not known
	cfg   Config

	mu sync.Mutex
	// +checklocks:mu
	changed *sync.Cond // a handle's state or uses changed
	// +checklocks:mu
	now *session
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	shares handles[*linuxShare]
	// +checklocks:mu
	mappings handles[*linuxMapping]
	// +checklocks:mu
	shared, mapped, leaked int
	// +checklocks:mu
	forbidden hypercall.DomID // whose pages Map refuses
	// +checklocks:mu
	why error // nil where it refuses nobody's

	maps     atomic.Uint64
	unmaps   atomic.Uint64
	copies   atomic.Uint64
	requests atomic.Uint64
}

var _ Table = (*Linux)(nil)

// session is the devices, opened once. One of them may be missing: then what needs it says why.
type session struct {
	l        *Linux
	alloc    xendev.Node
	allocErr error
	dev      xendev.Node
	devErr   error
}

// OpenLinux opens the kernel's devices. Where only one of them can be had, what needs the other fails. Of cfg, MaxFrames and
// MaxQuarantine do not count.
func OpenLinux(cfg *Config) (*Linux, error) { return openLinux(xendev.Open, gntallocLimit, cfg) }

func openLinux(open xendev.Opener, limit func() int, cfg *Config) (*Linux, error) {
	l := &Linux{open: open, limit: limit, cfg: cfg.withDefaults()}
	l.changed = sync.NewCond(&l.mu)
	s, err := l.newSession()
	if err != nil {
		return nil, err
	}
	l.now = s // +checklocksignore: nobody else has it yet
	return l, nil
}

// gntallocLimit reads how many pages may be shared at once.
func gntallocLimit() int {
	text, err := os.ReadFile("/sys/module/xen_gntalloc/parameters/limit")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func (l *Linux) newSession() (*session, error) {
	s := &session{l: l}
	s.alloc, s.allocErr = l.open(xendev.DevGntalloc)
	s.dev, s.devErr = l.open(xendev.DevGntdev)
	if s.allocErr != nil && s.devErr != nil {
		return nil, fmt.Errorf("grant: %w", errors.Join(s.allocErr, s.devErr))
	}
	return s, nil
}

func (s *session) close() error {
	var errs []error
	for _, n := range []xendev.Node{s.alloc, s.dev} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// session returns the present one, for an operation that begins.
func (l *Linux) session() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	return l.now, nil
}

// check returns why a handle of the session cannot become one of the table's, or nil.
//
// +checklocks:l.mu
func (l *Linux) check(s *session) error {
	switch {
	case l.closed:
		return net.ErrClosed
	case l.now != s:
		return hypercall.ErrStale
	}
	return nil
}

// request makes one of gntalloc or gntdev.
func (l *Linux) request(n xendev.Node, req xendev.Request, arg []byte, ps ...xendev.Pointer) error {
	l.requests.Add(1)
	_, err := n.Ioctl(req, arg, ps...)
	return l.deviceError(err)
}

// deviceError makes what the kernel or Xen answered an [hypercall.Errno], as it is elsewhere. A device that was closed under an operation
// says that the table was closed, or resumed.
func (l *Linux) deviceError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		if _, err := l.session(); err != nil {
			return err
		}
		return hypercall.ErrStale
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return hypercall.Errno(errno)
	}
	return err
}

// wentWithDevice reports whether the error says that what was to be given back went with its device.
func wentWithDevice(err error) bool {
	return errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed)
}

// again makes an attempt, and further ones while the error is EAGAIN: the page is being paged in, or otherwise in transition.
func (l *Linux) again(attempt func() error) error {
	err := attempt()
	wait := l.cfg.Backoff
	for i := 0; i < l.cfg.Retries && errors.Is(err, syscall.EAGAIN); i++ {
		time.Sleep(wait)
		wait = min(2*wait, maxBackoff)
		err = attempt()
	}
	return err
}

// linuxHold is what shares and mappings of a [Linux] have in common: pages at an offset of a device. The fields below the line are
// guarded by the table's mu.
type linuxHold struct {
	s      *session
	node   xendev.Node
	index  uint64 // of the first page in the device
	region *shm.Region
	what   string // "share" or "mapping", for errors
	// ────────
	at     int // the place among the table's handles
	state  holdState
	uses   int
	arming bool
	stale  bool
	told   bool
	notify Notify
}

func (h *linuxHold) place() *int { return &h.at }

// Region implements [Share] and [Mapping].
func (h *linuxHold) Region() *shm.Region { return h.region }

// use keeps the pages where they are until unuse.
func (h *linuxHold) use(op string) error {
	h.s.l.mu.Lock()
	defer h.s.l.mu.Unlock()
	return h.useLocked(op)
}

func (h *linuxHold) useLocked(op string) error {
	switch {
	case h.state == open:
		h.uses++
		return nil
	case h.stale:
		return stale(op)
	}
	return fmt.Errorf("grant: %s: the %s was ended: %w", op, h.what, net.ErrClosed)
}

func (h *linuxHold) unuse() {
	h.s.l.mu.Lock()
	defer h.s.l.mu.Unlock()
	h.uses--
	h.s.l.changed.Broadcast()
}

// begin makes the caller the one who lets the pages go, once nothing is under way with them any more. It returns false where somebody
// else has done that already.
func (h *linuxHold) begin(leave func()) bool {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.state == ending {
		l.changed.Wait()
	}
	if h.state == ended {
		return false
	}
	h.state = ending
	leave()
	for h.uses > 0 {
		l.changed.Wait()
	}
	return true
}

// SetNotify implements [Share] and [Mapping].
func (h *linuxHold) SetNotify(x Notify) error {
	if err := checkNotify(h.region, h.what, x); err != nil {
		return err
	}
	old, err := h.beginArming()
	if err != nil {
		return err
	}
	if err = h.register(old, x); err != nil {
		err = fmt.Errorf("grant: set the notification of a %s: %w", h.what, err)
		x = Notify{} // the old one was taken back, or is not to be counted on
	}
	h.endArming(x)
	return err
}

func (h *linuxHold) beginArming() (old Notify, err error) {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.arming {
		l.changed.Wait()
	}
	if err := h.useLocked("set the notification"); err != nil {
		return Notify{}, err
	}
	h.arming = true
	return h.notify, nil
}

func (h *linuxHold) endArming(now Notify) {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	h.notify, h.arming = now, false
	h.uses--
	l.changed.Broadcast()
}

// register has the kernel do x in place of old. gntalloc has a notification for each page, gntdev one for each mapping, so one on another
// page is taken back first.
func (h *linuxHold) register(old, x Notify) error {
	if old == x {
		return nil
	}
	if from, to := old.offset()/shm.PageSize, x.offset()/shm.PageSize; old != (Notify{}) && from != to {
		if err := h.setUnmapNotify(from*shm.PageSize, 0, 0); err != nil {
			return err
		}
	}
	action := uint32(0)
	if x.ClearByte {
		action |= xendev.UnmapNotifyClearByte
	}
	if x.Port != 0 {
		action |= xendev.UnmapNotifySendEvent
	}
	return h.setUnmapNotify(x.offset(), action, x.Port)
}

// offset is where the notification is registered.
func (x Notify) offset() int {
	if !x.ClearByte {
		return 0
	}
	return x.Offset
}

func (h *linuxHold) setUnmapNotify(offset int, action uint32, port hypercall.Port) error {
	// The request has the same number and structure for both devices.
	return h.s.l.request(h.node, xendev.GntallocSetUnmapNotify, xendev.NewUnmapNotify(h.index+uint64(offset), action, uint32(port)))
}

// awaitUses waits until no operation is under way with the pages; no new one begins, for the handle is ended.
func (h *linuxHold) awaitUses() {
	l := h.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for h.uses > 0 {
		l.changed.Wait()
	}
}

// linuxShare is a [Share] of a [Linux].
type linuxShare struct {
	linuxHold
	refs []Ref
	err  error // of End; guarded by the table's mu
}

var _ Share = (*linuxShare)(nil)

// Share implements [Table].
func (l *Linux) Share(peer hypercall.DomID, pages int, access Access) (Share, error) {
	if err := checkShare(peer, pages); err != nil {
		return nil, err
	}
	sh, err := l.share(peer, pages, access)
	if err != nil {
		return nil, fmt.Errorf("grant: share %d pages with domain %d: %w", pages, peer, err)
	}
	return sh, nil
}

func (l *Linux) share(peer hypercall.DomID, pages int, access Access) (*linuxShare, error) {
	s, err := l.session()
	if err != nil {
		return nil, err
	}
	if s.allocErr != nil {
		return nil, s.allocErr
	}
	flags := uint16(0)
	if access == ReadWrite {
		flags = xendev.GntallocWritable
	}
	arg := xendev.NewAlloc(uint16(peer), flags, pages)
	if err := l.request(s.alloc, xendev.GntallocAlloc, arg); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return nil, l.noSpace(pages, err)
		}
		return nil, err
	}
	sh := &linuxShare{linuxHold: linuxHold{s: s, node: s.alloc, index: arg.Index(), what: "share"}, refs: make([]Ref, pages)}
	for i := range sh.refs {
		sh.refs[i] = Ref(arg.Ref(i))
	}
	if sh.region, err = s.alloc.Map(sh.index, pages, true); err != nil {
		return nil, errors.Join(l.deviceError(err), sh.dealloc())
	}
	if err := l.addShare(sh); err != nil {
		return nil, errors.Join(err, sh.region.Close(), sh.dealloc())
	}
	return sh, nil
}

func (l *Linux) noSpace(want int, cause error) error {
	limit := l.limit()
	l.mu.Lock()
	defer l.mu.Unlock()
	// What others in the domain share is not known.
	return &NoSpaceError{Want: want, Free: max(0, min(want-1, limit-l.shared)), Size: l.shared, Limit: limit, Err: cause}
}

func (l *Linux) addShare(sh *linuxShare) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(sh.s); err != nil {
		return err
	}
	l.shares.add(sh)
	l.shared += len(sh.refs)
	return nil
}

// dealloc gives the pages back, which the kernel frees when nobody has them mapped any more.
func (sh *linuxShare) dealloc() error {
	err := sh.s.l.request(sh.node, xendev.GntallocDealloc, xendev.NewRange(sh.index, len(sh.refs)))
	if wentWithDevice(err) {
		return nil
	}
	return err
}

// Refs implements [Share].
func (sh *linuxShare) Refs() []Ref { return append([]Ref(nil), sh.refs...) }

// End implements [Share].
func (sh *linuxShare) End() (Ending, error) {
	if !sh.begin(sh.leave) {
		return sh.outcome()
	}
	// The kernel notifies when the last of these has let go.
	err := errors.Join(sh.region.Close(), sh.dealloc())
	if err != nil {
		err = fmt.Errorf("grant: end a share: %w", err)
		sh.s.l.leak(len(sh.refs), "shared pages could not be given back", err)
	}
	return sh.finish(err)
}

// +checklocks:sh.s.l.mu
func (sh *linuxShare) leave() {
	sh.s.l.shares.remove(sh)
	sh.s.l.shared -= len(sh.refs)
}

func (sh *linuxShare) outcome() (Ending, error) {
	sh.s.l.mu.Lock()
	defer sh.s.l.mu.Unlock()
	return Surrendered, sh.err
}

func (sh *linuxShare) finish(err error) (Ending, error) {
	l := sh.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.now != sh.s && !l.closed {
		err = stale("end")
	}
	sh.state, sh.err, sh.stale = ended, err, errors.Is(err, hypercall.ErrStale)
	l.changed.Broadcast()
	return Surrendered, err
}

func (l *Linux) leak(pages int, what string, err error) {
	l.mu.Lock()
	l.leaked += pages
	l.mu.Unlock()
	l.cfg.Logger.Warn("grant: "+what, "pages", pages, "error", err)
}

// linuxMapping is a [Mapping] of a [Linux].
type linuxMapping struct {
	linuxHold
	peer  hypercall.DomID
	pages int
}

var _ Mapping = (*linuxMapping)(nil)

// Map implements [Table]. The kernel does not say which page could not be mapped, nor why: Xen is asked that by copies of a byte each.
func (l *Linux) Map(peer hypercall.DomID, refs []Ref, access Access) (Mapping, error) {
	if err := checkMap(peer, len(refs)); err != nil {
		return nil, err
	}
	s, err := l.session()
	if err == nil {
		err = errors.Join(s.devErr, l.refusal(peer))
	}
	if err != nil {
		return nil, fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, err)
	}
	m, err := s.mapRefs(peer, refs, access)
	if err != nil {
		return nil, s.diagnose(peer, refs, access, err)
	}
	l.maps.Add(uint64(len(refs)))
	if err := l.addMapping(m); err != nil {
		return nil, errors.Join(fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, err), m.letGo())
	}
	return m, nil
}

// Forbid is for the platform: Map refuses the pages of that domain from now on, and says why. It takes the place of an earlier one.
func (l *Linux) Forbid(peer hypercall.DomID, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forbidden, l.why = peer, why
}

func (l *Linux) refusal(peer hypercall.DomID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forbidden != peer {
		return nil
	}
	return l.why
}

// mapRefs maps pages, with further attempts where it may work later.
func (s *session) mapRefs(peer hypercall.DomID, refs []Ref, access Access) (m *linuxMapping, err error) {
	numbers := make([]uint32, len(refs))
	for i, r := range refs {
		numbers[i] = uint32(r)
	}
	err = s.l.again(func() error {
		m, err = s.tryMap(peer, numbers, access)
		return err
	})
	return m, err
}

func (s *session) tryMap(peer hypercall.DomID, refs []uint32, access Access) (*linuxMapping, error) {
	arg := xendev.NewMap(uint16(peer), refs)
	if err := s.l.request(s.dev, xendev.GntdevMap, arg); err != nil {
		return nil, err
	}
	m := &linuxMapping{linuxHold: linuxHold{s: s, node: s.dev, index: arg.Index(), what: "mapping"}, peer: peer, pages: len(refs)}
	var err error
	if m.region, err = s.dev.Map(m.index, len(refs), access == ReadWrite); err != nil {
		return nil, errors.Join(s.l.deviceError(err), m.unmap())
	}
	return m, nil
}

func (l *Linux) addMapping(m *linuxMapping) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.check(m.s); err != nil {
		return err
	}
	l.mappings.add(m)
	l.mapped += m.pages
	return nil
}

// diagnose returns the error of a mapping that could not be made because of cause.
func (s *session) diagnose(peer hypercall.DomID, refs []Ref, access Access, cause error) error {
	if !errors.Is(cause, syscall.EINVAL) && !errors.Is(cause, syscall.EAGAIN) {
		return fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, cause)
	}
	e := &MapError{Peer: peer, Refs: append([]Ref(nil), refs...), Statuses: s.probe(peer, refs)}
	if e.Unwrap() == nil {
		// All can be read, so what is refused is to write them, or passes. It must be seen for each.
		for i := range refs {
			m, err := s.mapRefs(peer, refs[i:i+1], access)
			switch {
			case err == nil:
				err = errors.Join(m.region.Close(), m.unmap())
				if err != nil {
					s.l.leak(1, "a page could not be unmapped", err)
				}
			case errors.Is(err, syscall.EAGAIN):
				e.Statuses[i] = hypercall.StatusEagain
			default:
				e.Statuses[i] = hypercall.StatusGeneralError // which is what Xen says where access is not granted
			}
		}
	}
	if e.Unwrap() == nil {
		return fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), peer, cause)
	}
	return e
}

// probe copies a byte from each page, and returns what Xen says of that.
func (s *session) probe(peer hypercall.DomID, refs []Ref) []hypercall.GrantStatus {
	statuses := make([]hypercall.GrantStatus, len(refs))
	scratch := shm.New(1)
	defer scratch.Close()
	ops := make([]linuxCopy, len(refs))
	for i, r := range refs {
		ops[i] = linuxCopy{
			src: xendev.End{Ref: uint32(r), DomID: uint16(peer)}, dst: xendev.End{Virt: xendev.Address(scratch, 0)},
			n: 1, flags: xendev.CopySourceGref,
		}
	}
	if err := s.copyBatches(ops); err != nil {
		return statuses
	}
	for i := range ops {
		statuses[i] = ops[i].status
	}
	return statuses
}

// unmap has the kernel forget the mapping. The address space is given up before: it keeps the pages otherwise.
func (m *linuxMapping) unmap() error {
	err := m.s.l.request(m.node, xendev.GntdevUnmap, xendev.NewRange(m.index, m.pages))
	if wentWithDevice(err) {
		return nil
	}
	return err
}

// Close implements [Mapping].
func (m *linuxMapping) Close() error {
	if !m.begin(m.leave) {
		return m.closedAgain()
	}
	return m.finish(m.letGo())
}

// letGo unmaps the pages.
func (m *linuxMapping) letGo() error {
	if err := errors.Join(m.region.Close(), m.unmap()); err != nil {
		err = fmt.Errorf("grant: unmap %d pages of domain %d: %w", m.pages, m.peer, err)
		m.s.l.leak(m.pages, "pages could not be unmapped", err)
		return err
	}
	m.s.l.unmaps.Add(uint64(m.pages))
	return nil
}

// +checklocks:m.s.l.mu
func (m *linuxMapping) leave() {
	m.s.l.mappings.remove(m)
	m.s.l.mapped -= m.pages
}

func (m *linuxMapping) finish(err error) error {
	l := m.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	m.state = ended
	l.changed.Broadcast()
	if err == nil && l.now != m.s && !l.closed {
		err = stale("close a mapping")
	}
	return err
}

func (m *linuxMapping) closedAgain() error {
	l := m.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.stale && !m.told {
		m.told = true
		return stale("close a mapping")
	}
	return nil
}

// Stats implements [Table]. Hypercalls are requests to the devices; of the kernel's grant table nothing is known.
func (l *Linux) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		Shared: l.shared, Mapped: l.mapped, Leaked: l.leaked,
		Maps: l.maps.Load(), Unmaps: l.unmaps.Load(), Copies: l.copies.Load(), Hypercalls: l.requests.Load(),
	}
}

// Resume is for the platform: the domain was suspended and runs again, with a new and empty grant table. Shares and mappings made before
// are closed, and answer [hypercall.ErrStale] from now on; the devices are opened anew.
func (l *Linux) Resume() error {
	s, err := l.newSession()
	if err != nil {
		return err
	}
	shares, mappings, old := l.swap(s)
	if old == nil {
		return errors.Join(fmt.Errorf("grant: resume: %w", net.ErrClosed), s.close())
	}
	var errs []error
	for _, m := range mappings {
		m.awaitUses()
		errs = append(errs, m.region.Close())
		l.unmaps.Add(uint64(m.pages))
	}
	for _, sh := range shares {
		sh.awaitUses()
		errs = append(errs, sh.region.Close())
	}
	return errors.Join(append(errs, old.close())...)
}

// swap makes all handles stale. old is nil where the table was closed.
func (l *Linux) swap(s *session) (shares []*linuxShare, mappings []*linuxMapping, old *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, nil
	}
	shares, mappings, old = l.shares.all(), l.mappings.all(), l.now
	for _, sh := range shares {
		sh.state, sh.stale, sh.err = ended, true, stale("end")
		l.shares.remove(sh)
	}
	for _, m := range mappings {
		m.state, m.stale = ended, true
		l.mappings.remove(m)
	}
	l.shared, l.mapped, l.now = 0, 0, s
	l.changed.Broadcast()
	return shares, mappings, old
}

// Close implements [Table].
func (l *Linux) Close() error {
	shares, mappings, s := l.beginClose()
	if s == nil {
		return nil
	}
	var errs []error
	for _, m := range mappings {
		errs = append(errs, m.Close())
	}
	for _, sh := range shares {
		_, err := sh.End()
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.close())...)
}

func (l *Linux) beginClose() ([]*linuxShare, []*linuxMapping, *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, nil
	}
	l.closed = true
	return l.shares.all(), l.mappings.all(), l.now
}
