package hypercall

import "fmt"

// The commands of grant_table_op(cmd, ops, count) (GNTTABOP_* in public grant_table.h).
const (
	GnttabopMapGrantRef     = 0
	GnttabopUnmapGrantRef   = 1
	GnttabopSetupTable      = 2
	GnttabopDumpTable       = 3
	GnttabopTransfer        = 4
	GnttabopCopy            = 5
	GnttabopQuerySize       = 6
	GnttabopUnmapAndReplace = 7
	GnttabopSetVersion      = 8
	GnttabopGetStatusFrames = 9
	GnttabopGetVersion      = 10
	GnttabopSwapGrantRef    = 11
	GnttabopCacheFlush      = 12
)

// Flags of [MapGrantRef] (GNTMAP_*).
const (
	GrantMapDevice      = 1 << 0 // for access by devices
	GrantMapHost        = 1 << 1 // for access by CPUs
	GrantMapReadOnly    = 1 << 2
	GrantMapApplication = 1 << 3 // PV: for user space too
	GrantMapContainsPTE = 1 << 4 // PV: HostAddr is the machine address of a page table entry
)

// Flags of [GrantCopy] (GNTCOPY_*): which ends are grant references; the others are frames of the caller's.
const (
	CopySourceGref = 1 << 0
	CopyDestGref   = 1 << 1
)

// Flags of [GrantEntry] (GTF_*): a type in the low two bits, and more bits.
const (
	EntryInvalid        = 0      // grants nothing
	EntryPermitAccess   = 1      // Dom may map and copy Frame
	EntryAcceptTransfer = 2      // Dom may transfer a page to Frame
	EntryTransitive     = 3      // version 2 only
	EntryTypeMask       = 3      // the type
	EntryReadOnly       = 1 << 2 // set by the granting domain
	EntryReading        = 1 << 3 // set by Xen while it is mapped
	EntryWriting        = 1 << 4 // set by Xen while it is mapped writable
)

// The shape of a version 1 grant table.
const (
	NumReservedGrants          = 8 // references that the toolstack may have filled (GNTTAB_NR_RESERVED_ENTRIES)
	GrantConsole      GrantRef = 0 // the console's page (GNTTAB_RESERVED_CONSOLE)
	GrantXenstore     GrantRef = 1 // Xenstore's page (GNTTAB_RESERVED_XENSTORE)
	GrantEntrySize             = 8 // bytes of a [GrantEntry], the same for each ABI
	GrantsPerFrame             = PageSize / GrantEntrySize
)

// PageSize is Xen's page in bytes, whatever the machine's page is.
const PageSize = 4096

// NoHandle is not the handle of any mapping. It is in [MapGrantRef] when an operation fails.
const NoHandle GrantHandle = 0xFFFFFFFF

// GrantEntry is an entry of a version 1 grant table (struct grant_entry_v1).
type GrantEntry struct {
	Flags uint16 // EntryPermitAccess ...
	Dom   DomID  // whom it is for
	Frame uint32 // the page
}

func (m *GrantEntry) layout(c *codec) {
	u16(c, &m.Flags)
	u16(c, &m.Dom)
	u32(c, &m.Frame)
}

// MapGrantRef is one mapping of a grant (struct gnttab_map_grant_ref).
type MapGrantRef struct {
	HostAddr   uint64      // in: where: a guest-physical address (PV: virtual)
	Flags      uint32      // in: GrantMapHost ...
	Ref        GrantRef    // in
	Dom        DomID       // in: whose
	Status     GrantStatus // out
	Handle     GrantHandle // out: what it is unmapped by
	DevBusAddr uint64      // out
}

func (m *MapGrantRef) layout(c *codec) {
	u64(c, &m.HostAddr)
	u32(c, &m.Flags)
	u32(c, &m.Ref)
	u16(c, &m.Dom)
	u16(c, &m.Status)
	u32(c, &m.Handle)
	u64(c, &m.DevBusAddr)
}

