package grant

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// fakeXen is a Xen and a platform that do what a test says: everything goes well until it says otherwise.
type fakeXen struct {
	mu         sync.Mutex
	max        uint32
	version    uint32
	frames     []*shm.Region                        // the grant table
	next       hypercall.GFN                        // the frame number that is given next
	alloc      map[hypercall.GFN]int                // frames allocated
	reserved   map[hypercall.GFN]int                // frame numbers reserved
	behind     map[hypercall.GFN]*shm.Region        // what is behind a frame number
	mapped     map[hypercall.GrantHandle]uint64     // where
	calls      map[uint64]int                       // grant table commands
	onMap      func(op *hypercall.MapGrantRef)      // instead of success
	onMapped   func(op *hypercall.MapGrantRef)      // after a success: what Xen says of it is what the caller sees
	untouched  func(op *hypercall.MapGrantRef) bool // whether Xen does not come to the operation
	onUnmap    func(op *hypercall.UnmapGrantRef)    // instead of success
	onCopy     func(op *hypercall.GrantCopy)        // instead of success
	onAlloc    func() error                         // before an allocation
	failCall   map[uint64]error                     // a grant table command's own result
	skip       map[uint64]bool                      // grant table commands of which Xen does nothing, and says nothing of it
	chosen     uint32                               // the version that Xen chooses, whatever is asked for; 0 for what is asked for
	memory     int                                  // so many more requests for memory of any kind succeed, where scarce is set
	scarce     bool
	failAdd    func(idx uint64) error // add_to_physmap
	failView   error
	failRemove error                 // remove_from_physmap's result
	before     func(*hypercall.Call) // runs before a hypercall, and may have it come after a resume
	crossed    int                   // so many requests for memory, from now on, answer that a resume crossed them
	notify     map[hypercall.GFN]hypercall.Port
}

func newFakeXen() *fakeXen {
	x := &fakeXen{
		max: 4, version: 1, next: 0x100, alloc: map[hypercall.GFN]int{}, reserved: map[hypercall.GFN]int{},
		behind: map[hypercall.GFN]*shm.Region{}, mapped: map[hypercall.GrantHandle]uint64{}, calls: map[uint64]int{},
		failCall: map[uint64]error{}, notify: map[hypercall.GFN]hypercall.Port{},
	}
	x.reset()
	return x
}

// reset gives the domain an empty table, as after a resume.
func (x *fakeXen) reset() {
	x.frames = nil
	for range 8 {
		x.frames = append(x.frames, shm.New(1))
	}
}

// resume is what Xen does: an empty table, and nothing behind any frame number. Native is told later.
func (x *fakeXen) resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reset()
	clear(x.mapped)
	clear(x.behind)
	clear(x.notify)
}

// short reports whether there is no memory for one more request, of the domain's or in Xen.
func (x *fakeXen) short() bool {
	if !x.scarce {
		return false
	}
	x.memory--
	return x.memory < 0
}

func (x *fakeXen) cross() bool {
	x.crossed--
	return x.crossed >= 0
}

func newNative(t testing.TB, x *fakeXen, cfg *Config) *Native {
	if cfg == nil {
		cfg = &Config{Backoff: time.Microsecond}
	}
	n, err := NewNative(x, x, cfg)
	require.NoError(t, err)
	return n
}

// requireClean closes the table, and checks that the platform has everything back.
func requireClean(t *testing.T, n *Native, x *fakeXen) {
	t.Helper()
	require.NoError(t, n.Close())
	require.Empty(t, x.alloc, "frames")
	require.Empty(t, x.reserved, "frame numbers")
	require.Empty(t, x.mapped, "mappings")
	require.Empty(t, x.notify, "notifications")
	require.Empty(t, x.behind, "frames of the table in the domain's address space")
}

func (x *fakeXen) ABI() hypercall.ABI { return hypercall.X86_64 }

