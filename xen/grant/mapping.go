package grant

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// mapping is a [Mapping] of a [Native].
type mapping struct {
	nativeHold
	incarnation uint64
	peer        hypercall.DomID
	handles     []hypercall.GrantHandle // one a page
}

// operations is room for the structures of hypercalls, kept from one to the next.
type operations struct {
	maps   []hypercall.MapGrantRef
	unmaps []hypercall.UnmapGrantRef
	copies []hypercall.GrantCopy
}

var operationsPool = sync.Pool{New: func() any { return new(operations) }}

// maxPooled is the most structures of a kind that are kept: more are rare, and left to the garbage collector.
const maxPooled = 4096

func (o *operations) free() {
	if cap(o.maps) <= maxPooled && cap(o.unmaps) <= maxPooled && cap(o.copies) <= maxPooled {
		operationsPool.Put(o)
	}
}

// resize returns ops with n elements, whatever is in them.
func resize[T any](ops []T, n int) []T {
	if n > cap(ops) {
		return make([]T, n)
	}
	return ops[:n]
}

// Map implements [Table].
func (n *Native) Map(peer hypercall.DomID, refs []Ref, access Access) (Mapping, error) {
	pages := len(refs)
	if err := checkMap(peer, pages); err != nil {
		return nil, err
	}
	incarnation, err := n.begin()
	if err != nil {
		return nil, fmt.Errorf("grant: map %d pages of domain %d: %w", pages, peer, err)
	}
	first, err := n.mem.Reserve(pages)
	if err != nil {
		return nil, fmt.Errorf("grant: map %d pages of domain %d: reserve frame numbers: %w", pages, peer, err)
	}
	m := &mapping{
		nativeHold: n.hold(first, "mapping"), incarnation: incarnation, peer: peer,
		handles: make([]hypercall.GrantHandle, pages),
	}
	if err := m.mapAll(refs, access); err != nil {
		return nil, err
	}
	if m.region, err = n.mem.View(first, pages, access == ReadWrite); err != nil {
		return nil, m.unwind(fmt.Errorf("grant: reach %d pages of domain %d: %w", pages, peer, err), m.unmapAll())
	}
	if err := n.addMapping(m); err != nil {
		m.region.Close()
		return nil, m.unwind(fmt.Errorf("grant: map %d pages of domain %d: %w", pages, peer, err), m.unmapAll())
	}
	return m, nil
}

// checkMap returns why so many pages cannot be mapped, whatever the platform.
func checkMap(peer hypercall.DomID, pages int) error {
	if pages == 0 || pages > maxV1Frames*hypercall.GrantsPerFrame {
		return fmt.Errorf("grant: map %d pages of domain %d: out of range", pages, peer)
	}
	return nil
}

// begin returns the present incarnation, for an operation that begins.
func (n *Native) begin() (incarnation uint64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return 0, net.ErrClosed
	}
	return n.incarnation, nil
}

func (n *Native) addMapping(m *mapping) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return net.ErrClosed
	case n.incarnation != m.incarnation:
		return hypercall.ErrStale
	}
	n.mappings.add(m)
	n.mapped += len(m.handles)
	return nil
}

// mapAll maps each of refs, or none: then it has given back the frame numbers too.
func (m *mapping) mapAll(refs []Ref, access Access) error {
	o := operationsPool.Get().(*operations)
	defer o.free()
	flags := uint32(hypercall.GrantMapHost)
	if access == ReadOnly {
		flags |= hypercall.GrantMapReadOnly
	}
	o.maps = resize(o.maps, len(refs))
	for i, r := range refs {
		o.maps[i] = hypercall.MapGrantRef{HostAddr: m.address(i), Flags: flags, Ref: r, Dom: m.peer, Status: hypercall.StatusNotDone}
	}
	err := m.n.mapBatches(o.maps)
	done := 0
	for i := range o.maps {
		if o.maps[i].Status == hypercall.StatusOkay { // exactly: a positive status is no success (XSA-316)
			m.handles[i] = o.maps[i].Handle
			done++
		}
	}
	m.n.maps.Add(uint64(done))
	if err == nil && done == len(refs) {
		return nil
	}
	if err != nil {
		err = fmt.Errorf("grant: map %d pages of domain %d: %w", len(refs), m.peer, err)
	} else {
		err = m.mapError(refs, o.maps)
	}
	return m.unwind(err, m.unmap(o, o.maps))
}