// UnmapGrantRef is one unmapping (struct gnttab_unmap_grant_ref).
type UnmapGrantRef struct {
	HostAddr   uint64      // in: as it was mapped, or 0 for none
	DevBusAddr uint64      // in: as it was mapped, or 0 for none
	Handle     GrantHandle // in
	Status     GrantStatus // out
}

func (m *UnmapGrantRef) layout(c *codec) {
	u64(c, &m.HostAddr)
	u64(c, &m.DevBusAddr)
	u32(c, &m.Handle)
	u16(c, &m.Status)
}

// SetupGrantTable asks for the frames of a grant table (struct gnttab_setup_table).
type SetupGrantTable struct {
	Dom       DomID       // in
	NrFrames  uint32      // in
	Status    GrantStatus // out
	FrameList uint64      // guest handle of NrFrames xen_pfn_t, out
}

func (m *SetupGrantTable) layout(c *codec) {
	u16(c, &m.Dom)
	u32(c, &m.NrFrames)
	u16(c, &m.Status)
	guestHandle(c, &m.FrameList)
}

// FrameListOffset is where the guest handle is, for [Call.Ref].
func (m *SetupGrantTable) FrameListOffset(abi ABI) int {
	c := measure(abi)
	m.layout(&c)
	return c.handle
}

// CopyPtr is one end of a [GrantCopy] (struct gnttab_copy_ptr): a grant of Dom's if the copy's flags say so, else a frame of Dom's.
type CopyPtr struct {
	Ref    GrantRef // with the flag
	GFN    GFN      // without it; it shares its memory with Ref
	Dom    DomID    // DomSelf for the caller's own frame
	Offset uint16   // in the page, in bytes
}

func (m *CopyPtr) layout(c *codec, isRef bool) {
	u := uint64(m.GFN)
	if isRef {
		u = uint64(m.Ref)
	}
	word(c, &u)
	if c.mode == reading {
		m.Ref, m.GFN = GrantRef(u), GFN(u)
	}
	u16(c, &m.Dom)
	u16(c, &m.Offset)
	c.end()
}

// GrantCopy is one copy (struct gnttab_copy). It stays within a page at either end.
type GrantCopy struct {
	Src, Dst CopyPtr     // in
	Len      uint16      // in: bytes
	Flags    uint16      // in: CopySourceGref, CopyDestGref
	Status   GrantStatus // out
}

func (m *GrantCopy) layout(c *codec) {
	m.Src.layout(c, m.Flags&CopySourceGref != 0)
	m.Dst.layout(c, m.Flags&CopyDestGref != 0)
	u16(c, &m.Len)
	u16(c, &m.Flags)
	u16(c, &m.Status)
	if c.mode == reading {
		m.Src.choose(m.Flags&CopySourceGref != 0)
		m.Dst.choose(m.Flags&CopyDestGref != 0)
	}
}

// choose clears the member of the union that does not count.
func (m *CopyPtr) choose(isRef bool) {
	if isRef {
		m.GFN = 0
		return
	}
	m.Ref = 0
}

// QueryGrantTableSize asks how large a grant table is (struct gnttab_query_size).
type QueryGrantTableSize struct {
	Dom         DomID       // in
	NrFrames    uint32      // out
	MaxNrFrames uint32      // out
	Status      GrantStatus // out
}

func (m *QueryGrantTableSize) layout(c *codec) {
	u16(c, &m.Dom)
	u32(c, &m.NrFrames)
	u32(c, &m.MaxNrFrames)
	u16(c, &m.Status)
}

// GrantTableVersion sets the version of the caller's grant table (struct gnttab_set_version).
type GrantTableVersion struct {
	Version uint32 // in and out
}

func (m *GrantTableVersion) layout(c *codec) { u32(c, &m.Version) }

