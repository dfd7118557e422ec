package grant

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Limits are what a [Quota] allows at a time.
type Limits struct {
	Shared int // pages shared
	Mapped int // foreign pages mapped
}

// Quota is a table as one device is given it: it shares and maps so many pages at a time and no more, however it is driven, so that what
// is left is the other devices'. Pages that a peer keeps after their share has ended count until they are free: a device whose peers keep
// all that it may share shares nothing more. Closing a quota closes what the device left open, and not the table. It is safe for
// concurrent use.
type Quota struct {
	table  Table
	limits Limits

	mu sync.Mutex
	// +checklocks:mu
	used Limits
	// +checklocks:mu
	closed bool
	// kept is how many pages peers had mapped when their shares ended, and may have still. They are part of used.
	// +checklocks:mu
	kept int
	// open is what the device shares and maps.
	// +checklocks:mu
	open map[lent]struct{}
}

var _ Table = (*Quota)(nil)

// lent is a share or a mapping that counts.
type lent interface {
	letGo() error
}

// NewQuota returns a part of the table.
func NewQuota(t Table, l Limits) *Quota {
	return &Quota{table: t, limits: l, open: make(map[lent]struct{})}
}

// QuotaError says that a device wanted more of the grant table than its [Quota] allows. It is [ErrNoSpace].
type QuotaError struct {
	Op    string // "share" or "map"
	Want  int    // pages
	Used  int    // pages that the device has already
	Limit int    // pages that it may have
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("grant: %s: %d pages wanted, %d of %d that the device may have are in use", e.Op, e.Want, e.Used, e.Limit)
}

// Is reports whether target is [ErrNoSpace].
func (e *QuotaError) Is(target error) bool { return target == ErrNoSpace }

// reserve counts pages as used, before they are. Where there is no room it looks once what peers have let go of.
func (q *Quota) reserve(op string, want Limits) error {
	err := q.tryReserve(op, want)
	if _, full := errors.AsType[*QuotaError](err); full && op == "share" {
		q.Reap()
		err = q.tryReserve(op, want)
	}
	return err
}

func (q *Quota) tryReserve(op string, want Limits) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return closedQuota(op)
	case want.Shared > q.limits.Shared-q.used.Shared:
		return &QuotaError{Op: op, Want: want.Shared, Used: q.used.Shared, Limit: q.limits.Shared}
	case want.Mapped > q.limits.Mapped-q.used.Mapped:
		return &QuotaError{Op: op, Want: want.Mapped, Used: q.used.Mapped, Limit: q.limits.Mapped}
	}
	q.used.Shared += want.Shared
	q.used.Mapped += want.Mapped
	return nil
}

func closedQuota(op string) error { return fmt.Errorf("grant: %s: %w", op, net.ErrClosed) }

// adopt takes in what the table gave for pages that were reserved, or lets it go where the quota was closed meanwhile.
func (q *Quota) adopt(op string, l lent) error {
	q.mu.Lock()
	closed := q.closed
	if !closed {
		q.open[l] = struct{}{}
	}
	q.mu.Unlock()
	if closed {
		return errors.Join(closedQuota(op), l.letGo())
	}
	return nil
}

// release gives back what was reserved, but for kept pages; l is what was adopted for it, or nil.
func (q *Quota) release(was Limits, kept int, l lent) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.kept += kept
	q.used.Shared -= was.Shared - kept
	q.used.Mapped -= was.Mapped
	delete(q.open, l)
}

// Share implements [Table].
func (q *Quota) Share(peer hypercall.DomID, pages int, access Access) (Share, error) {
	want := Limits{Shared: max(pages, 0)} // what is less than a page the table refuses
	if err := q.reserve("share", want); err != nil {
		return nil, err
	}
	inner, err := q.table.Share(peer, pages, access)
	if err != nil {
		q.release(want, 0, nil)
		return nil, err
	}
	s := &quotaShare{Share: inner, q: q, pages: pages}
	if err := q.adopt("share", s); err != nil {
		return nil, err
	}
	return s, nil
}

