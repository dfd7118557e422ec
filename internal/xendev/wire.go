package xendev

import "encoding/binary"

// Request is the number of an ioctl.
type Request uint32

// The numbers are _IOC(_IOC_NONE, kind, nr, size): size, kind and nr, from the highest bits to the lowest. Those of the Xen devices do
// not say which way the data go.

// The requests of /dev/xen/evtchn. Those that bind return the port.
const (
	EvtchnBindVIRQ        Request = 4<<16 | 'E'<<8
	EvtchnBindInterdomain Request = 8<<16 | 'E'<<8 | 1
	EvtchnBindUnboundPort Request = 4<<16 | 'E'<<8 | 2
	EvtchnUnbind          Request = 4<<16 | 'E'<<8 | 3
	EvtchnNotify          Request = 4<<16 | 'E'<<8 | 4
	EvtchnReset           Request = 0<<16 | 'E'<<8 | 5
	EvtchnRestrictDomID   Request = 2<<16 | 'E'<<8 | 6
)

// The requests of /dev/xen/gntalloc. Their sizes count one reference.
const (
	GntallocAlloc          Request = 24<<16 | 'G'<<8 | 5
	GntallocDealloc        Request = 16<<16 | 'G'<<8 | 6
	GntallocSetUnmapNotify Request = 16<<16 | 'G'<<8 | 7
)

// The requests of /dev/xen/gntdev. Their sizes count one reference. GntdevSetUnmapNotify is gntalloc's number.
const (
	GntdevMap            Request = 24<<16 | 'G'<<8
	GntdevUnmap          Request = 16<<16 | 'G'<<8 | 1
	GntdevSetUnmapNotify Request = 16<<16 | 'G'<<8 | 7
	GntdevCopy           Request = 16<<16 | 'G'<<8 | 8
)

// The requests of /dev/xen/privcmd.
const (
	PrivcmdHypercall    Request = 48<<16 | 'P'<<8
	PrivcmdMmapBatchV2  Request = 32<<16 | 'P'<<8 | 4
	PrivcmdMmapResource Request = 32<<16 | 'P'<<8 | 7
)

// XenbusBackendEvtchn is the request of /dev/xen/xenbus_backend that returns the port of the kernel's end of the ring. It has no structure.
const XenbusBackendEvtchn Request = 'B' << 8

// Flags in the structures.
const (
	GntallocWritable     = 1 // the peer may write
	UnmapNotifyClearByte = 1
	UnmapNotifySendEvent = 2
)

// le is the byte order of both architectures.
var le = binary.LittleEndian

// U32s is the structure of the requests that are nothing but numbers of 32 bits: those of evtchn but for EvtchnRestrictDomID.
func U32s(vs ...uint32) []byte {
	b := make([]byte, 0, 8)
	for _, v := range vs {
		b = le.AppendUint32(b, v)
	}
	return b
}

// RestrictDomID is the structure of EvtchnRestrictDomID.
func RestrictDomID(dom uint16) []byte { return le.AppendUint16(nil, dom) }

// Alloc is the structure of GntallocAlloc, for count pages.
type Alloc []byte

const allocRefs = 16 // where the references begin

// NewAlloc returns the structure.
func NewAlloc(dom, flags uint16, count int) Alloc {
	a := make(Alloc, max(24, allocRefs+4*count))
	le.PutUint16(a, dom)
	le.PutUint16(a[2:], flags)
	le.PutUint32(a[4:], uint32(count))
	return a
}

// DomID is who may map the pages.
func (a Alloc) DomID() uint16 { return le.Uint16(a) }

// Flags says whether the peer may write.
func (a Alloc) Flags() uint16 { return le.Uint16(a[2:]) }

// Count is how many pages there are.
func (a Alloc) Count() int { return int(le.Uint32(a[4:])) }

// Index is the offset of the pages in the device, which the driver says.
func (a Alloc) Index() uint64 { return le.Uint64(a[8:]) }

// SetIndex is for a model of the driver.
func (a Alloc) SetIndex(v uint64) { le.PutUint64(a[8:], v) }