func (x *fakeXen) Hypercall(c *hypercall.Call) (uint64, error) {
	if x.before != nil {
		x.before(c)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch c.Nr {
	case hypercall.NrGrantTableOp:
		x.calls[c.Args[0]]++
		return 0, x.grantOp(c)
	case hypercall.NrMemoryOp:
		return 0, x.memoryOp(c)
	case hypercall.NrEventChannelOp:
		return 0, nil
	}
	return 0, hypercall.ENOSYS
}

func each[S hypercall.Struct](c *hypercall.Call, s S, f func()) {
	for i := range int(c.Args[2]) {
		c.Decode(hypercall.X86_64, i, s)
		f()
		c.Encode(hypercall.X86_64, i, s)
	}
}

func (x *fakeXen) grantOp(c *hypercall.Call) error {
	if x.skip[c.Args[0]] {
		return x.failCall[c.Args[0]]
	}
	switch c.Args[0] {
	case hypercall.GnttabopMapGrantRef:
		var op hypercall.MapGrantRef
		each(c, &op, func() { x.mapGrant(&op) })
	case hypercall.GnttabopUnmapGrantRef:
		var op hypercall.UnmapGrantRef
		each(c, &op, func() { x.unmapGrant(&op) })
	case hypercall.GnttabopCopy:
		var op hypercall.GrantCopy
		each(c, &op, func() {
			op.Status = 0
			if x.onCopy != nil {
				x.onCopy(&op)
			}
		})
	case hypercall.GnttabopQuerySize:
		var op hypercall.QueryGrantTableSize
		each(c, &op, func() { op.NrFrames, op.MaxNrFrames, op.Status = 1, x.max, 0 })
	case hypercall.GnttabopGetVersion:
		var op hypercall.QueryGrantVersion
		each(c, &op, func() { op.Version = x.version })
	case hypercall.GnttabopSetVersion:
		var op hypercall.GrantTableVersion
		if x.failCall[c.Args[0]] == nil {
			each(c, &op, func() {
				if x.chosen != 0 {
					op.Version = x.chosen
				}
				x.version = op.Version
			})
		}
	}
	return x.failCall[c.Args[0]]
}

func (x *fakeXen) mapGrant(op *hypercall.MapGrantRef) {
	if x.untouched != nil && x.untouched(op) {
		return
	}
	if op.Status = 0; x.onMap != nil {
		x.onMap(op)
	}
	if op.Status == 0 && x.short() {
		op.Status = hypercall.StatusNoSpace
	}
	if op.Status == 0 {
		op.Handle = hypercall.GrantHandle(op.HostAddr / shm.PageSize)
		x.mapped[op.Handle] = op.HostAddr
		if x.onMapped != nil {
			x.onMapped(op)
		}
	}
}

func (x *fakeXen) unmapGrant(op *hypercall.UnmapGrantRef) {
	if op.Status = hypercall.StatusBadHandle; x.mapped[op.Handle] == op.HostAddr && op.HostAddr != 0 {
		op.Status = 0
	}
	if x.onUnmap != nil {
		x.onUnmap(op)
	}
	if op.Status == 0 {
		delete(x.mapped, op.Handle)
	}
}

func (x *fakeXen) memoryOp(c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.XenmemAddToPhysmap:
		var op hypercall.PhysmapAdd
		c.Decode(hypercall.X86_64, 0, &op)
		if x.short() {
			return hypercall.ENOMEM
		}
		if x.failAdd != nil {
			if err := x.failAdd(op.Idx); err != nil {
				return err
			}
		}
		x.behind[op.GFN] = x.frames[op.Idx]
	case hypercall.XenmemRemoveFromPhysmap:
		var op hypercall.PhysmapRemove
		c.Decode(hypercall.X86_64, 0, &op)
		delete(x.behind, op.GFN)
		return x.failRemove
	}
	return nil
}

func (x *fakeXen) Alloc(n int) (hypercall.GFN, *shm.Region, error) {
	if x.onAlloc != nil {
		if err := x.onAlloc(); err != nil {
			return 0, nil, err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.short() {
		return 0, nil, hypercall.ENOMEM
	}
	first := x.next
	x.next += hypercall.GFN(n)
	x.alloc[first] = n
	return first, shm.New(n), nil
}

func (x *fakeXen) Free(first hypercall.GFN, n int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cross() {
		return hypercall.ErrStale
	}
	if x.alloc[first] != n {
		return hypercall.ENOENT
	}
	delete(x.alloc, first)
	return nil
}

func (x *fakeXen) Reserve(n int) (hypercall.GFN, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.short() {
		return 0, hypercall.ENOMEM
	}
	first := x.next
	x.next += hypercall.GFN(n)
	x.reserved[first] = n
	return first, nil
}

func (x *fakeXen) Unreserve(first hypercall.GFN, n int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cross() {
		return hypercall.ErrStale
	}
	if x.reserved[first] != n {
		return hypercall.ENOENT
	}
	delete(x.reserved, first)
	return nil
}

func (x *fakeXen) View(first hypercall.GFN, n int, writable bool) (*shm.Region, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.short() {
		return nil, hypercall.ENOMEM
	}
	r := x.behind[first]
	switch {
	case r != nil: // the grant table
		r = shm.Join(r)
	case x.failView != nil:
		return nil, x.failView
	case x.mapped[hypercall.GrantHandle(first)] == 0:
		return nil, hypercall.EINVAL
	default:
		r = shm.New(n)
	}
	if !writable {
		r = r.ReadOnly()
	}
	return r, nil
}

func (x *fakeXen) SetUnmapNotify(frame hypercall.GFN, off int, port hypercall.Port) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if off < 0 && port == 0 {
		delete(x.notify, frame)
		return nil
	}
	x.notify[frame] = port
	return nil
}
