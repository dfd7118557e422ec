package hypercall

import (
	"encoding/binary"
	"fmt"
)

// The commands of memory_op(cmd, arg) (XENMEM_* in public memory.h).
const (
	XenmemIncreaseReservation = 0
	XenmemDecreaseReservation = 1
	XenmemMaximumRAMPage      = 2
	XenmemCurrentReservation  = 3
	XenmemMaximumReservation  = 4
	XenmemPopulatePhysmap     = 6
	XenmemAddToPhysmap        = 7
	XenmemMemoryMap           = 9
	XenmemMaximumGPFN         = 14
	XenmemRemoveFromPhysmap   = 15
	XenmemAddToPhysmapBatch   = 23
)

// PhysmapSpace says what [AddToPhysmap] puts somewhere (XENMAPSPACE_*).
type PhysmapSpace uint32

// What can be put into a domain's address space.
const (
	SpaceSharedInfo  PhysmapSpace = 0 // the shared_info page
	SpaceGrantTable  PhysmapSpace = 1 // frame idx of the grant table; with PhysmapGrantStatus, of its status frames
	SpaceGMFN        PhysmapSpace = 2 // another frame of the domain's
	SpaceGMFNRange   PhysmapSpace = 3 // several of them
	SpaceGMFNForeign PhysmapSpace = 4 // another domain's frame; in batches only
	SpaceDevMMIO     PhysmapSpace = 5 // device memory; ARM only
)

// PhysmapGrantStatus is or'ed into the index of [SpaceGrantTable] for a status frame of a version 2 grant table
// (XENMAPIDX_grant_table_status).
const PhysmapGrantStatus = 0x80000000

// MemoryReservation names extents of 2^ExtentOrder pages each (struct xen_memory_reservation).
type MemoryReservation struct {
	ExtentStart uint64 // guest handle of NrExtents xen_pfn_t
	NrExtents   uint64 // xen_ulong_t
	ExtentOrder uint32
	MemFlags    uint32
	Dom         DomID
}

func (m *MemoryReservation) layout(c *codec) {
	guestHandle(c, &m.ExtentStart)
	word(c, &m.NrExtents)
	u32(c, &m.ExtentOrder)
	u32(c, &m.MemFlags)
	u16(c, &m.Dom)
}

// ExtentStartOffset is where the guest handle is, for [Call.Ref].
func (m *MemoryReservation) ExtentStartOffset(abi ABI) int {
	c := measure(abi)
	m.layout(&c)
	return c.handle
}

// MemoryDomain names a domain (struct xen_memory_domain).
type MemoryDomain struct{ Dom DomID }

func (m *MemoryDomain) layout(c *codec) { u16(c, &m.Dom) }

// PhysmapAdd puts a page somewhere in a domain's address space (struct xen_add_to_physmap).
type PhysmapAdd struct {
	Dom   DomID
	Pages uint16 // how many (size in C), for SpaceGMFNRange
	Space PhysmapSpace
	Idx   uint64 // xen_ulong_t: which page of the space
	GFN   GFN    // where
}

func (m *PhysmapAdd) layout(c *codec) {
	u16(c, &m.Dom)
	u16(c, &m.Pages)
	u32(c, &m.Space)
	word(c, &m.Idx)
	word(c, &m.GFN)
}

// PhysmapAddBatch puts several pages somewhere (struct xen_add_to_physmap_batch).
type PhysmapAddBatch struct {
	Dom        DomID
	Space      uint16
	Pages      uint16 // how many (size in C)
	ForeignDom DomID  // for SpaceGMFNForeign, else 0
	Idxs       uint64 // guest handle of Pages xen_ulong_t
	GFNs       uint64 // guest handle of Pages xen_pfn_t
	Errs       uint64 // guest handle of Pages int, out: 0 or a negative Errno
}

func (m *PhysmapAddBatch) layout(c *codec) {
	u16(c, &m.Dom)
	u16(c, &m.Space)
	u16(c, &m.Pages)
	u16(c, &m.ForeignDom)
	guestHandle(c, &m.Idxs)
	guestHandle(c, &m.GFNs)
	guestHandle(c, &m.Errs)
}