func (m *mapping) mapError(refs []Ref, ops []hypercall.MapGrantRef) error {
	e := &MapError{Peer: m.peer, Refs: append([]Ref(nil), refs...), Statuses: make([]hypercall.GrantStatus, len(ops))}
	for i := range ops {
		e.Statuses[i] = ops[i].Status
	}
	return e
}

// address returns the guest-physical address of a page of the mapping.
func (m *mapping) address(page int) uint64 { return (uint64(m.first) + uint64(page)) * shm.PageSize }

// mapBatches makes the hypercalls for ops. Operations that Xen could not do just now, because the page is being paged in or is
// otherwise in transition (GNTST_eagain), are tried again a bounded number of times.
func (n *Native) mapBatches(ops []hypercall.MapGrantRef) error {
	call := func(run []hypercall.MapGrantRef) error {
		n.hypercalls.Add(1)
		return hypercall.MapGrants(n.c, run)
	}
	status := func(op *hypercall.MapGrantRef) hypercall.GrantStatus { return op.Status }
	return batches(n.cfg, ops, call, status)
}

// batches makes one call for each Config.MaxBatch of ops, and then further ones for those that are to be tried again.
func batches[T any](cfg Config, ops []T, call func([]T) error, status func(*T) hypercall.GrantStatus) error {
	for rest := ops; len(rest) > 0; {
		k := min(len(rest), cfg.MaxBatch)
		if err := call(rest[:k]); err != nil {
			return err
		}
		rest = rest[k:]
	}
	wait := cfg.Backoff
	for range max(cfg.Retries, 0) {
		again, end := nextRun(ops, 0, cfg.MaxBatch, status)
		if again == end {
			return nil
		}
		time.Sleep(wait)
		wait = min(2*wait, maxBackoff)
		for again < end {
			if err := call(ops[again:end]); err != nil {
				return err
			}
			again, end = nextRun(ops, end, cfg.MaxBatch, status)
		}
	}
	return nil
}

// nextRun returns the first operations, at or after index from, that stand side by side and are to be tried again, at most most.
func nextRun[T any](ops []T, from, most int, status func(*T) hypercall.GrantStatus) (start, end int) {
	for start = from; start < len(ops) && status(&ops[start]) != hypercall.StatusEagain; start++ {
	}
	for end = start; end < len(ops) && end-start < most && status(&ops[end]) == hypercall.StatusEagain; end++ {
	}
	return start, end
}

// unwind ends a mapping that could not be made because of err, whose pages were then unmapped with the result unmapped, and returns
// why. Where pages were gone because the domain was resumed, that is why.
func (m *mapping) unwind(err, unmapped error) error {
	switch {
	case unmapped == nil:
	case !m.n.wasResumed(m.incarnation):
		return errors.Join(err, m.lose(unmapped))
	case !errors.Is(err, hypercall.ErrStale):
		err = stale(fmt.Sprintf("map %d pages of domain %d", len(m.handles), m.peer))
	}
	return errors.Join(err, m.unreserve())
}

// lose counts a mapping that Xen did not take back: there is something behind its frame numbers, so they are not used again.
func (m *mapping) lose(unmapped error) error {
	m.n.leak(len(m.handles), "pages could not be unmapped", unmapped)
	return unmapped
}

// unmapAll unmaps every page.
func (m *mapping) unmapAll() error {
	o := operationsPool.Get().(*operations)
	defer o.free()
	return m.unmap(o, nil)
}

