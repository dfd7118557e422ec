package grant

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Defaults of [Config].
const (
	DefaultMaxBatch = 512              // operations in one hypercall
	DefaultRetries  = 8                // tries again at an operation that Xen could not do just now
	DefaultBackoff  = time.Millisecond // before the first of them
	// DefaultQuarantineShare is the part of the references that the table can have which one peer may keep in quarantine: a quarter.
	DefaultQuarantineShare = 4
)

const (
	// maxBackoff is where the doubling of Config.Backoff ends. With the defaults an operation is given up after a fifth of a second.
	maxBackoff = 64 * time.Millisecond
	// reapBudget is how many references in quarantine one End tries again, so that a peer that holds many does not slow it down.
	reapBudget = 64
	// maxCrossings bounds how many resumes in a row one request to give memory back may be crossed by. Each try waits for the domain to
	// run, so that only a platform that answers ErrStale without a resume gets there.
	maxCrossings = 64
)

// Config is what a [Native] can be told. Zero fields, and a nil *Config, stand for the defaults.
type Config struct {
	MaxBatch  int           // map, unmap and copy operations in one hypercall; DefaultMaxBatch
	MaxFrames int           // frames that the table may grow to, of 512 references each; the host's limit
	Retries   int           // how often an operation is tried again that Xen answers GNTST_eagain; negative for never; DefaultRetries
	Backoff   time.Duration // the wait before the first of those, doubled for each further one, at most 64 ms; DefaultBackoff
	Logger    *slog.Logger  // told of what leaks; nil for nobody
	// MaxQuarantine is how many pages one peer may keep in quarantine before Share with it is refused with a [*QuarantineError], so that
	// a peer that never lets go cannot use up the table for the others; a quarter of the references that the table can have.
	MaxQuarantine int
}