// HandleOffsets is where the guest handles Idxs, GFNs and Errs are, for [Call.Ref].
func (m *PhysmapAddBatch) HandleOffsets(abi ABI) (idxs, gfns, errs int) {
	w := abi.WordBytes()
	c := measure(abi)
	m.layout(&c)
	return c.handle - 2*w, c.handle - w, c.handle
}

// PhysmapRemove takes a page out of a domain's address space (struct xen_remove_from_physmap).
type PhysmapRemove struct {
	Dom DomID
	GFN GFN
}

func (m *PhysmapRemove) layout(c *codec) {
	u16(c, &m.Dom)
	word(c, &m.GFN)
}

// ShortError says that Xen did part of a list only, without saying why: most often it ran out of memory.
type ShortError struct {
	Done, Want int // extents
}

func (e *ShortError) Error() string { return fmt.Sprintf("%d of %d extents done", e.Done, e.Want) }

// AddToPhysmap has page idx of a space appear at gfn in the address space of dom (DomSelf for the caller's). What was there is
// released first.
func AddToPhysmap(c Caller, dom DomID, space PhysmapSpace, idx uint64, gfn GFN) error {
	op := PhysmapAdd{Dom: dom, Space: space, Idx: idx, GFN: gfn}
	if _, err := do(c, NrMemoryOp, XenmemAddToPhysmap, &op); err != nil {
		on := fmt.Sprintf("domain %d, space %d, index %d, frame %#x", dom, space, idx, uint64(gfn))
		return &OpError{Op: "XENMEM_add_to_physmap", On: on, Err: err}
	}
	return nil
}

// RemoveFromPhysmap takes what is at gfn out of the address space of dom (DomSelf for the caller's).
func RemoveFromPhysmap(c Caller, dom DomID, gfn GFN) error {
	op := PhysmapRemove{Dom: dom, GFN: gfn}
	if _, err := do(c, NrMemoryOp, XenmemRemoveFromPhysmap, &op); err != nil {
		on := fmt.Sprintf("domain %d, frame %#x", dom, uint64(gfn))
		return &OpError{Op: "XENMEM_remove_from_physmap", On: on, Err: err}
	}
	return nil
}

// PopulatePhysmap puts fresh memory behind extents of 2^order frames that begin at gfns. It returns how many extents were done, the
// first ones; the error is an [OpError] with a [*ShortError] if that is not all. It is for auto-translated domains: a PV domain needs
// to be told the machine frames, which this function drops.
func PopulatePhysmap(c Caller, dom DomID, order uint, gfns []GFN) (int, error) {
	return reservation(c, XenmemPopulatePhysmap, "XENMEM_populate_physmap", dom, order, gfns)
}

// DecreaseReservation gives the memory behind extents of 2^order frames that begin at gfns back to Xen. It returns how many extents
// were done, the first ones; the error is an [OpError] with a [*ShortError] if that is not all.
func DecreaseReservation(c Caller, dom DomID, order uint, gfns []GFN) (int, error) {
	return reservation(c, XenmemDecreaseReservation, "XENMEM_decrease_reservation", dom, order, gfns)
}

func reservation(c Caller, cmd uint64, name string, dom DomID, order uint, gfns []GFN) (int, error) {
	if len(gfns) == 0 {
		return 0, nil
	}
	abi := c.ABI()
	op := MemoryReservation{NrExtents: uint64(len(gfns)), ExtentOrder: uint32(order), Dom: dom}
	s := newScratch(NrMemoryOp, cmd, op.Size(abi))
	defer s.free()
	op.Marshal(abi, s.buf)
	PutWords(abi, s.withList(op.ExtentStartOffset(abi), len(gfns)*abi.WordBytes()), gfns)
	r, err := c.Hypercall(&s.call)
	n := int(min(r, uint64(len(gfns))))
	if err == nil && n < len(gfns) {
		err = &ShortError{Done: n, Want: len(gfns)}
	}
	if err != nil {
		on := fmt.Sprintf("domain %d, %d extents of order %d", dom, len(gfns), order)
		return n, &OpError{Op: name, On: on, Err: err}
	}
	return n, nil
}

