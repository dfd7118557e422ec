package grant

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// modelXen is a model of Xen's grants and of Linux's drivers for them (drivers/xen/gntalloc.c, drivers/xen/gntdev.c), for several domains.
// Memory that a process maps it knows by its regions, so it sees whether one is given back in the right order.
type modelXen struct {
	mu      sync.Mutex
	grants  map[hypercall.DomID]map[uint32]*modelGrant
	last    uint32
	limit   int
	sent    []string // events, as "domain:port"
	wrong   []string // what a driver would have suffered for
	again   int      // how many maps answer EAGAIN from now on
	copying error    // what copies answer
	alive   []*modelDevice
}

type modelGrant struct {
	page     *shm.Region
	to       hypercall.DomID
	writable bool
}

func newModelXen() *modelXen {
	return &modelXen{grants: make(map[hypercall.DomID]map[uint32]*modelGrant), last: 7, limit: 1024}
}

func (x *modelXen) opener(dom hypercall.DomID) xendev.Opener {
	return func(name string) (xendev.Node, error) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.grants[dom] == nil {
			x.grants[dom] = make(map[uint32]*modelGrant)
		}
		d := &modelDevice{x: x, dom: dom, name: name, ranges: make(map[uint64]*modelRange)}
		x.alive = append(x.alive, d)
		return d, nil
	}
}

// modelRange is pages at an index of a device: shared ones of gntalloc, or mapped ones of gntdev.
type modelRange struct {
	index    uint64
	refs     []uint32
	peer     hypercall.DomID // whose they are, of gntdev
	memory   *shm.Region     // of gntalloc
	regions  []*shm.Region   // that the process has
	parts    []*shm.Region   // the pages of gntdev's
	notify   map[int]xendev.UnmapNotify
	readOnly bool
}

type modelDevice struct {
	x      *modelXen
	dom    hypercall.DomID
	name   string
	next   uint64
	ranges map[uint64]*modelRange
	closed bool
}

func (d *modelDevice) Ioctl(req xendev.Request, arg []byte, ps ...xendev.Pointer) (uint64, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	if d.closed {
		return 0, os.ErrClosed
	}
	alloc := d.name == xendev.DevGntalloc
	switch {
	case req == xendev.GntallocAlloc && alloc:
		return 0, d.alloc(arg)
	case req == xendev.GntallocDealloc && alloc, req == xendev.GntdevUnmap && !alloc:
		r := xendev.Range(arg)
		g := d.ranges[r.Index()]
		if g == nil || len(g.refs) != r.Count() {
			return 0, syscall.ENOENT
		}
		d.drop(g)
		return 0, nil
	case req == xendev.GntallocSetUnmapNotify:
		return 0, d.setNotify(arg)
	case req == xendev.GntdevMap && !alloc:
		m := xendev.Map(arg)
		g := &modelRange{index: d.take(m.Count()), notify: make(map[int]xendev.UnmapNotify)}
		for i := range m.Count() {
			dom, ref := m.Ref(i)
			g.refs, g.peer = append(g.refs, ref), hypercall.DomID(dom)
		}
		m.SetIndex(g.index)
		d.ranges[g.index] = g
		return 0, nil
	case req == xendev.GntdevCopy && !alloc:
		return 0, d.copy(xendev.Segments(ps[0].Data))
	}
	return 0, syscall.ENOTTY
}

func (d *modelDevice) take(pages int) uint64 {
	at := d.next
	d.next += uint64(pages) * shm.PageSize
	return at
}

