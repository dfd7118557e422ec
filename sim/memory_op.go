package sim

import "github.com/hvkit/hvkit/xen/hypercall"

// memoryOp is memory_op, for the caller's own memory; that of others no simulated domain may change.
func (d *guest) memoryOp(c *hypercall.Call) (uint64, error) {
	switch c.Args[0] {
	case hypercall.XenmemAddToPhysmap:
		return 0, answer(c, d.abi, new(hypercall.PhysmapAdd), func(op *hypercall.PhysmapAdd) error {
			if err := d.ownMemory(op.Dom); err != nil {
				return err
			}
			return d.addToPhysmap(op.Space, op.Idx, op.GFN)
		})
	case hypercall.XenmemRemoveFromPhysmap:
		return 0, answer(c, d.abi, new(hypercall.PhysmapRemove), func(op *hypercall.PhysmapRemove) error {
			if err := d.ownMemory(op.Dom); err != nil {
				return err
			}
			return d.removeFromPhysmap(op.GFN)
		})
	case hypercall.XenmemPopulatePhysmap:
		return d.reservation(c, d.populate)
	case hypercall.XenmemDecreaseReservation:
		return d.reservation(c, d.decrease)
	}
	return 0, hypercall.ENOSYS
}

// ownMemory checks that an operation is about the caller's own memory.
func (d *guest) ownMemory(id hypercall.DomID) error {
	if d.self(id) == d.id {
		return nil
	}
	if d.xen.domains[id] == nil {
		return hypercall.ESRCH
	}
	return hypercall.EPERM
}

// reservation runs f on each extent of a populate or decrease, and says how many it could do.
func (d *guest) reservation(c *hypercall.Call, f func(hypercall.GFN) bool) (uint64, error) {
	var op hypercall.MemoryReservation
	if err := c.Decode(d.abi, 0, &op); err != nil {
		return 0, err
	}
	if err := d.ownMemory(op.Dom); err != nil {
		return 0, err
	}
	if op.ExtentOrder != 0 || op.NrExtents > maxExtents {
		return 0, hypercall.EINVAL
	}
	list := c.Ref(op.ExtentStartOffset(d.abi))
	n := int(op.NrExtents)
	if len(list) < n*d.abi.WordBytes() {
		return 0, hypercall.EFAULT
	}
	gfns := make([]hypercall.GFN, n)
	hypercall.GetWords(d.abi, list, gfns)
	for i, gfn := range gfns {
		if !f(gfn) {
			return uint64(i), nil
		}
	}
	return uint64(n), nil
}