// CurrentReservation returns how many pages dom has.
func CurrentReservation(c Caller, dom DomID) (uint64, error) {
	return memoryDomain(c, XenmemCurrentReservation, "XENMEM_current_reservation", dom)
}

// MaximumReservation returns how many pages dom may have.
func MaximumReservation(c Caller, dom DomID) (uint64, error) {
	return memoryDomain(c, XenmemMaximumReservation, "XENMEM_maximum_reservation", dom)
}

// MaximumGPFN returns the highest frame number that dom uses.
func MaximumGPFN(c Caller, dom DomID) (GFN, error) {
	n, err := memoryDomain(c, XenmemMaximumGPFN, "XENMEM_maximum_gpfn", dom)
	return GFN(n), err
}

func memoryDomain(c Caller, cmd uint64, name string, dom DomID) (uint64, error) {
	n, err := do(c, NrMemoryOp, cmd, &MemoryDomain{Dom: dom})
	if err != nil {
		return 0, &OpError{Op: name, On: fmt.Sprintf("domain %d", dom), Err: err}
	}
	return n, nil
}

// MaxPhysmapBatch is the most pages that [AddToPhysmapBatch] takes: its count is a uint16_t.
const MaxPhysmapBatch = 1<<16 - 1

// AddToPhysmapBatch has pages idxs of a space appear at gfns in the address space of dom; foreign is whose they are for
// [SpaceGMFNForeign], and 0 otherwise. The result has an [Errno] or nil for each page. The error says that the batch as a whole
// failed: then pages that Xen did not come to have [EAGAIN].
func AddToPhysmapBatch(c Caller, dom DomID, space PhysmapSpace, foreign DomID, idxs []uint64, gfns []GFN) ([]error, error) {
	on := func() string {
		return fmt.Sprintf("domain %d, space %d of domain %d, %d pages", dom, space, foreign, len(idxs))
	}
	if len(idxs) != len(gfns) || len(idxs) > MaxPhysmapBatch {
		return nil, &OpError{Op: "XENMEM_add_to_physmap_batch", On: on(), Err: EINVAL}
	}
	if len(idxs) == 0 {
		return nil, nil
	}
	call, errnos := physmapBatch(c.ABI(), PhysmapAddBatch{
		Dom: dom, Space: uint16(space), Pages: uint16(len(idxs)), ForeignDom: foreign,
	}, idxs, gfns)
	_, err := c.Hypercall(call)
	if err != nil {
		err = &OpError{Op: "XENMEM_add_to_physmap_batch", On: on(), Err: err}
	}
	errs := make([]error, len(idxs))
	for i := range errs {
		if n := int32(binary.LittleEndian.Uint32(errnos[4*i:])); n != 0 {
			errs[i] = Errno(-n)
		}
	}
	return errs, err
}

// physmapBatch returns the call, and the memory in which Xen says what became of each page.
func physmapBatch(abi ABI, op PhysmapAddBatch, idxs []uint64, gfns []GFN) (*Call, []byte) {
	w := abi.WordBytes()
	idxList, gfnList, errList := make([]byte, w*len(idxs)), make([]byte, w*len(gfns)), make([]byte, 4*len(idxs))
	PutWords(abi, idxList, idxs)
	PutWords(abi, gfnList, gfns)
	again := EAGAIN // an answer that Xen did not come to must not look like success
	for i := range idxs {
		binary.LittleEndian.PutUint32(errList[4*i:], uint32(-int32(again)))
	}
	call := NewStructCall(abi, NrMemoryOp, XenmemAddToPhysmapBatch, &op)
	atIdxs, atGFNs, atErrs := op.HandleOffsets(abi)
	call.Refs = []DataRef{{Off: atIdxs, Data: idxList}, {Off: atGFNs, Data: gfnList}, {Off: atErrs, Data: errList}}
	return call, errList
}
