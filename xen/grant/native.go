package grant

import (
	"errors"
	"fmt"
	"log/slog"
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