func (c *Config) withDefaults() Config {
	var cfg Config
	if c != nil {
		cfg = *c
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = DefaultMaxBatch
	}
	if cfg.MaxFrames <= 0 || cfg.MaxFrames > maxV1Frames {
		cfg.MaxFrames = maxV1Frames
	}
	if cfg.Retries == 0 {
		cfg.Retries = DefaultRetries
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = DefaultBackoff
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// Native is a domain's grant table of version 1, worked on by the domain itself: it writes the entries and makes the hypercalls. It
// is a [Table], safe for concurrent use. No lock of its own is held while it touches shared memory, makes a hypercall or waits.
type Native struct {
	c        hypercall.Caller
	mem      hypercall.Memory
	notifier hypercall.UnmapNotifier // nil where the platform has none
	cfg      Config

	hypercalls atomic.Uint64
	maps       atomic.Uint64
	unmaps     atomic.Uint64
	copies     atomic.Uint64

	// first and reserved are the frame numbers where the table is put. They outlive suspend and resume.
	first    hypercall.GFN
	reserved int

	mu sync.Mutex
	// changed is broadcast when what somebody may wait for has changed: growing, reaping, or the state of a share.
	// +checklocks:mu
	changed change
	// v1 is replaced when the domain resumes. Permit and End of the one that a reference was taken from need no lock.
	// +checklocks:mu
	v1 *V1
	// views are the ways to the table's frames.
	// +checklocks:mu
	views []*shm.Region
	// incarnation counts resumes: what began in an earlier one must not touch the state of this one.
	// +checklocks:mu
	incarnation uint64
	// growing is whether somebody adds a frame, closes the table or sets it up anew; one at a time.
	// +checklocks:mu
	growing bool
	// reaping is how many goroutines have batches out of quarantine.
	// +checklocks:mu
	reaping int
	// +checklocks:mu
	closed bool
	// torn is whether the table's frames have been taken down, after Close.
	// +checklocks:mu
	torn bool
	// +checklocks:mu
	shares handles[*share]
	// +checklocks:mu
	mappings handles[*mapping]
	// +checklocks:mu
	shared int
	// +checklocks:mu
	mapped int
	// +checklocks:mu
	leaked int
}

var _ Table = (*Native)(nil)

// NewNative sets up the grant table of the domain that c makes hypercalls as: it asks for the table's limit, and has the first frame
// put behind frame numbers that it reserves in mem. Whatever an earlier user of the table left granted in that frame is ended.
func NewNative(c hypercall.Caller, mem hypercall.Memory, cfg *Config) (*Native, error) {
	n := &Native{c: c, mem: mem, cfg: cfg.withDefaults()}
	n.notifier, _ = mem.(hypercall.UnmapNotifier)
	n.changed.L = &n.mu
	n.changed.awaiter, _ = mem.(hypercall.Awaiter)
	limit, err := n.probe()
	if err != nil {
		return nil, err
	}
	if n.first, err = mem.Reserve(limit); err != nil {
		return nil, fmt.Errorf("grant: reserve %d frame numbers for the table: %w", limit, err)
	}
	n.reserved = limit
	n.setup(limit)
	if err := n.grow(); err != nil {
		return nil, errors.Join(err, mem.Unreserve(n.first, n.reserved))
	}
	return n, nil
}

// probe asks Xen how large the table can be, and sees to it that it is of version 1.
func (n *Native) probe() (limit int, err error) {
	n.hypercalls.Add(2)
	version, err := hypercall.GetGrantVersion(n.c, hypercall.DomSelf)
	switch {
	case errors.Is(err, errors.ErrUnsupported): // a Xen that does not know of versions has the first
	case err != nil:
		return 0, fmt.Errorf("grant: ask for the table's version: %w", err)
	case version != 1:
		n.hypercalls.Add(1)
		if err := setVersion1(n.c); err != nil {
			return 0, fmt.Errorf("grant: the table is of version %d, and cannot be made one of version 1: %w", version, err)
		}
	}
	_, most, err := hypercall.QueryGrantSize(n.c, hypercall.DomSelf)
	if err != nil {
		return 0, fmt.Errorf("grant: ask for the table's size: %w", err)
	}
	if most == 0 {
		return 0, fmt.Errorf("grant: the host lets the table have no frame: %w", ErrNoSpace)
	}
	return int(min(uint64(most), uint64(n.cfg.MaxFrames))), nil
}

func setVersion1(c hypercall.Caller) error {
	now, err := hypercall.SetGrantVersion(c, 1)
	if err == nil && now != 1 {
		err = fmt.Errorf("version %d is what Xen chose", now)
	}
	return err
}

// setup begins with an empty core. The caller has it to itself, or set growing.
func (n *Native) setup(limit int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.v1 = NewV1(limit)
	n.growing = true
}

// grow adds a frame to the table; the caller has set growing, which grow ends. Where a step fails the ones before it are undone.
func (n *Native) grow() error {
	n.mu.Lock()
	at := n.v1.Frames()
	n.mu.Unlock()
	view, err := n.frame(at)
	var busy []int
	if err == nil {
		busy = Survey(view, at == 0)
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	n.growing = false
	n.changed.Broadcast()
	if err != nil {
		return err
	}
	if len(busy) > 0 {
		n.cfg.Logger.Warn("grant table entries of an earlier user are in use", "frame", at, "entries", len(busy))
	}
	n.views = append(n.views, view)
	n.v1.Grow(view, busy)
	return nil
}

// frame has Xen put the table's frame number at behind the frame number that is meant for it. Xen makes the table larger for that
// where it must (XENMAPSPACE_grant_table).
func (n *Native) frame(at int) (*shm.Region, error) {
	gfn := n.first + hypercall.GFN(at)
	n.hypercalls.Add(1)
	if err := hypercall.AddToPhysmap(n.c, hypercall.DomSelf, hypercall.SpaceGrantTable, uint64(at), gfn); err != nil {
		return nil, fmt.Errorf("grant: put frame %d of the table at frame number %#x: %w", at, uint64(gfn), err)
	}
	view, err := n.mem.View(gfn, 1, true)
	if err != nil {
		n.hypercalls.Add(1)
		undo := hypercall.RemoveFromPhysmap(n.c, hypercall.DomSelf, gfn)
		return nil, errors.Join(fmt.Errorf("grant: reach frame %d of the table: %w", at, err), undo)
	}
	return view, nil
}

// lease is what an operation took: references, and the incarnation that they are of.
type lease struct {
	v1          *V1
	incarnation uint64
	refs        []Ref
}

// step is what is to be done for a lease that could not be had at once.
type step uint8

const (
	stepDone step = iota
	stepReap
	stepGrow
)

// take gets count references for a share with peer: free ones, else ones that come free in quarantine, else new ones of a larger table.
func (n *Native) take(peer hypercall.DomID, count int) (lease, error) {
	refs := make([]Ref, count)
	for reaped := false; ; {
		l, next, err := n.tryTake(peer, refs, reaped)
		if err != nil {
			return lease{}, err
		}
		switch next {
		case stepDone:
			return l, nil
		case stepReap:
			n.reap(-1)
			reaped = true
		case stepGrow:
			if err := n.grow(); err != nil && n.wasResumed(l.incarnation) {
				return lease{}, stale("make the table larger")
			} else if err != nil {
				return lease{}, n.noSpace(count, err)
			}
		}
	}
}

func (n *Native) tryTake(peer hypercall.DomID, refs []Ref, reaped bool) (lease, step, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		switch {
		case n.closed:
			return lease{}, 0, fmt.Errorf("grant: share: %w", net.ErrClosed)
		case n.v1.HeldBy(peer) >= n.maxQuarantine() && !reaped:
			return lease{}, stepReap, nil
		case n.v1.HeldBy(peer) >= n.maxQuarantine():
			return lease{}, 0, &QuarantineError{Peer: peer, Held: n.v1.HeldBy(peer), Limit: n.maxQuarantine()}
		case n.v1.Take(refs):
			return lease{n.v1, n.incarnation, refs}, stepDone, nil
		case n.growing || n.reaping > 0:
			n.changed.Wait()
		case len(refs) > n.v1.Capacity():
			return lease{}, 0, n.noSpaceLocked(len(refs), nil)
		case !reaped && n.v1.Batches() > 0:
			return lease{}, stepReap, nil
		case n.v1.Frames() < n.v1.Limit():
			n.growing = true
			return lease{incarnation: n.incarnation}, stepGrow, nil
		default:
			return lease{}, 0, n.noSpaceLocked(len(refs), nil)
		}
	}
}

// maxQuarantine is Config.MaxQuarantine, or its default for a table as large as this one can be.
//
// +checklocks:n.mu
func (n *Native) maxQuarantine() int {
	if n.cfg.MaxQuarantine > 0 {
		return n.cfg.MaxQuarantine
	}
	return max(1, n.v1.Limit()*hypercall.GrantsPerFrame/DefaultQuarantineShare)
}

func (n *Native) noSpace(want int, cause error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.noSpaceLocked(want, cause)
}

// +checklocks:n.mu
func (n *Native) noSpaceLocked(want int, cause error) error {
	return &NoSpaceError{
		Want: want, Free: n.v1.Free(), Size: n.v1.Size(), Limit: n.v1.Limit() * hypercall.GrantsPerFrame,
		Quarantined: n.v1.Held(), Err: cause,
	}
}

// put gives a lease's references back. Those of an earlier incarnation are gone with it.
func (n *Native) put(l lease) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.incarnation == n.incarnation {
		n.v1.Put(l.refs)
	}
}

// Reap tries to end again what is in quarantine, and frees the pages that no peer has mapped any more. It returns how many pages are
// left there. Share does the same before it grows the table, and End for a few.
func (n *Native) Reap() (held int) {
	n.reap(-1)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.v1.Held()
}

// Room returns how many pages peer keeps in quarantine, and how many references are left for shares with anybody, with those that the
// table can grow by.
func (n *Native) Room(peer hypercall.DomID) (held, left int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.v1.HeldBy(peer), n.v1.Free() + (n.v1.Limit()-n.v1.Frames())*hypercall.GrantsPerFrame
}

// reap tries the batches that are in quarantine now again, oldest first, until it has tried budget references; negative for all.
func (n *Native) reap(budget int) {
	l, left := n.beginReap()
	defer n.endReap()
	for ; left > 0 && budget != 0; left-- {
		b := n.release(l)
		if b == nil {
			return
		}
		tried := b.Refs
		if budget > 0 && len(tried) > budget {
			tried = tried[:budget]
		}
		later := b.Refs[len(tried):]
		if budget > 0 {
			budget -= len(tried)
		}
		freed, busy := l.v1.EndAll(tried)
		// The ones not tried come first next time.
		b.Refs = append(append(make([]Ref, 0, len(later)+len(busy)), later...), busy...)
		n.settle(l, *b, freed)
	}
}

// beginReap returns the incarnation to reap in, as a lease of nothing, and how many batches are in quarantine.
func (n *Native) beginReap() (lease, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reaping++
	return lease{v1: n.v1, incarnation: n.incarnation}, n.v1.Batches()
}

func (n *Native) endReap() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reaping--
	n.changed.Broadcast()
}

