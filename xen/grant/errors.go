package grant

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// ErrNoSpace is what Share answers, inside a [*NoSpaceError], when the domain's grant table has no reference left and cannot grow.
var ErrNoSpace = errors.New("grant: no free reference")

// ErrBusy is what Close of a table answers while peers have pages mapped that were shared from it, and what Share answers, inside a
// [*QuarantineError], to a peer that has too many.
var ErrBusy = errors.New("grant: peers have pages mapped still")

// NoSpaceError says how full the grant table is that had no room for a share. Its cause may pass: references come free as other
// shares end and as peers unmap what is in quarantine.
type NoSpaceError struct {
	Want        int   // references asked for
	Free        int   // references free
	Size        int   // references that the table has, reserved ones included
	Limit       int   // references that it can have, reserved ones included
	Quarantined int   // pages that were ended and that peers still map
	Err         error // why the table could not grow, where Xen refused that; else nil
}

func (e *NoSpaceError) Error() string {
	s := fmt.Sprintf("%v: %d wanted, %d free of %d (at most %d), %d pages in quarantine",
		ErrNoSpace, e.Want, e.Free, e.Size, e.Limit, e.Quarantined)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is reports whether target is [ErrNoSpace].
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }

// Unwrap returns Err.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// QuarantineError says that nothing more is shared with a peer for now, because it has so many pages mapped that were ended. It is
// [ErrBusy]. Its cause passes as the peer unmaps them, or dies.
type QuarantineError struct {
	Peer  hypercall.DomID
	Held  int // pages that were ended and that the peer still maps
	Limit int // how many of them are too many: Config.MaxQuarantine
}

func (e *QuarantineError) Error() string {
	return fmt.Sprintf("grant: domain %d has %d pages mapped still that were ended, and may keep %d before it gets others",
		e.Peer, e.Held, e.Limit)
}

// Is reports whether target is [ErrBusy].
func (e *QuarantineError) Is(target error) bool { return target == ErrBusy }

// MapError says that a peer's pages could not all be mapped. Those that were mapped have been unmapped again.
type MapError struct {
	Peer     hypercall.DomID
	Refs     []Ref                   // what was to be mapped
	Statuses []hypercall.GrantStatus // what Xen said of each, in the same order
}

func (e *MapError) Error() string {
	failed, first := 0, -1
	for i, s := range e.Statuses {
		if s.Err() != nil {
			if failed++; first < 0 {
				first = i
			}
		}
	}
	if first < 0 {
		return fmt.Sprintf("grant: map %d pages of domain %d", len(e.Refs), e.Peer)
	}
	return fmt.Sprintf("grant: map %d pages of domain %d: %d failed, the first under reference %d: %v",
		len(e.Refs), e.Peer, failed, e.Refs[first], e.Statuses[first])
}

// Unwrap returns the first status that is not success.
func (e *MapError) Unwrap() error {
	for _, s := range e.Statuses {
		if err := s.Err(); err != nil {
			return err
		}
	}
	return nil
}

// UnmapError says that Xen refused to take back some of a mapping's pages. Their frame numbers are not used again.
type UnmapError struct {
	Peer     hypercall.DomID
	Statuses []hypercall.GrantStatus // one a page
}

func (e *UnmapError) Error() string {
	failed := 0
	for _, s := range e.Statuses {
		if s.Err() != nil {
			failed++
		}
	}
	return fmt.Sprintf("grant: unmap %d pages of domain %d: %d failed: %v", len(e.Statuses), e.Peer, failed, e.Unwrap())
}

// Unwrap returns the first status that is not success.
func (e *UnmapError) Unwrap() error {
	for _, s := range e.Statuses {
		if err := s.Err(); err != nil {
			return err
		}
	}
	return nil
}

// CopyError says why one copy of several was not done.
type CopyError struct {
	Op  int    // which operation, counted from 0
	End string // "source" or "destination" where one of them is at fault, else ""
	Err error  // a [*RangeError], a [hypercall.GrantStatus], or an error of the share that is an end
}

func (e *CopyError) Error() string {
	if e.End == "" {
		return fmt.Sprintf("grant: copy %d: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("grant: copy %d: %s: %v", e.Op, e.End, e.Err)
}

// Unwrap returns Err.
func (e *CopyError) Unwrap() error { return e.Err }

// RangeError says that bytes are not inside one page, or a page is not inside its share. Xen's own word for it is
// [hypercall.StatusBadCopyArg], which errors.Is finds it to be.
type RangeError struct {
	Page        int // of the share; 0 where the end is a reference
	Pages       int // that the share has; 1 where the end is a reference
	Offset, Len int // in bytes, from the start of the page
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%d bytes at offset %d of page %d (of %d) are not inside one page of 4096 bytes", e.Len, e.Offset, e.Page, e.Pages)
}

// Is reports whether target is [hypercall.StatusBadCopyArg].
func (e *RangeError) Is(target error) bool { return target == hypercall.StatusBadCopyArg }
