package grant

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Ref is the number of a grant in its domain's grant table.
type Ref = hypercall.GrantRef

// Table is a domain's way to share memory with other domains and to reach theirs. It is safe for concurrent use.
type Table interface {
	// Share allocates pages zeroed pages and grants each of them to peer. The platform chooses the memory. Where the grant table is
	// full and cannot grow the error is a [*NoSpaceError], which is [ErrNoSpace]. Where the peer keeps too many pages of ended shares
	// mapped it is a [*QuarantineError], which is [ErrBusy].
	Share(peer hypercall.DomID, pages int, access Access) (Share, error)
	// Map maps the pages that peer granted to this domain under refs, in that order, into one region. Either all are mapped or none:
	// where some could not be, the error is a [*MapError] that has each one's status. The references may come from the peer as they
	// are; a page may be among them twice. With ReadOnly the region panics on writes.
	Map(peer hypercall.DomID, refs []Ref, access Access) (Mapping, error)
	// Copy has Xen copy bytes between this domain's pages and granted ones. Each operation's status is in its Err; the error is nil
	// when all are, and the first of them otherwise. An operation that is not inside one page at either end is not done; its Err is
	// a [*CopyError].
	Copy(ops []CopyOp) error
	// Stats returns the table's counters.
	Stats() Stats
	// Close gives back what the table holds. Shares and mappings that are still open are closed with it. While peers have shared
	// pages mapped it returns an error that is [ErrBusy], and a further Close looks again; when all is given back it returns nil.
	Close() error
}

// Access says what the other side, or this side, may do to pages.
type Access uint8

// The kinds of access.
const (
	ReadWrite Access = iota
	ReadOnly
)

// Share is memory of this domain that a peer may map. It is safe for concurrent use. After a resume of the domain its methods return
// [hypercall.ErrStale].
type Share interface {
	// Region is the way to the memory. It lives until End.
	Region() *shm.Region
	// Refs are the grant references, one a page, in the order of the pages. The slice is the caller's.
	Refs() []Ref
	// SetNotify says what shall happen when this domain lets go of the memory, be it by End or by dying, in place of what was said
	// before; the zero Notify says nothing.
	SetNotify(n Notify) error
	// End takes the memory back and says what became of it. The region is closed, and the share must not be used again. A second End
	// returns what the first returned. An error beside an Ending says that something else went wrong on the way, as that the
	// notification could not be sent.
	End() (Ending, error)
}

// Mapping is a peer's memory, mapped. It is safe for concurrent use. After a resume of the domain its methods return
// [hypercall.ErrStale], Close once.
type Mapping interface {
	// Region is the way to the memory. It lives until Close.
	Region() *shm.Region
	// SetNotify says what shall happen when this domain lets go of the memory, be it by Close or by dying, in place of what was said
	// before; the zero Notify says nothing. A read-only mapping cannot clear a byte.
	SetNotify(n Notify) error
	// Close unmaps the memory. The region is closed with it; late accesses find zeros. A second Close returns nil.
	Close() error
}

// Notify is what a platform does when memory is let go: clear one byte of it and send one event, so that a peer learns of a death.
// Bare Xen cannot do it for a domain that dies without a word; Linux's gntalloc and gntdev, and the simulator, can.
type Notify struct {
	ClearByte bool           // whether the byte at Offset is set to zero
	Offset    int            // of the byte, from the start of the region
	Port      hypercall.Port // the local port that an event is sent on; 0 for none
}

// Ending says what became of shared memory when its share was ended.
type Ending uint8

// What can become of shared memory.
const (
	// Reclaimed: the peer cannot reach the memory any more, and it is free.
	Reclaimed Ending = iota + 1
	// Busy: the peer has it mapped still. The references and the pages are in quarantine until the peer lets go.
	Busy
	// Surrendered: the platform kept the pages and cannot tell whether the peer still maps them (Linux's gntalloc always says this).
	Surrendered
)

func (e Ending) String() string {
	switch e {
	case Reclaimed:
		return "reclaimed"
	case Busy:
		return "busy"
	case Surrendered:
		return "surrendered"
	}
	return fmt.Sprintf("Ending(%d)", uint8(e))
}

// CopyOp is one grant copy (GNTTABOP_copy): at most a page, and inside one page at either end.
type CopyOp struct {
	Src, Dst CopyEnd
	Len      int
	Err      error // its status, set by Copy
}

// CopyEnd is one end of a copy: a page that Dom granted under Ref, or, where Local is not nil, this domain's own page of that share.
type CopyEnd struct {
	Dom    hypercall.DomID
	Ref    Ref
	Local  Share // one of this table's shares, or nil
	Page   int   // the page of Local
	Offset int   // in the page
}

// Stats counts what a Table did and holds.
type Stats struct {
	Shared      int    // pages shared now
	Quarantined int    // pages ended that a peer still maps
	Mapped      int    // foreign pages mapped now
	Leaked      int    // pages and frame numbers lost until the domain ends, because Xen or the platform refused them back
	Free        int    // references free in the table as large as it is now
	Size        int    // references in the table as large as it is now, reserved ones included
	Maps        uint64 // pages ever mapped
	Unmaps      uint64 // pages ever unmapped
	Copies      uint64 // copy operations ever done
	Hypercalls  uint64 // hypercalls made for all this
}