// release takes a batch out of the quarantine of the lease's incarnation.
func (n *Native) release(l lease) *Batch {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.incarnation != n.incarnation {
		return nil
	}
	return n.v1.Release()
}

// settle does what follows from an attempt to end the references of b: the ones that came free are free, the batch is quarantined
// while any is busy, and its pages are freed when none is.
func (n *Native) settle(l lease, b Batch, freed []Ref) (Ending, error) {
	n.mu.Lock()
	current := l.incarnation == n.incarnation
	if current {
		n.v1.Put(freed)
		if len(b.Refs) > 0 {
			kept := b // b itself need not be on the heap
			n.v1.Quarantine(&kept)
			n.mu.Unlock()
			return Busy, nil
		}
	}
	n.mu.Unlock()
	err := n.free(b.First, b.Pages)
	if !current {
		return Reclaimed, errors.Join(stale("end"), err)
	}
	return Reclaimed, err
}

// acrossResumes has the platform take memory or frame numbers back. They outlive incarnations, so where the request was crossed by a
// resume it is made again.
func acrossResumes(giveBack func() error) (err error) {
	for range maxCrossings {
		if err = giveBack(); !errors.Is(err, hypercall.ErrStale) {
			return err
		}
	}
	return err
}

// free gives pages back to the platform.
func (n *Native) free(first hypercall.GFN, pages int) error {
	if pages == 0 {
		return nil
	}
	if err := acrossResumes(func() error { return n.mem.Free(first, pages) }); err != nil {
		n.leak(pages, "frames could not be freed", err)
		return fmt.Errorf("grant: free %d frames from %#x: %w", pages, uint64(first), err)
	}
	return nil
}

