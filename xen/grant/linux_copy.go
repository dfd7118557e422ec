package grant

import (
	"fmt"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// linuxCopy is one copy as gntdev takes it.
type linuxCopy struct {
	src, dst xendev.End
	n, flags uint16
	status   hypercall.GrantStatus
	failed   error // of the request that it was in
}

// Copy implements [Table]. What is inside this domain at both ends the kernel does not take: that is copied here.
func (l *Linux) Copy(ops []CopyOp) error {
	s, err := l.session()
	if err == nil {
		err = s.devErr
	}
	if err != nil {
		return fmt.Errorf("grant: copy: %w", err)
	}
	list := make([]linuxCopy, 0, len(ops))
	for i := range ops {
		ops[i].Err = nil
		c, err := l.beginCopy(i, &ops[i])
		if err != nil {
			ops[i].Err = err
			continue
		}
		list = append(list, c)
	}
	s.run(ops, list)
	l.endCopies(ops, list)
	for i := range ops {
		if ops[i].Err != nil {
			return ops[i].Err
		}
	}
	return nil
}

// run does the copies that are to be done.
func (s *session) run(ops []CopyOp, list []linuxCopy) {
	foreign := make([]linuxCopy, 0, len(list))
	at := make([]int, 0, len(list))
	k := 0
	for i := range ops {
		if ops[i].Err != nil {
			continue
		}
		if list[k].flags == 0 {
			copyLocal(&ops[i])
		} else {
			foreign, at = append(foreign, list[k]), append(at, k)
		}
		k++
	}
	_ = s.copyBatches(foreign) // each knows
	for j, k := range at {
		list[k] = foreign[j]
	}
}

// copyLocal copies from one share's page to another's.
func copyLocal(op *CopyOp) {
	b := make([]byte, op.Len)
	op.Src.Local.Region().CopyOut(b, op.Src.Page*shm.PageSize+op.Src.Offset)
	op.Dst.Local.Region().CopyIn(op.Dst.Page*shm.PageSize+op.Dst.Offset, b)
}

// copyBatches makes the requests for ops, and further ones for those that Xen could not do just now.
func (s *session) copyBatches(ops []linuxCopy) error {
	for i := range ops {
		ops[i].status = hypercall.StatusNotDone
	}
	status := func(op *linuxCopy) hypercall.GrantStatus { return op.status }
	return batches(s.l.cfg, ops, s.copyBatch, status)
}

// copyBatch makes one request. Where that fails no status counts: the driver writes GNTST_okay before it has Xen do anything.
func (s *session) copyBatch(ops []linuxCopy) error {
	segments := xendev.NewSegments(len(ops))
	for i := range ops {
		segments.Set(i, ops[i].src, ops[i].dst, ops[i].n, ops[i].flags)
		segments.SetStatus(i, int16(hypercall.StatusNotDone))
	}
	arg, p := xendev.NewCopy(segments)
	err := s.l.request(s.dev, xendev.GntdevCopy, arg, p)
	for i := range ops {
		ops[i].failed = err
		if err == nil {
			ops[i].status = hypercall.GrantStatus(segments.Status(i))
		} else {
			ops[i].status = hypercall.StatusNotDone
		}
	}
	return nil // the next batch may do better
}

// endCopies gives each operation that went to Xen its status, and lets go of its local pages.
func (l *Linux) endCopies(ops []CopyOp, list []linuxCopy) {
	for i := range ops {
		if ops[i].Err != nil {
			continue // it did not go
		}
		c := &list[0]
		list = list[1:]
		ops[i].Src.release()
		ops[i].Dst.release()
		switch {
		case c.flags == 0, c.status == hypercall.StatusOkay && c.failed == nil: // exactly
			l.copies.Add(1)
		case c.failed != nil:
			ops[i].Err = &CopyError{Op: i, Err: c.failed}
		default:
			ops[i].Err = &CopyError{Op: i, Err: c.status}
		}
	}
}

// beginCopy checks an operation, and keeps its local pages where they are until endCopies.
func (l *Linux) beginCopy(i int, op *CopyOp) (c linuxCopy, err error) {
	if err := op.Src.checkLinux(l, op.Len); err != nil {
		return c, &CopyError{Op: i, End: "source", Err: err}
	}
	if err := op.Dst.checkLinux(l, op.Len); err != nil {
		return c, &CopyError{Op: i, End: "destination", Err: err}
	}
	if c.src, err = op.Src.hold(); err != nil {
		return c, &CopyError{Op: i, End: "source", Err: err}
	}
	if c.dst, err = op.Dst.hold(); err != nil {
		op.Src.release()
		return c, &CopyError{Op: i, End: "destination", Err: err}
	}
	if op.Src.Local == nil {
		c.flags |= xendev.CopySourceGref
	}
	if op.Dst.Local == nil {
		c.flags |= xendev.CopyDestGref
	}
	c.n = uint16(op.Len)
	return c, nil
}

func (e *CopyEnd) checkLinux(l *Linux, size int) error {
	pages := 1
	if e.Local != nil {
		sh, ok := e.Local.(*linuxShare)
		if !ok || sh.s.l != l {
			return errForeignShare
		}
		pages = len(sh.refs)
	}
	return e.inside(size, pages)
}

// hold returns the end as gntdev takes it, and keeps a share's pages where they are until release.
func (e *CopyEnd) hold() (xendev.End, error) {
	sh, ok := e.Local.(*linuxShare)
	if !ok {
		return xendev.End{Ref: uint32(e.Ref), Offset: uint16(e.Offset), DomID: uint16(e.Dom)}, nil
	}
	if err := sh.use("copy"); err != nil {
		return xendev.End{}, err
	}
	return xendev.End{Virt: xendev.Address(sh.region, e.Page*shm.PageSize+e.Offset)}, nil
}

func (e *CopyEnd) release() {
	if sh, ok := e.Local.(*linuxShare); ok {
		sh.unuse()
	}
}