// QueryGrantVersion asks for the version of a domain's grant table (struct gnttab_get_version).
type QueryGrantVersion struct {
	Dom     DomID  // in
	Version uint32 // out
}

func (m *QueryGrantVersion) layout(c *codec) {
	var pad uint16
	u16(c, &m.Dom)
	u16(c, &pad)
	u32(c, &m.Version)
}

// SwapGrantRefs exchanges two of the caller's entries (struct gnttab_swap_grant_ref).
type SwapGrantRefs struct {
	A, B   GrantRef    // in
	Status GrantStatus // out
}

func (m *SwapGrantRefs) layout(c *codec) {
	u32(c, &m.A)
	u32(c, &m.B)
	u16(c, &m.Status)
}

// newGrantScratch returns the call grant_table_op(cmd, ops, n), where each operation is size bytes.
func newGrantScratch(cmd uint64, size, n int) *scratch {
	s := newScratch(NrGrantTableOp, cmd, size*n)
	s.call.Args[2], s.call.N = uint64(n), 3
	return s
}

// MapGrants maps grants of other domains, in one hypercall. The error is nil if the call was made; each operation's Status says what
// became of it, and Handle what it is unmapped by ([NoHandle] if it was not mapped). If the call failed, operations that Xen did not
// come to have [StatusNotDone]; those that are [StatusOkay] are mapped all the same.
func MapGrants(c Caller, ops []MapGrantRef) error {
	if len(ops) == 0 {
		return nil
	}
	abi := c.ABI()
	size := ops[0].Size(abi)
	s := newGrantScratch(GnttabopMapGrantRef, size, len(ops))
	for i := range ops {
		ops[i].Status, ops[i].Handle, ops[i].DevBusAddr = StatusNotDone, NoHandle, 0
		ops[i].Marshal(abi, s.buf[i*size:])
	}
	_, err := c.Hypercall(&s.call)
	for i := range ops {
		var out MapGrantRef
		out.Unmarshal(abi, s.buf[i*size:])
		ops[i].Status, ops[i].Handle, ops[i].DevBusAddr = out.Status, out.Handle, out.DevBusAddr
		if out.Status != StatusOkay {
			ops[i].Handle = NoHandle
		}
	}
	s.free()
	return grantError(err, "GNTTABOP_map_grant_ref", len(ops))
}

// UnmapGrants ends mappings, in one hypercall. The error is nil if the call was made; each operation's Status says what became of it.
func UnmapGrants(c Caller, ops []UnmapGrantRef) error {
	if len(ops) == 0 {
		return nil
	}
	abi := c.ABI()
	size := ops[0].Size(abi)
	s := newGrantScratch(GnttabopUnmapGrantRef, size, len(ops))
	for i := range ops {
		ops[i].Status = StatusNotDone
		ops[i].Marshal(abi, s.buf[i*size:])
	}
	_, err := c.Hypercall(&s.call)
	for i := range ops {
		var out UnmapGrantRef
		out.Unmarshal(abi, s.buf[i*size:])
		ops[i].Status = out.Status
	}
	s.free()
	return grantError(err, "GNTTABOP_unmap_grant_ref", len(ops))
}

// CopyGrants copies between pages, in one hypercall. The error is nil if the call was made; each operation's Status says what became
// of it. Operations after one that failed may be done or not: look at each.
func CopyGrants(c Caller, ops []GrantCopy) error {
	if len(ops) == 0 {
		return nil
	}
	abi := c.ABI()
	size := ops[0].Size(abi)
	s := newGrantScratch(GnttabopCopy, size, len(ops))
	for i := range ops {
		ops[i].Status = StatusNotDone
		ops[i].Marshal(abi, s.buf[i*size:])
	}
	_, err := c.Hypercall(&s.call)
	for i := range ops {
		var out GrantCopy
		out.Unmarshal(abi, s.buf[i*size:])
		ops[i].Status = out.Status
	}
	s.free()
	return grantError(err, "GNTTABOP_copy", len(ops))
}