// leak counts pages or frame numbers that are lost until the domain ends.
func (n *Native) leak(pages int, what string, err error) {
	n.mu.Lock()
	n.leaked += pages
	n.mu.Unlock()
	n.cfg.Logger.Warn("grant: "+what, "pages", pages, "error", err)
}

func stale(op string) error { return fmt.Errorf("grant: %s: %w", op, hypercall.ErrStale) }

// Stats implements [Table].
func (n *Native) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return Stats{
		Shared: n.shared, Quarantined: n.v1.Held(), Mapped: n.mapped, Leaked: n.leaked,
		Free: n.v1.Free(), Size: n.v1.Size(),
		Maps: n.maps.Load(), Unmaps: n.unmaps.Load(), Copies: n.copies.Load(), Hypercalls: n.hypercalls.Load(),
	}
}

// Resume is for the platform: the domain was suspended and runs again, with a new and empty grant table. Shares and mappings made
// before are closed, and answer [hypercall.ErrStale] from now on; the memory of the shares is freed. No vCPU may be in an operation
// that began before the suspend, except waiting for a lock or in a hypercall; such an operation fails with ErrStale. A table that was
// closed stays closed.
func (n *Native) Resume() error {
	shares, mappings, views, old := n.leaveIncarnation()
	var errs []error
	for _, v := range views {
		errs = append(errs, v.Close())
	}
	for _, m := range mappings {
		errs = append(errs, m.abandon())
	}
	for _, s := range shares {
		errs = append(errs, s.abandon())
	}
	for b := old.Release(); b != nil; b = old.Release() {
		errs = append(errs, n.free(b.First, b.Pages))
	}
	if closed, torn := n.isClosed(); closed {
		if !torn {
			errs = append(errs, n.tearDown(nil))
		}
		n.endGrowing()
		return errors.Join(errs...)
	}
	limit, err := n.probe()
	if err != nil {
		n.endGrowing()
		return errors.Join(append(errs, err)...)
	}
	n.setup(min(limit, n.reserved))
	return errors.Join(append(errs, n.grow())...)
}

// leaveIncarnation makes all that there is stale, and leaves an empty table that is being set up.
func (n *Native) leaveIncarnation() ([]*share, []*mapping, []*shm.Region, *V1) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.growing {
		n.changed.Wait()
	}
	n.growing = true
	n.incarnation++
	shares, mappings, views, old := n.shares.all(), n.mappings.all(), n.views, n.v1
	for _, s := range shares {
		s.state, s.stale, s.ending, s.err = ended, true, Reclaimed, stale("end")
		n.shares.remove(s)
	}
	for _, m := range mappings {
		m.state, m.stale = ended, true
		n.mappings.remove(m)
	}
	n.shared, n.mapped, n.views = 0, 0, nil
	n.v1 = NewV1(0)
	n.changed.Broadcast()
	return shares, mappings, views, old
}