// Map implements [Table].
func (q *Quota) Map(peer hypercall.DomID, refs []Ref, access Access) (Mapping, error) {
	want := Limits{Mapped: len(refs)}
	if err := q.reserve("map", want); err != nil {
		return nil, err
	}
	inner, err := q.table.Map(peer, refs, access)
	if err != nil {
		q.release(want, 0, nil)
		return nil, err
	}
	m := &quotaMapping{Mapping: inner, q: q, pages: len(refs)}
	if err := q.adopt("map", m); err != nil {
		return nil, err
	}
	return m, nil
}

// Copy implements [Table].
func (q *Quota) Copy(ops []CopyOp) error {
	if err := q.reserve("copy", Limits{}); err != nil {
		return err
	}
	inner := make([]CopyOp, len(ops))
	for i, op := range ops {
		op.Src.Local, op.Dst.Local = q.own(op.Src.Local), q.own(op.Dst.Local)
		inner[i] = op
	}
	err := q.table.Copy(inner)
	for i := range ops {
		ops[i].Err = inner[i].Err
	}
	return err
}

// own returns the table's own share for one of the quota's. What is not the quota's is left to the table.
func (q *Quota) own(s Share) Share {
	if mine, ok := s.(*quotaShare); ok && mine.q == q {
		return mine.Share
	}
	return s
}

// Stats implements [Table]: Shared and Mapped are the device's, the rest is the whole table's.
func (q *Quota) Stats() Stats {
	s := q.table.Stats()
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Shared, s.Mapped = q.used.Shared-q.kept, q.used.Mapped
	return s
}

// Close implements [Table] for what was shared and mapped through the quota. The table stays open, and what peers keep is in its
// quarantine.
func (q *Quota) Close() error {
	var errs []error
	for _, l := range q.end() {
		errs = append(errs, l.letGo())
	}
	if kept := q.Reap(); kept > 0 {
		errs = append(errs, fmt.Errorf("close: %w: %d", ErrBusy, kept))
	}
	return errors.Join(errs...)
}

// Reap has the table look whether peers have let go of what was shared, and returns how many pages they keep of the device's. Whose the
// pages are that the table has in quarantine it cannot tell, so that none may be.
func (q *Quota) Reap() (held int) {
	t, ok := q.table.(interface{ Reap() int })
	if !ok || q.limitKept(math.MaxInt) == 0 {
		return 0
	}
	return q.limitKept(t.Reap())
}

// limitKept says that peers have so many pages at most, and returns how many of them may be the device's.
func (q *Quota) limitKept(most int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if free := q.kept - most; free > 0 {
		q.kept -= free
		q.used.Shared -= free
	}
	return q.kept
}

func (q *Quota) end() []lent {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return slices.Collect(maps.Keys(q.open))
}

// quotaShare gives its pages back to the quota when it ends.
type quotaShare struct {
	Share
	q     *Quota
	pages int
	once  sync.Once
}

func (s *quotaShare) letGo() error {
	_, err := s.End()
	return err
}

// End implements [Share].
func (s *quotaShare) End() (Ending, error) {
	e, err := s.Share.End()
	s.once.Do(func() {
		kept := 0
		if e == Busy {
			kept = s.pages
		}
		s.q.release(Limits{Shared: s.pages}, kept, s)
	})
	return e, err
}

// quotaMapping gives its pages back to the quota when it is closed.
type quotaMapping struct {
	Mapping
	q     *Quota
	pages int
	once  sync.Once
}

func (m *quotaMapping) letGo() error { return m.Close() }

// Close implements [Mapping].
func (m *quotaMapping) Close() error {
	err := m.Mapping.Close()
	m.once.Do(func() { m.q.release(Limits{Mapped: m.pages}, 0, m) })
	return err
}