func (d *modelDevice) alloc(a xendev.Alloc) error {
	mine := d.x.grants[d.dom]
	if len(mine)+a.Count() > d.x.limit {
		return syscall.ENOSPC
	}
	g := &modelRange{index: d.take(a.Count()), memory: shm.New(a.Count()), notify: make(map[int]xendev.UnmapNotify)}
	for i := range a.Count() {
		d.x.last++
		g.refs = append(g.refs, d.x.last)
		mine[d.x.last] = &modelGrant{
			page: g.memory.Slice(i, 1), to: hypercall.DomID(a.DomID()), writable: a.Flags()&xendev.GntallocWritable != 0,
		}
		a.SetRef(i, d.x.last)
	}
	a.SetIndex(g.index)
	d.ranges[g.index] = g
	return nil
}

// setNotify finds the range that the index is in. gntdev has one notification for each.
func (d *modelDevice) setNotify(n xendev.UnmapNotify) error {
	for _, g := range d.ranges {
		if n.Index() < g.index || n.Index() >= g.index+uint64(len(g.refs))*shm.PageSize {
			continue
		}
		if n.Action()&xendev.UnmapNotifySendEvent != 0 && n.Port() == 666 {
			return syscall.EINVAL // a port that the kernel does not have
		}
		page := 0
		if d.name == xendev.DevGntalloc {
			page = int(n.Index()-g.index) / shm.PageSize
		} else if g.readOnly && n.Action()&xendev.UnmapNotifyClearByte != 0 {
			return syscall.EINVAL
		}
		g.notify[page] = append(xendev.UnmapNotify(nil), n...)
		return nil
	}
	return syscall.ENOENT
}

// drop ends a range: its notifications happen.
func (d *modelDevice) drop(g *modelRange) {
	for _, r := range g.regions {
		if !r.Closed() {
			d.x.wrong = append(d.x.wrong, fmt.Sprintf("%s: pages at %#x are given back while they are mapped", d.name, g.index))
		}
	}
	for _, n := range g.notify {
		if off := int(n.Index() - g.index); n.Action()&xendev.UnmapNotifyClearByte != 0 {
			d.page(g, off/shm.PageSize).Store8(off%shm.PageSize, 0)
		}
		if n.Action()&xendev.UnmapNotifySendEvent != 0 {
			d.x.sent = append(d.x.sent, fmt.Sprintf("%d:%d", d.dom, n.Port()))
		}
	}
	if d.name == xendev.DevGntalloc {
		for _, r := range g.refs {
			delete(d.x.grants[d.dom], r)
		}
	}
	delete(d.ranges, g.index)
}

func (d *modelDevice) page(g *modelRange, i int) *shm.Region {
	if g.memory != nil {
		return g.memory.Slice(i, 1)
	}
	return g.parts[i]
}

// grant finds what this domain may do to a page.
func (d *modelDevice) grant(peer hypercall.DomID, ref uint32, write bool) (*shm.Region, hypercall.GrantStatus) {
	table, ok := d.x.grants[peer]
	if !ok {
		return nil, hypercall.StatusBadDomain
	}
	switch g := table[ref]; {
	case g == nil || g.to != d.dom:
		return nil, hypercall.StatusBadGntRef
	case write && !g.writable:
		return nil, hypercall.StatusGeneralError
	default:
		return g.page, hypercall.StatusOkay
	}
}

func (d *modelDevice) Map(offset uint64, pages int, writable bool) (*shm.Region, error) {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	g := d.ranges[offset]
	switch {
	case d.closed:
		return nil, os.ErrClosed
	case g == nil || len(g.refs) != pages:
		return nil, syscall.EINVAL
	case g.memory != nil:
		r := shm.Join(g.memory)
		g.regions = append(g.regions, r)
		return r, nil
	case d.x.again > 0:
		d.x.again--
		return nil, syscall.EAGAIN
	}
	parts := make([]*shm.Region, pages)
	for i, ref := range g.refs {
		page, status := d.grant(g.peer, ref, writable)
		if status != hypercall.StatusOkay {
			return nil, syscall.EINVAL
		}
		parts[i] = page
	}
	g.readOnly = !writable
	r := shm.Join(parts...)
	if !writable {
		r = r.ReadOnly()
	}
	g.regions, g.parts = append(g.regions, r), parts
	return r, nil
}