// unmap unmaps the pages that ops says were mapped; all where ops is nil.
func (m *mapping) unmap(o *operations, ops []hypercall.MapGrantRef) error {
	o.unmaps = resize(o.unmaps, len(m.handles))[:0]
	for i, h := range m.handles {
		if ops == nil || ops[i].Status == hypercall.StatusOkay {
			o.unmaps = append(o.unmaps, hypercall.UnmapGrantRef{HostAddr: m.address(i), Handle: h, Status: hypercall.StatusNotDone})
		}
	}
	call := func(run []hypercall.UnmapGrantRef) error {
		m.n.hypercalls.Add(1)
		return hypercall.UnmapGrants(m.n.c, run)
	}
	status := func(op *hypercall.UnmapGrantRef) hypercall.GrantStatus { return op.Status }
	err := batches(m.n.cfg, o.unmaps, call, status)
	done := 0
	for i := range o.unmaps {
		if o.unmaps[i].Status == hypercall.StatusOkay {
			done++
		}
	}
	m.n.unmaps.Add(uint64(done))
	if done == len(o.unmaps) {
		return nil
	}
	if err == nil {
		err = m.unmapError(o.unmaps)
	}
	return err
}

func (m *mapping) unmapError(ops []hypercall.UnmapGrantRef) error {
	e := &UnmapError{Peer: m.peer, Statuses: make([]hypercall.GrantStatus, len(ops))}
	for i := range ops {
		e.Statuses[i] = ops[i].Status
	}
	return e
}

func (m *mapping) unreserve() error {
	if err := acrossResumes(func() error { return m.n.mem.Unreserve(m.first, len(m.handles)) }); err != nil {
		m.n.leak(len(m.handles), "frame numbers could not be given back", err)
		return fmt.Errorf("grant: give back the frame numbers of a mapping: %w", err)
	}
	return nil
}

// Close implements [Mapping].
func (m *mapping) Close() error {
	if !m.hold.begin(m.leave) {
		return m.closedAgain()
	}
	m.clearByte()
	err := m.letGo()
	m.finish()
	return err
}

// letGo unmaps the pages. The frame numbers, where the notification is registered, are given back last.
//
// A resume may come before, between or after these. The pages of an earlier incarnation went with it, but for those that were mapped
// after Xen had let the new one run and before Resume was called: so all are unmapped, and what Xen says of it counts only where
// there was no resume. No other mapping is harmed, for Xen unmaps what has both the handle and the address, which is of frame numbers
// that are reserved for this one until the end.
func (m *mapping) letGo() error {
	unmapped := m.unmapAll()
	fired := m.fire(m.n.isCurrent(m.incarnation))
	if (unmapped != nil || fired != nil) && m.n.wasResumed(m.incarnation) || !m.n.isCurrent(m.incarnation) {
		return errors.Join(stale("close a mapping"), m.unreserve())
	}
	if unmapped != nil {
		return errors.Join(m.lose(unmapped), fired)
	}
	return errors.Join(fired, m.unreserve())
}

// leave takes the mapping out of the table's sum; the caller holds the table's mu.
//
// +checklocks:m.n.mu
func (m *mapping) leave() {
	m.n.mappings.remove(m)
	m.n.mapped -= len(m.handles)
}

func (m *mapping) finish() {
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	m.state = ended
	m.n.changed.Broadcast()
}

// closedAgain is what Close returns when the mapping was closed already: by Close, or by a resume that the caller is told of once.
func (m *mapping) closedAgain() error {
	m.n.mu.Lock()
	defer m.n.mu.Unlock()
	if m.stale && !m.told {
		m.told = true
		return stale("close a mapping")
	}
	return nil
}

// abandon lets go of a mapping of an earlier incarnation, which ended with it; or not, see letGo.
func (m *mapping) abandon() error {
	m.region.Close()
	m.awaitUses()
	_ = m.unmapAll() // an error is what it answers as a rule: nothing is mapped there
	return errors.Join(m.fire(false), m.unreserve())
}

var _ Mapping = (*mapping)(nil)