// Ref is the grant reference of a page, which the driver says.
func (a Alloc) Ref(i int) uint32 { return le.Uint32(a[allocRefs+4*i:]) }

// SetRef is for a model of the driver.
func (a Alloc) SetRef(i int, v uint32) { le.PutUint32(a[allocRefs+4*i:], v) }

// Range is the structure of GntallocDealloc and GntdevUnmap.
type Range []byte

// NewRange returns the structure.
func NewRange(index uint64, count int) Range {
	r := make(Range, 16)
	le.PutUint64(r, index)
	le.PutUint32(r[8:], uint32(count))
	return r
}

// Index is the offset of the pages in the device.
func (r Range) Index() uint64 { return le.Uint64(r) }

// Count is how many pages there are.
func (r Range) Count() int { return int(le.Uint32(r[8:])) }

// UnmapNotify is the structure of GntallocSetUnmapNotify and GntdevSetUnmapNotify.
type UnmapNotify []byte

// NewUnmapNotify returns the structure.
func NewUnmapNotify(index uint64, action, port uint32) UnmapNotify {
	n := make(UnmapNotify, 16)
	le.PutUint64(n, index)
	le.PutUint32(n[8:], action)
	le.PutUint32(n[12:], port)
	return n
}

// Index is the offset of the byte in the device.
func (n UnmapNotify) Index() uint64 { return le.Uint64(n) }

// Action is what is done.
func (n UnmapNotify) Action() uint32 { return le.Uint32(n[8:]) }

// Port is where an event is sent.
func (n UnmapNotify) Port() uint32 { return le.Uint32(n[12:]) }

// Map is the structure of GntdevMap.
type Map []byte

const (
	mapRefs    = 16 // where the references begin
	mapRefSize = 8
)

// NewMap returns the structure for pages of one domain.
func NewMap(dom uint16, refs []uint32) Map {
	m := make(Map, max(24, mapRefs+mapRefSize*len(refs)))
	le.PutUint32(m, uint32(len(refs)))
	for i, r := range refs {
		le.PutUint32(m[mapRefs+mapRefSize*i:], uint32(dom))
		le.PutUint32(m[mapRefs+mapRefSize*i+4:], r)
	}
	return m
}

// Count is how many pages there are.
func (m Map) Count() int { return int(le.Uint32(m)) }

// Index is the offset of the pages in the device, which the driver says.
func (m Map) Index() uint64 { return le.Uint64(m[8:]) }

// SetIndex is for a model of the driver.
func (m Map) SetIndex(v uint64) { le.PutUint64(m[8:], v) }

// Ref is the i-th page: whose it is, and under which reference.
func (m Map) Ref(i int) (dom, ref uint32) {
	at := m[mapRefs+mapRefSize*i:]
	return le.Uint32(at), le.Uint32(at[4:])
}

// copySize is the size of the structure of GntdevCopy, and copySegments where the address of its segments is.
const (
	copySize     = 16
	copySegments = 8
)

// NewCopy returns the structure of GntdevCopy for segments, and the pointer in it.
func NewCopy(s Segments) ([]byte, Pointer) {
	c := make([]byte, copySize)
	le.PutUint32(c, uint32(s.Len()))
	return c, Pointer{Off: copySegments, Data: s}
}

// Segments are the copies of a GntdevCopy.
type Segments []byte

const segmentSize = 24

// NewSegments returns n segments.
func NewSegments(n int) Segments { return make(Segments, n*segmentSize) }

// Len is how many there are.
func (s Segments) Len() int { return len(s) / segmentSize }

// End is one end of a copy: an address in the process, or a granted page.
type End struct {
	Virt   uint64
	Ref    uint32
	Offset uint16
	DomID  uint16
}

// Flags of a segment: which ends are granted pages.
const (
	CopySourceGref = 1
	CopyDestGref   = 2
)