func (d *modelDevice) copy(s xendev.Segments) error {
	for i := range s.Len() {
		src, dst, n, flags := s.Get(i)
		if flags == 0 {
			return syscall.EINVAL
		}
		s.SetStatus(i, int16(hypercall.StatusOkay)) // before anything is done
		if d.x.copying != nil {
			continue
		}
		from, off, status := d.end(src, flags&xendev.CopySourceGref != 0, false)
		to, at, status2 := d.end(dst, flags&xendev.CopyDestGref != 0, true)
		if status == hypercall.StatusOkay {
			status = status2
		}
		s.SetStatus(i, int16(status))
		if status == hypercall.StatusOkay && from != nil && to != nil {
			b := make([]byte, n)
			from.CopyOut(b, off)
			to.CopyIn(at, b)
		}
	}
	return d.x.copying
}

func (d *modelDevice) end(e xendev.End, foreign, write bool) (*shm.Region, int, hypercall.GrantStatus) {
	if foreign {
		page, status := d.grant(hypercall.DomID(e.DomID), e.Ref, write)
		return page, int(e.Offset), status
	}
	for _, dev := range d.x.alive {
		for _, g := range dev.ranges {
			for _, r := range g.regions {
				for i := range r.Pages() {
					if base := xendev.Address(r, i*shm.PageSize); e.Virt >= base && e.Virt < base+shm.PageSize {
						return r.Slice(i, 1), int(e.Virt - base), hypercall.StatusOkay
					}
				}
			}
		}
	}
	return nil, 0, hypercall.StatusOkay // other memory of the process
}

func (d *modelDevice) Read([]byte) (int, error)    { return 0, syscall.EINVAL }
func (d *modelDevice) TryRead([]byte) (int, error) { return 0, syscall.EINVAL }
func (d *modelDevice) Write([]byte) (int, error)   { return 0, syscall.EINVAL }

func (d *modelDevice) Close() error {
	d.x.mu.Lock()
	defer d.x.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	for _, g := range d.ranges {
		d.drop(g)
	}
	return nil
}

// check sees that nothing is left and that the order was right.
func (x *modelXen) check(t *testing.T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	require.Empty(t, x.wrong)
	for dom, table := range x.grants {
		require.Empty(t, table, "grants of domain %d are left", dom)
	}
	for _, d := range x.alive {
		require.True(t, d.closed)
	}
}

