package grant

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

var errForeignShare = errors.New("the share is not of this table")

// Copy implements [Table]. An operation that crosses the end of a page, or names a page that its share does not have, is not given to
// Xen: its Err is a [*CopyError] that wraps a [*RangeError]. The others are done, in as few hypercalls as can be.
func (n *Native) Copy(ops []CopyOp) error {
	if _, err := n.begin(); err != nil {
		return fmt.Errorf("grant: copy: %w", err)
	}
	o := operationsPool.Get().(*operations)
	defer o.free()
	o.copies = resize(o.copies, len(ops))[:0]
	for i := range ops {
		ops[i].Err = nil
		if gc, err := n.beginCopy(i, &ops[i]); err != nil {
			ops[i].Err = err
		} else {
			o.copies = append(o.copies, gc)
		}
	}
	err := n.copyBatches(o.copies)
	n.endCopies(ops, o.copies, err)
	for i := range ops {
		if ops[i].Err != nil {
			return ops[i].Err
		}
	}
	return nil
}

func (n *Native) copyBatches(ops []hypercall.GrantCopy) error {
	for i := range ops {
		ops[i].Status = hypercall.StatusNotDone
	}
	call := func(run []hypercall.GrantCopy) error {
		n.hypercalls.Add(1)
		return hypercall.CopyGrants(n.c, run)
	}
	status := func(op *hypercall.GrantCopy) hypercall.GrantStatus { return op.Status }
	return batches(n.cfg, ops, call, status)
}

// endCopies gives each operation that went to Xen its status, and lets go of its local pages.
func (n *Native) endCopies(ops []CopyOp, done []hypercall.GrantCopy, failed error) {
	for i := range ops {
		if ops[i].Err != nil {
			continue // it did not go
		}
		status := done[0].Status
		done = done[1:]
		ops[i].Src.unuse()
		ops[i].Dst.unuse()
		switch {
		case status == hypercall.StatusOkay: // exactly
			n.copies.Add(1)
		case status == hypercall.StatusNotDone && failed != nil:
			ops[i].Err = &CopyError{Op: i, Err: failed}
		default:
			ops[i].Err = &CopyError{Op: i, Err: status}
		}
	}
}

// beginCopy checks an operation, and keeps its local pages where they are until endCopies.
func (n *Native) beginCopy(i int, op *CopyOp) (hypercall.GrantCopy, error) {
	gc := hypercall.GrantCopy{}
	var err error
	if gc.Src, err = op.Src.check(n, op.Len); err != nil {
		return gc, &CopyError{Op: i, End: "source", Err: err}
	}
	if gc.Dst, err = op.Dst.check(n, op.Len); err != nil {
		return gc, &CopyError{Op: i, End: "destination", Err: err}
	}
	gc.Len = uint16(op.Len)
	if op.Src.Local == nil {
		gc.Flags |= hypercall.CopySourceGref
	}
	if op.Dst.Local == nil {
		gc.Flags |= hypercall.CopyDestGref
	}
	if err := op.Src.use(); err != nil {
		return gc, &CopyError{Op: i, End: "source", Err: err}
	}
	if err := op.Dst.use(); err != nil {
		op.Src.unuse()
		return gc, &CopyError{Op: i, End: "destination", Err: err}
	}
	return gc, nil
}

// check returns one end of a copy of size bytes as Xen is told of it.
func (e *CopyEnd) check(n *Native, size int) (hypercall.CopyPtr, error) {
	page, pages := 0, 1
	var s *share
	if e.Local != nil {
		var ok bool
		if s, ok = e.Local.(*share); !ok || s.n != n {
			return hypercall.CopyPtr{}, errForeignShare
		}
		page, pages = e.Page, len(s.lease.refs)
	}
	if err := e.inside(size, pages); err != nil {
		return hypercall.CopyPtr{}, err
	}
	if s != nil {
		return hypercall.CopyPtr{GFN: s.frame(page), Dom: hypercall.DomSelf, Offset: uint16(e.Offset)}, nil
	}
	return hypercall.CopyPtr{Ref: e.Ref, Dom: e.Dom, Offset: uint16(e.Offset)}, nil
}

// inside returns a [*RangeError] unless size bytes are in one page of so many.
func (e *CopyEnd) inside(size, pages int) error {
	page := 0
	if e.Local != nil {
		page = e.Page
	}
	if size < 0 || size > shm.PageSize || e.Offset < 0 || e.Offset > shm.PageSize-size || page < 0 || page >= pages {
		return &RangeError{Page: page, Pages: pages, Offset: e.Offset, Len: size}
	}
	return nil
}

func (e *CopyEnd) use() error {
	if s, ok := e.Local.(*share); ok {
		return s.use("copy")
	}
	return nil
}

func (e *CopyEnd) unuse() {
	if s, ok := e.Local.(*share); ok {
		s.unuse()
	}
}