func grantError(err error, op string, n int) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, On: fmt.Sprintf("%d operations", n), Err: err}
}

// MaxSetupFrames is the most frames that [SetupTable] asks for: 32 MiB of entries, far above any limit that a toolstack sets (Xen's
// default is 64).
const MaxSetupFrames = 8192

// SetupTable has the grant table of dom grow to at least the given number of frames, and returns the numbers of them all. On an
// auto-translated domain (all but PV) the numbers mean nothing: put the frames somewhere with [AddToPhysmap] and [SpaceGrantTable].
func SetupTable(c Caller, dom DomID, frames int) ([]GFN, error) {
	on := func() string { return fmt.Sprintf("domain %d, %d frames", dom, frames) }
	if frames < 0 || frames > MaxSetupFrames {
		return nil, &OpError{Op: "GNTTABOP_setup_table", On: on(), Err: EINVAL}
	}
	abi := c.ABI()
	op := SetupGrantTable{Dom: dom, NrFrames: uint32(frames), Status: StatusNotDone}
	s := newGrantScratch(GnttabopSetupTable, op.Size(abi), 1)
	defer s.free()
	op.Marshal(abi, s.buf)
	list := s.withList(op.FrameListOffset(abi), frames*abi.WordBytes())
	clear(list)
	_, err := c.Hypercall(&s.call)
	if err == nil {
		op.Unmarshal(abi, s.buf)
		err = op.Status.Err()
	}
	if err != nil {
		return nil, &OpError{Op: "GNTTABOP_setup_table", On: on(), Err: err}
	}
	gfns := make([]GFN, frames)
	GetWords(abi, list, gfns)
	return gfns, nil
}

// QueryGrantSize returns how many frames the grant table of dom has, and how many it may have.
func QueryGrantSize(c Caller, dom DomID) (frames, maxFrames uint32, err error) {
	op := QueryGrantTableSize{Dom: dom, Status: StatusNotDone}
	_, err = do(c, NrGrantTableOp, GnttabopQuerySize, &op)
	if err == nil {
		err = op.Status.Err()
	}
	if err != nil {
		return 0, 0, &OpError{Op: "GNTTABOP_query_size", On: fmt.Sprintf("domain %d", dom), Err: err}
	}
	return op.NrFrames, op.MaxNrFrames, nil
}

// GetGrantVersion returns the version, 1 or 2, of the grant table of dom.
func GetGrantVersion(c Caller, dom DomID) (uint32, error) {
	op := QueryGrantVersion{Dom: dom}
	if _, err := do(c, NrGrantTableOp, GnttabopGetVersion, &op); err != nil {
		return 0, &OpError{Op: "GNTTABOP_get_version", On: fmt.Sprintf("domain %d", dom), Err: err}
	}
	return op.Version, nil
}

// SetGrantVersion sets the version of the caller's grant table to 1 or 2, and returns the one that it now is. No grants but the
// reserved ones may be in use.
func SetGrantVersion(c Caller, version uint32) (uint32, error) {
	op := GrantTableVersion{Version: version}
	if _, err := do(c, NrGrantTableOp, GnttabopSetVersion, &op); err != nil {
		return op.Version, &OpError{Op: "GNTTABOP_set_version", On: fmt.Sprintf("version %d", version), Err: err}
	}
	return op.Version, nil
}

// SwapGrants exchanges two of the caller's grant table entries.
func SwapGrants(c Caller, a, b GrantRef) error {
	op := SwapGrantRefs{A: a, B: b, Status: StatusNotDone}
	_, err := do(c, NrGrantTableOp, GnttabopSwapGrantRef, &op)
	if err == nil {
		err = op.Status.Err()
	}
	if err != nil {
		return &OpError{Op: "GNTTABOP_swap_grant_ref", On: fmt.Sprintf("references %d and %d", a, b), Err: err}
	}
	return nil
}