func modelLinux(t *testing.T, x *modelXen, dom hypercall.DomID, cfg *Config) *Linux {
	l, err := openLinux(x.opener(dom), func() int { return x.limit }, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func modelPair(t *testing.T) (x *modelXen, a, b *Linux) {
	x = newModelXen()
	t.Cleanup(func() { x.check(t) })
	return x, modelLinux(t, x, 1, nil), modelLinux(t, x, 2, &Config{Retries: 3, Backoff: time.Microsecond})
}

func TestLinuxMapTriesAgain(t *testing.T) {
	x, a, b := modelPair(t)
	s, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	x.again = 3
	m, err := b.Map(1, s.Refs(), ReadWrite)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	x.again = 100
	_, err = b.Map(1, s.Refs(), ReadWrite)
	require.ErrorIs(t, err, hypercall.StatusEagain)
	require.Less(t, x.again, 100-4)
	require.Greater(t, x.again, 100-10, "attempts are bounded")
	x.again = 0
}

func TestLinuxMapSaysWhatXenSays(t *testing.T) {
	_, a, b := modelPair(t)
	rw, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	ro, err := a.Share(2, 1, ReadOnly)
	require.NoError(t, err)
	other, err := a.Share(3, 1, ReadWrite)
	require.NoError(t, err)
	refs := []Ref{rw.Refs()[0], other.Refs()[0], ro.Refs()[0]}
	_, err = b.Map(1, refs, ReadOnly)
	failed, ok := errors.AsType[*MapError](err)
	require.True(t, ok)
	require.Equal(t, []hypercall.GrantStatus{0, hypercall.StatusBadGntRef, 0}, failed.Statuses)
	_, err = b.Map(1, []Ref{refs[0], refs[2]}, ReadWrite)
	failed, ok = errors.AsType[*MapError](err)
	require.True(t, ok)
	require.Equal(t, []hypercall.GrantStatus{0, hypercall.StatusGeneralError}, failed.Statuses)
	_, err = b.Map(9, refs, ReadOnly)
	require.ErrorIs(t, err, hypercall.StatusBadDomain)
	require.Zero(t, b.Stats().Mapped)
}

func TestLinuxNotify(t *testing.T) {
	x, a, b := modelPair(t)
	s, err := a.Share(2, 2, ReadWrite)
	require.NoError(t, err)
	m, err := b.Map(1, s.Refs(), ReadWrite)
	require.NoError(t, err)
	for _, off := range []int{3, shm.PageSize + 3} {
		s.Region().Store8(off, 1)
	}
	require.NoError(t, s.SetNotify(Notify{ClearByte: true, Offset: 3, Port: 5}))
	require.NoError(t, s.SetNotify(Notify{ClearByte: true, Offset: shm.PageSize + 3, Port: 6}))
	require.NoError(t, m.SetNotify(Notify{Port: 7}))
	require.ErrorIs(t, m.SetNotify(Notify{Port: 666}), hypercall.EINVAL)
	require.NoError(t, m.SetNotify(Notify{Port: 8, Offset: 1 << 40}), "an offset without a byte counts for nothing")
	e, err := s.End()
	require.NoError(t, err)
	require.Equal(t, Surrendered, e)
	require.True(t, m.Region().Load8(3).Is(1))
	require.True(t, m.Region().Load8(shm.PageSize+3).Is(0))
	require.NoError(t, m.Close())
	require.Equal(t, []string{"1:6", "2:8"}, x.sent)
}

// What a process holds is given back, with its notifications, when it dies.
func TestLinuxCloseNotifies(t *testing.T) {
	x, a, b := modelPair(t)
	s, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	m, err := b.Map(1, s.Refs(), ReadWrite)
	require.NoError(t, err)
	require.NoError(t, s.SetNotify(Notify{Port: 5}))
	require.NoError(t, a.Close())
	require.Equal(t, []string{"1:5"}, x.sent)
	require.True(t, s.Region().Closed())
	require.False(t, m.Region().Closed())
}

func TestLinuxNoSpace(t *testing.T) {
	x, a, _ := modelPair(t)
	x.limit = 10
	s, err := a.Share(2, 8, ReadWrite)
	require.NoError(t, err)
	_, err = a.Share(2, 3, ReadWrite)
	full, ok := errors.AsType[*NoSpaceError](err)
	require.True(t, ok)
	require.Equal(t, &NoSpaceError{Want: 3, Free: 2, Size: 8, Limit: 10, Err: hypercall.ENOSPC}, full)
	require.ErrorIs(t, err, ErrNoSpace)
	_, err = s.End()
	require.NoError(t, err)
	_, err = a.Share(2, 10, ReadWrite)
	require.NoError(t, err)
}

// Where the request for copies fails no status counts, whatever the driver has written.
func TestLinuxCopyFails(t *testing.T) {
	x, a, b := modelPair(t)
	s, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	local, err := b.Share(1, 1, ReadWrite)
	require.NoError(t, err)
	ops := []CopyOp{
		{Src: CopyEnd{Dom: 1, Ref: s.Refs()[0]}, Dst: CopyEnd{Local: local}, Len: 1},
		{Src: CopyEnd{Local: local}, Dst: CopyEnd{Local: local, Offset: 8}, Len: 1},
		{Src: CopyEnd{Local: s}, Dst: CopyEnd{Local: local}, Len: 1},
	}
	local.Region().Store8(0, 9)
	x.copying = syscall.EFAULT
	require.Error(t, b.Copy(ops))
	require.ErrorIs(t, ops[0].Err, hypercall.EFAULT)
	require.NoError(t, ops[1].Err, "the kernel is not asked for what is inside the domain")
	require.True(t, local.Region().Load8(8).Is(9))
	require.ErrorIs(t, ops[2].Err, errForeignShare)
	require.EqualValues(t, 1, b.Stats().Copies)
	x.copying = nil
	require.NoError(t, b.Copy(ops[:2]))
}

func TestLinuxResume(t *testing.T) {
	_, a, b := modelPair(t)
	s, err := a.Share(2, 2, ReadWrite)
	require.NoError(t, err)
	m, err := b.Map(1, s.Refs(), ReadWrite)
	require.NoError(t, err)
	require.NoError(t, b.Resume())
	require.True(t, m.Region().Closed())
	require.ErrorIs(t, m.SetNotify(Notify{Port: 1}), hypercall.ErrStale)
	require.ErrorIs(t, m.Close(), hypercall.ErrStale)
	require.NoError(t, m.Close())
	require.NoError(t, a.Resume())
	_, err = s.End()
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Zero(t, a.Stats().Shared+b.Stats().Mapped)

	s, err = a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	m, err = b.Map(1, s.Refs(), ReadOnly)
	require.NoError(t, err)
	require.NoError(t, m.Close())
}

func TestLinuxForbid(t *testing.T) {
	_, a, b := modelPair(t)
	s, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	b.Forbid(1, errors.ErrUnsupported)
	_, err = b.Map(1, s.Refs(), ReadWrite)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	b.Forbid(2, errors.ErrUnsupported)
	m, err := b.Map(1, s.Refs(), ReadWrite)
	require.NoError(t, err)
	require.NoError(t, m.Close())
}

// Where a device is missing what needs it says so, and the rest works.
func TestLinuxOneDevice(t *testing.T) {
	x := newModelXen()
	missing := map[string]bool{xendev.DevGntalloc: true}
	open := func(name string) (xendev.Node, error) {
		if missing[name] {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return x.opener(1)(name)
	}
	l, err := openLinux(open, func() int { return 0 }, nil)
	require.NoError(t, err)
	_, err = l.Share(2, 1, ReadWrite)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "gntalloc")
	require.NoError(t, l.Copy(nil))
	require.NoError(t, l.Close())
	missing = map[string]bool{xendev.DevGntdev: true}
	l, err = openLinux(open, func() int { return 0 }, nil)
	require.NoError(t, err)
	_, err = l.Map(2, []Ref{8}, ReadOnly)
	require.ErrorContains(t, err, "gntdev")
	require.ErrorIs(t, l.Copy(nil), os.ErrNotExist)
	require.NoError(t, l.Close())
	missing[xendev.DevGntalloc] = true
	_, err = openLinux(open, func() int { return 0 }, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	x.check(t)
}

// Shares of a process that lives long are further and further into the device.
func TestLinuxFarShare(t *testing.T) {
	x, a, _ := modelPair(t)
	x.mu.Lock()
	x.alive[0].next = 1 << 50
	x.mu.Unlock()
	s, err := a.Share(2, 1, ReadWrite)
	require.NoError(t, err)
	require.EqualValues(t, 1<<50, s.(*linuxShare).index)
	_, err = s.End()
	require.NoError(t, err)
}

// NewModel is a model of Xen and of Linux's drivers, for the suite.
func NewModel() *modelXen { return newModelXen() }

// Open opens a table over the model.
func (x *modelXen) Open(dom hypercall.DomID) (*Linux, error) {
	return openLinux(x.opener(dom), func() int { return x.limit }, nil)
}

// Check sees that nothing is left.
func (x *modelXen) Check(t *testing.T) { x.check(t) }
