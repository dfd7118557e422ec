package sim

import (
	"maps"
	"slices"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// grants is a domain's grant table, version 1, as Xen keeps it (common/grant_table.c).
type grants struct {
	table  *extent // of limits.GrantFrames pages, of which the first frames are in use; nil between incarnations
	frames int
	pins   map[hypercall.GrantRef]*pin          // entries that somebody has mapped
	maps   map[hypercall.GrantHandle]*grantedTo // what this domain has mapped (the maptrack)
	next   hypercall.GrantHandle
}

// pin counts who holds an entry (struct active_grant_entry).
type pin struct {
	dom      hypercall.DomID // who holds it
	readers  int             // read-only holds
	writers  int             // writable holds
	ext      *extent
	page     int
	owner    *guest
	ownerID  hypercall.DomID // as it was when the page was mapped
	ref      hypercall.GrantRef
	detached bool // the owner's table is gone (it died or was resumed): there is nothing left to clear
}

// maxHolds is how many holds of a kind there are on one entry at most: Xen counts them in 8 bits each, and refuses one more where the
// highest is set (GNTPIN_incr2oflow_mask).
const maxHolds = 128

// holds returns how many holds of a kind there are.
func (p *pin) holds(readOnly bool) int {
	if readOnly {
		return p.readers
	}
	return p.writers
}

// grantedTo is one mapping of a grant by this domain.
type grantedTo struct {
	pin      *pin
	gfn      hypercall.GFN
	readOnly bool
}

// Where the fields of a version 1 entry are (struct grant_entry_v1 in grant_table.h).
const (
	entrySize  = 8
	entryFlags = 0
	entryDom   = 2
	entryFrame = 4
)

// entrySubPage is GTF_sub_page: a grant of part of a page, which version 2 tables have.
const entrySubPage = 1 << 8

// begin starts an incarnation of the table, on pages that it takes over.
func (g *grants) begin(table *extent) {
	*g = grants{table: table, frames: 1, pins: make(map[hypercall.GrantRef]*pin), maps: make(map[hypercall.GrantHandle]*grantedTo)}
}

// end is the end of an incarnation, when nothing is mapped or pinned any more.
func (g *grants) end() {
	if g.table != nil {
		g.table.drop()
	}
	*g = grants{}
}

// grow makes the table at least n frames large, which the caller has checked against its limit.
func (g *grants) grow(n int) { g.frames = max(g.frames, n) }

// entry returns where the entry is: the table's pages and a byte offset.
func (g *grants) entry(ref hypercall.GrantRef) (*shm.Region, int, bool) {
	if uint64(ref) >= uint64(g.frames)*hypercall.GrantsPerFrame {
		return nil, 0, false
	}
	r, err := g.table.window()
	if err != nil {
		return nil, 0, false
	}
	return r, int(ref) * entrySize, true
}

// setEntry writes an entry, as the toolstack does for the store and the console before a domain runs.
func (g *grants) setEntry(ref hypercall.GrantRef, dom hypercall.DomID, frame hypercall.GFN, flags uint16) {
	r, off, ok := g.entry(ref)
	if !ok {
		return
	}
	r.Store16(off+entryDom, uint16(dom))
	r.Store32(off+entryFrame, uint32(frame))
	r.Store16(off+entryFlags, flags)
}

// acquire pins the entry ref of owner for this domain: it checks the entry as Xen's map_grant_ref and _set_status_v1 do, and sets the
// bits that say that it is in use.
func (d *guest) acquire(owner *guest, ref hypercall.GrantRef, readOnly, toMap bool) (*pin, hypercall.GrantStatus) {
	g := &owner.grants
	r, off, ok := g.entry(ref)
	if !ok {
		return nil, hypercall.StatusBadGntRef
	}
	p := g.pins[ref]
	if p != nil && (p.dom != d.id || p.holds(readOnly) >= maxHolds) {
		return nil, hypercall.StatusGeneralError
	}
	if p == nil || !readOnly && p.writers == 0 {
		e := entryCheck{dom: d.id, pinned: p != nil, readOnly: readOnly, toMap: toMap}
		if st := e.set(r, off); st != hypercall.StatusOkay {
			return nil, st
		}
	}
	if p == nil {
		frame := hypercall.GFN(r.Load32(off + entryFrame).Unchecked())
		f, ok := owner.space[frame]
		if !ok || !f.kind.isGuests() {
			r.And16(off+entryFlags, ^uint16(hypercall.EntryReading|hypercall.EntryWriting))
			return nil, hypercall.StatusBadPage
		}
		p = &pin{dom: d.id, ext: f.ext.hold(), page: f.page, owner: owner, ownerID: owner.id, ref: ref}
		g.pins[ref] = p
	}
	owner.lent++
	if readOnly {
		p.readers++
	} else {
		p.writers++
	}
	return p, hypercall.StatusOkay
}

// entryCheck is what _set_status_v1 checks.
type entryCheck struct {
	dom      hypercall.DomID // who asks
	pinned   bool            // by the same domain: then type and domain of the entry, which its owner may have changed, do not count
	readOnly bool
	toMap    bool // not to copy: then the grant must be of a whole page
}

// set sets the in-use bits of an entry that permits the access. The entry's owner may change it at the same time: the flags and the
// domain are read and written as one word.
func (e entryCheck) set(r *shm.Region, off int) hypercall.GrantStatus {
	const attempts = 5 // as many as Xen makes
	mask := uint16(hypercall.EntryTypeMask)
	if e.toMap {
		mask |= entrySubPage
	}
	for range attempts {
		word := r.Load32(off).Unchecked() // flags in the low half, domain in the high half
		flags, who := uint16(word), hypercall.DomID(word>>16)
		if !e.pinned && (flags&mask != hypercall.EntryPermitAccess || who != e.dom) {
			return hypercall.StatusGeneralError
		}
		set := uint32(hypercall.EntryReading)
		if !e.readOnly {
			if flags&hypercall.EntryReadOnly != 0 {
				return hypercall.StatusGeneralError
			}
			set |= uint32(hypercall.EntryWriting)
		}
		if r.CompareAndSwap32(off, word, word|set) {
			return hypercall.StatusOkay
		}
	}
	return hypercall.StatusGeneralError
}

// release drops one hold on a pinned entry (reduce_status_for_pin).
func (p *pin) release(readOnly bool) {
	if readOnly {
		p.readers--
	} else {
		p.writers--
	}
	last := p.readers+p.writers == 0
	if !p.detached {
		p.clear(last, readOnly)
	}
	if last {
		p.ext.drop()
	}
	if p.owner.lent--; p.owner.lent == 0 && p.owner.state == stateDead {
		p.owner.xen.buryOrKeep(p.owner)
	}
}

// clear clears the in-use bits that are true no more.
func (p *pin) clear(last, readOnly bool) {
	g := &p.owner.grants
	if last {
		delete(g.pins, p.ref)
	}
	bits := uint16(0)
	if p.writers == 0 && !readOnly {
		bits |= hypercall.EntryWriting
	}
	if last {
		bits |= hypercall.EntryReading
	}
	if r, off, ok := g.entry(p.ref); ok && bits != 0 {
		r.And16(off+entryFlags, ^bits)
	}
}

// mapGrant is GNTTABOP_map_grant_ref.
func (d *guest) mapGrant(op *hypercall.MapGrantRef) { op.Status = d.tryMap(op) }

func (d *guest) tryMap(op *hypercall.MapGrantRef) hypercall.GrantStatus {
	const others = hypercall.GrantMapDevice | grantMapApplication | hypercall.GrantMapContainsPTE // which a translated domain has none of
	if op.Flags&(hypercall.GrantMapHost|hypercall.GrantMapDevice) == 0 {
		return hypercall.StatusBadGntRef
	}
	if op.Flags&others != 0 {
		return hypercall.StatusGeneralError
	}
	owner, ok := d.xen.domains[op.Dom] // by number only: DOMID_SELF is no domain here
	if !ok {
		return hypercall.StatusBadDomain
	}
	if len(d.grants.maps) >= d.limits.MapTrack {
		return hypercall.StatusNoSpace
	}
	readOnly := op.Flags&hypercall.GrantMapReadOnly != 0
	p, st := d.acquire(owner, op.Ref, readOnly, true)
	if st != hypercall.StatusOkay {
		return st
	}
	at := hypercall.GFN(op.HostAddr / shm.PageSize)
	if op.Flags&^uint32(hypercall.GrantMapReadOnly) != hypercall.GrantMapHost || !d.space.isFree(at, 1) {
		p.release(readOnly)
		return hypercall.StatusGeneralError
	}
	op.Handle = d.track(&grantedTo{pin: p, gfn: at, readOnly: readOnly})
	d.space.set(at, frame{ext: p.ext, page: p.page, kind: foreignFrame, readOnly: readOnly})
	return hypercall.StatusOkay
}

// grantMapApplication is GNTMAP_application_map, which is for PV domains alone.
const grantMapApplication = 8

// track gives a mapping a handle.
func (d *guest) track(m *grantedTo) hypercall.GrantHandle {
	g := &d.grants
	for g.maps[g.next] != nil || g.next == hypercall.NoHandle {
		g.next++
	}
	h := g.next
	g.next++
	g.maps[h] = m
	return h
}

// unmapGrant is GNTTABOP_unmap_grant_ref.
func (d *guest) unmapGrant(op *hypercall.UnmapGrantRef) {
	m, ok := d.grants.maps[op.Handle]
	switch {
	case !ok:
		op.Status = hypercall.StatusBadHandle
	case op.HostAddr == 0: // nothing was asked for
		op.Status = hypercall.StatusOkay
	case op.HostAddr/shm.PageSize != uint64(m.gfn):
		op.Status = hypercall.StatusGeneralError
	default:
		d.dropMap(op.Handle, m)
		op.Status = hypercall.StatusOkay
	}
}

func (d *guest) dropMap(h hypercall.GrantHandle, m *grantedTo) {
	delete(d.grants.maps, h)
	d.space.remove(m.gfn)
	m.pin.release(m.readOnly)
}

// dropMaps unmaps everything that the domain has mapped (gnttab_release_mappings).
func (d *guest) dropMaps() {
	for _, h := range slices.Sorted(maps.Keys(d.grants.maps)) {
		d.dropMap(h, d.grants.maps[h])
	}
}

// detachGrants forgets the domain's own table. Those who have its pages mapped keep them until they unmap.
func (d *guest) detachGrants() {
	for _, p := range d.grants.pins {
		p.detached = true
	}
	clear(d.grants.pins)
}

// swapGrants is GNTTABOP_swap_grant_ref: two entries of the domain's own change places.
func (d *guest) swapGrants(op *hypercall.SwapGrantRefs) {
	g := &d.grants
	r, a, okA := g.entry(op.A)
	_, b, okB := g.entry(op.B)
	switch {
	case !okA || !okB:
		op.Status = hypercall.StatusBadGntRef
	case op.A != op.B && (g.pins[op.A] != nil || g.pins[op.B] != nil):
		op.Status = hypercall.StatusEagain
	default:
		x, y := r.Load64(a).Unchecked(), r.Load64(b).Unchecked()
		r.Store64(a, y)
		r.Store64(b, x)
		op.Status = hypercall.StatusOkay
	}
}

// copyGrant is GNTTABOP_copy.
func (d *guest) copyGrant(op *hypercall.GrantCopy) { op.Status = d.tryCopy(op) }

func (d *guest) tryCopy(op *hypercall.GrantCopy) hypercall.GrantStatus {
	if op.Len == 0 {
		return hypercall.StatusOkay
	}
	from, st := d.copyDomain(&op.Src, op.Flags&hypercall.CopySourceGref != 0)
	if st != hypercall.StatusOkay {
		return st
	}
	to, st := d.copyDomain(&op.Dst, op.Flags&hypercall.CopyDestGref != 0)
	if st != hypercall.StatusOkay {
		return st
	}
	src, st := d.claim(from, &op.Src, op.Flags&hypercall.CopySourceGref != 0, true)
	if st != hypercall.StatusOkay {
		return st
	}
	defer src.unclaim()
	dst, st := d.claim(to, &op.Dst, op.Flags&hypercall.CopyDestGref != 0, false)
	if st != hypercall.StatusOkay {
		return st
	}
	defer dst.unclaim()
	return copyBytes(op, src, dst)
}

// copyDomain finds the domain of one end of a copy (gnttab_copy_lock_domain).
func (d *guest) copyDomain(e *hypercall.CopyPtr, byRef bool) (*guest, hypercall.GrantStatus) {
	if e.Dom != hypercall.DomSelf && !byRef {
		return nil, hypercall.StatusPermissionDenied
	}
	g, ok := d.xen.domains[d.self(e.Dom)]
	if !ok {
		return nil, hypercall.StatusBadDomain
	}
	return g, hypercall.StatusOkay
}

// claimed is a page of a copy.
type claimed struct {
	ext      *extent
	page     int
	pin      *pin // nil for an own page
	readOnly bool
}

func (c claimed) unclaim() {
	if c.pin != nil {
		c.pin.release(c.readOnly)
	}
}

// claim finds the page of one end of a copy, and holds it (gnttab_copy_claim_buf).
func (d *guest) claim(owner *guest, e *hypercall.CopyPtr, byRef, readOnly bool) (claimed, hypercall.GrantStatus) {
	if byRef {
		p, st := d.acquire(owner, e.Ref, readOnly, false)
		if st != hypercall.StatusOkay {
			return claimed{}, st
		}
		return claimed{ext: p.ext, page: p.page, pin: p, readOnly: readOnly}, st
	}
	f, ok := d.space[e.GFN]
	if !ok || !f.kind.isGuests() {
		return claimed{}, hypercall.StatusBadPage
	}
	return claimed{ext: f.ext, page: f.page}, hypercall.StatusOkay
}

func copyBytes(op *hypercall.GrantCopy, src, dst claimed) hypercall.GrantStatus {
	if int(op.Src.Offset)+int(op.Len) > shm.PageSize || int(op.Dst.Offset)+int(op.Len) > shm.PageSize {
		return hypercall.StatusBadCopyArg
	}
	from, err := src.ext.window()
	if err != nil {
		return hypercall.StatusGeneralError
	}
	to, err := dst.ext.window()
	if err != nil {
		return hypercall.StatusGeneralError
	}
	shm.Copy(to, dst.page*shm.PageSize+int(op.Dst.Offset), from, src.page*shm.PageSize+int(op.Src.Offset), int(op.Len))
	return hypercall.StatusOkay
}