// Set says what the i-th segment copies.
func (s Segments) Set(i int, src, dst End, n, flags uint16) {
	at := s[i*segmentSize:]
	src.put(at, flags&CopySourceGref != 0)
	dst.put(at[8:], flags&CopyDestGref != 0)
	le.PutUint16(at[16:], n)
	le.PutUint16(at[18:], flags)
}

func (e End) put(at []byte, foreign bool) {
	if !foreign {
		le.PutUint64(at, e.Virt)
		return
	}
	le.PutUint32(at, e.Ref)
	le.PutUint16(at[4:], e.Offset)
	le.PutUint16(at[6:], e.DomID)
}

// Get is for a model of the driver.
func (s Segments) Get(i int) (src, dst End, n, flags uint16) {
	at := s[i*segmentSize:]
	n, flags = le.Uint16(at[16:]), le.Uint16(at[18:])
	return getEnd(at, flags&CopySourceGref != 0), getEnd(at[8:], flags&CopyDestGref != 0), n, flags
}

func getEnd(at []byte, foreign bool) End {
	if !foreign {
		return End{Virt: le.Uint64(at)}
	}
	return End{Ref: le.Uint32(at), Offset: le.Uint16(at[4:]), DomID: le.Uint16(at[6:])}
}

// Status is what Xen said of the i-th.
func (s Segments) Status(i int) int16 { return int16(le.Uint16(s[i*segmentSize+20:])) }

// SetStatus is for a model of the driver, and for what is to stand there before Xen says something.
func (s Segments) SetStatus(i int, v int16) { le.PutUint16(s[i*segmentSize+20:], uint16(v)) }

// Hypercall is the structure of PrivcmdHypercall.
type Hypercall [48]byte

// Set says what is called.
func (h *Hypercall) Set(op uint64, args *[5]uint64) {
	le.PutUint64(h[:], op)
	for i, a := range args {
		le.PutUint64(h[8+8*i:], a)
	}
}

// Get is for a model of the driver.
func (h *Hypercall) Get() (op uint64, args [5]uint64) {
	for i := range args {
		args[i] = le.Uint64(h[8+8*i:])
	}
	return le.Uint64(h[:]), args
}

// MmapBatch is the structure of PrivcmdMmapBatchV2.
type MmapBatch []byte

// NewMmapBatch returns the structure that maps frames of a domain at an address, and the pointers in it. The driver writes an error
// number for each frame into errs, which has four bytes for each.
func NewMmapBatch(dom uint16, addr uint64, frames []uint64) (m MmapBatch, ps []Pointer, errs []byte) {
	m = make(MmapBatch, 32)
	le.PutUint32(m, uint32(len(frames)))
	le.PutUint16(m[4:], dom)
	le.PutUint64(m[8:], addr)
	list := make([]byte, 0, 8*len(frames))
	for _, f := range frames {
		list = le.AppendUint64(list, f)
	}
	errs = make([]byte, 4*len(frames))
	return m, []Pointer{{Off: 16, Data: list}, {Off: 24, Data: errs}}, errs
}

// DomID is whose frames are mapped.
func (m MmapBatch) DomID() uint16 { return le.Uint16(m[4:]) }

// Addr is where they are mapped.
func (m MmapBatch) Addr() uint64 { return le.Uint64(m[8:]) }

// Resource is the structure of PrivcmdMmapResource.
type Resource struct {
	DomID     uint16
	Type, ID  uint32
	First     uint32
	Num, Addr uint64
}

const resourceSize = 32

// Marshal returns the structure as the driver takes it.
func (r *Resource) Marshal() []byte {
	b := make([]byte, resourceSize)
	le.PutUint16(b, r.DomID)
	le.PutUint32(b[4:], r.Type)
	le.PutUint32(b[8:], r.ID)
	le.PutUint32(b[12:], r.First)
	le.PutUint64(b[16:], r.Num)
	le.PutUint64(b[24:], r.Addr)
	return b
}

// Unmarshal is for a model of the driver.
func (r *Resource) Unmarshal(b []byte) {
	r.DomID, r.Type, r.ID, r.First = le.Uint16(b), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	r.Num, r.Addr = le.Uint64(b[16:]), le.Uint64(b[24:])
}
