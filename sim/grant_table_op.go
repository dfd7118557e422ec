package sim

import (
	"errors"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// grantTableOp is grant_table_op. What became of each operation is in its status; the call fails only where it makes no sense at all.
func (d *guest) grantTableOp(c *hypercall.Call) error {
	if c.Args[2] > maxGrantOps {
		return hypercall.EINVAL
	}
	switch c.Args[0] {
	case hypercall.GnttabopMapGrantRef:
		return each(c, d.abi, new(hypercall.MapGrantRef), d.mapGrant)
	case hypercall.GnttabopUnmapGrantRef:
		return each(c, d.abi, new(hypercall.UnmapGrantRef), d.unmapGrant)
	case hypercall.GnttabopCopy:
		return each(c, d.abi, new(hypercall.GrantCopy), d.copyGrant)
	case hypercall.GnttabopSwapGrantRef:
		return each(c, d.abi, new(hypercall.SwapGrantRefs), d.swapGrants)
	case hypercall.GnttabopSetupTable:
		return d.setupTable(c)
	case hypercall.GnttabopQuerySize:
		if c.Args[2] != 1 {
			return hypercall.EINVAL
		}
		return each(c, d.abi, new(hypercall.QueryGrantTableSize), d.queryGrantSize)
	case hypercall.GnttabopGetVersion:
		return answer(c, d.abi, new(hypercall.QueryGrantVersion), func(op *hypercall.QueryGrantVersion) error {
			_, err := d.target(op.Dom)
			op.Version = 1
			return err
		})
	case hypercall.GnttabopSetVersion:
		return d.setGrantVersion(c)
	}
	return hypercall.ENOSYS
}

// setGrantVersion takes version 1 only, as a Xen that was told gnttab=max-ver:1 does. The version that the table has is written back in
// any case.
func (d *guest) setGrantVersion(c *hypercall.Call) error {
	var op hypercall.GrantTableVersion
	if err := c.Decode(d.abi, 0, &op); err != nil {
		return err
	}
	var err error
	switch op.Version {
	case 1:
	case 2:
		err = hypercall.ENOSYS
	default:
		err = hypercall.EINVAL
	}
	op.Version = 1
	if fault := c.Encode(d.abi, 0, &op); fault != nil {
		return fault
	}
	return err
}

// grantTarget is target, with the answer as a status.
func (d *guest) grantTarget(id hypercall.DomID) (*guest, hypercall.GrantStatus) {
	t, err := d.target(id)
	switch {
	case err == nil:
		return t, hypercall.StatusOkay
	case errors.Is(err, hypercall.EPERM):
		return nil, hypercall.StatusPermissionDenied
	}
	return nil, hypercall.StatusBadDomain
}

func (d *guest) queryGrantSize(op *hypercall.QueryGrantTableSize) {
	var t *guest
	if t, op.Status = d.grantTarget(op.Dom); op.Status == hypercall.StatusOkay {
		op.NrFrames, op.MaxNrFrames = uint32(t.grants.frames), uint32(t.limits.GrantFrames)
	}
}

// setupTable grows the table. The frame list tells where its frames are in the domain's address space, ~0 for those that it has not put
// anywhere yet.
func (d *guest) setupTable(c *hypercall.Call) error {
	if c.Args[2] != 1 {
		return hypercall.EINVAL
	}
	return answer(c, d.abi, new(hypercall.SetupGrantTable), func(op *hypercall.SetupGrantTable) error {
		list := c.Ref(op.FrameListOffset(d.abi))
		if uint64(len(list)) < uint64(op.NrFrames)*uint64(d.abi.WordBytes()) {
			return hypercall.EFAULT
		}
		var t *guest
		if t, op.Status = d.grantTarget(op.Dom); op.Status != hypercall.StatusOkay {
			return nil
		}
		if op.NrFrames > uint32(t.limits.GrantFrames) {
			op.Status = hypercall.StatusGeneralError
			return nil
		}
		t.grants.grow(int(op.NrFrames))
		hypercall.PutWords(d.abi, list, t.tableFrames(int(op.NrFrames)))
		return nil
	})
}

// tableFrames says where the first n frames of the grant table are.
func (d *guest) tableFrames(n int) []hypercall.GFN {
	at := make([]hypercall.GFN, n)
	for i := range at {
		at[i] = ^hypercall.GFN(0)
		if gfn, ok := d.xens[xensFrame{grantTableFrame, i}]; ok {
			at[i] = gfn
		}
	}
	return at
}