// isClosed also makes the caller the one who takes down the frames of a table that was closed, where they are up still.
func (n *Native) isClosed() (closed, torn bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	closed, torn = n.closed, n.torn
	n.torn = n.torn || n.closed
	return closed, torn
}

func (n *Native) endGrowing() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.growing = false
	n.changed.Broadcast()
}

// Close implements [Table]. While peers have pages mapped that were shared, it returns an error that wraps [ErrBusy] and leaves the
// table's frames where they are; each further Close looks again whether they have let go, and returns nil when they have.
func (n *Native) Close() error {
	shares, mappings := n.beginClose()
	var errs []error
	for _, m := range mappings {
		errs = append(errs, m.Close())
	}
	for _, s := range shares {
		_, err := s.End()
		errs = append(errs, err)
	}
	n.reap(-1)
	views, held, last := n.beginTearDown()
	if held > 0 {
		errs = append(errs, fmt.Errorf("close: %w: %d", ErrBusy, held))
	}
	if last {
		errs = append(errs, n.tearDown(views))
	}
	return errors.Join(errs...)
}

func (n *Native) beginClose() ([]*share, []*mapping) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.changed.Broadcast()
	return n.shares.all(), n.mappings.all()
}

// beginTearDown waits until nobody uses the table's frames, and tells whether they are the caller's to take down.
func (n *Native) beginTearDown() (views []*shm.Region, held int, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.growing || n.reaping > 0 {
		n.changed.Wait()
	}
	held = n.v1.Held()
	if held > 0 || n.torn {
		return nil, held, false
	}
	n.torn = true
	views, n.views = n.views, nil
	return views, 0, true
}

func (n *Native) tearDown(views []*shm.Region) error {
	var errs []error
	for i, v := range views {
		v.Close()
		n.hypercalls.Add(1)
		err := hypercall.RemoveFromPhysmap(n.c, hypercall.DomSelf, n.first+hypercall.GFN(i))
		if err != nil && !errors.Is(err, hypercall.ErrStale) && !errors.Is(err, hypercall.ENOENT) { // else a resume has taken it down
			errs = append(errs, fmt.Errorf("grant: take down frame %d of the table: %w", i, err))
		}
	}
	if len(errs) > 0 {
		n.leak(n.reserved, "the table's frame numbers stay reserved", errs[0])
		return errors.Join(errs...)
	}
	if err := acrossResumes(func() error { return n.mem.Unreserve(n.first, n.reserved) }); err != nil {
		return fmt.Errorf("grant: give back the table's frame numbers: %w", err)
	}
	return nil
}

// wasResumed reports whether the domain was resumed since an operation that failed began in the incarnation. That may be before
// Resume says so, for Xen lets the domain run first: then nothing is behind the table's first frame number, where there is something
// at all other times until Close takes it down.
func (n *Native) wasResumed(incarnation uint64) bool {
	// First the look, then the count: once Resume has put the table there again it has counted.
	if !n.isTorn() {
		view, err := n.mem.View(n.first, 1, false)
		switch {
		case err == nil:
			view.Close()
		case errors.Is(err, hypercall.EINVAL) || errors.Is(err, hypercall.ErrStale):
			return true
		} // any other error says that the platform is short of something, and nothing of what is there
	}
	return !n.isCurrent(incarnation)
}

func (n *Native) isTorn() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.torn
}

// handles is a set of open handles. Each knows its place in it, so that it is left in constant time.
type handles[H interface{ place() *int }] struct{ list []H }

func (s *handles[H]) add(h H) {
	*h.place() = len(s.list)
	s.list = append(s.list, h)
}

func (s *handles[H]) remove(h H) {
	i, last := *h.place(), len(s.list)-1
	s.list[i] = s.list[last]
	*s.list[i].place() = i
	clear(s.list[last:])
	s.list = s.list[:last]
}

func (s *handles[H]) all() []H { return append([]H(nil), s.list...) }

// Limit returns how many frames, of 512 references each, the table can grow to.
func (n *Native) Limit() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.v1.Limit()
}
