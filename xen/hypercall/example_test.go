package hypercall_test

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/hypercall/hypercalltest"
)

// newXen stands for a platform: it lets domain 3 bind to port 1, and does not know the others.
func newXen() hypercall.Caller {
	const abi = hypercall.X86_64
	return &hypercalltest.Func{Layout: abi, Answer: func(c *hypercall.Call) (uint64, error) {
		switch c.Name() {
		case "EVTCHNOP_alloc_unbound":
			var op hypercall.EvtchnAllocUnbound
			if err := c.Decode(abi, 0, &op); err != nil {
				return 0, err
			}
			if op.RemoteDom != 3 {
				return 0, hypercall.ESRCH
			}
			op.Port = 1
			return 0, c.Encode(abi, 0, &op)
		case "EVTCHNOP_send", "XENVER_version":
			return 4<<16 | 17, nil
		case "GNTTABOP_map_grant_ref":
			var op hypercall.MapGrantRef
			for i := range int(c.Args[2]) {
				if err := c.Decode(abi, i, &op); err != nil {
					return 0, err
				}
				op.Status, op.Handle = hypercall.StatusOkay, hypercall.GrantHandle(i)
				if op.Ref != 8 {
					op.Status = hypercall.StatusBadGntRef
				}
				if err := c.Encode(abi, i, &op); err != nil {
					return 0, err
				}
			}
			return 0, nil
		}
		return 0, hypercall.ENOSYS
	}}
}

func Example() {
	xen := newXen() // in earnest: what xen.Open found

	port, err := hypercall.AllocUnbound(xen, hypercall.DomSelf, 3)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("port", port, "is for domain 3")
	fmt.Println("sent:", hypercall.SendEvent(xen, port))

	_, err = hypercall.AllocUnbound(xen, hypercall.DomSelf, 9)
	fmt.Println(err)
	fmt.Println(errors.Is(err, hypercall.ESRCH))
	// Output:
	// port 1 is for domain 3
	// sent: <nil>
	// xen: EVTCHNOP_alloc_unbound (domain 32752 for domain 9): ESRCH (no such domain)
	// true
}

func ExampleMapGrants() {
	xen := newXen()
	ops := []hypercall.MapGrantRef{
		{Dom: 3, Ref: 8, HostAddr: 0x100000, Flags: hypercall.GrantMapHost},
		{Dom: 3, Ref: 9, HostAddr: 0x101000, Flags: hypercall.GrantMapHost},
	}
	if err := hypercall.MapGrants(xen, ops); err != nil {
		fmt.Println("nothing was mapped:", err)
		return
	}
	for _, op := range ops {
		if err := op.Status.Err(); err != nil {
			fmt.Printf("reference %d: %v\n", op.Ref, err)
			continue
		}
		fmt.Printf("reference %d: mapped at %#x, handle %d\n", op.Ref, op.HostAddr, op.Handle)
	}
	// Output:
	// reference 8: mapped at 0x100000, handle 0
	// reference 9: GNTST_bad_gntref (bad grant reference)
}

func ExampleMulticall() {
	xen := &hypercalltest.Func{Layout: hypercall.ARM64, Answer: func(c *hypercall.Call) (uint64, error) {
		for i := range int(c.Args[1]) {
			call, err := c.MulticallCall(hypercall.ARM64, i)
			if err != nil {
				return 0, err
			}
			fmt.Println("Xen is asked", call.Name())
			if err := c.SetMulticallResult(hypercall.ARM64, i, 0, 0); err != nil {
				return 0, err
			}
		}
		return 0, nil
	}}
	send := func(p hypercall.Port) *hypercall.Call {
		return hypercall.NewStructCall(xen.ABI(), hypercall.NrEventChannelOp, hypercall.EvtchnopSend, &hypercall.EvtchnSend{Port: p})
	}
	results, err := hypercall.Multicall(xen, []*hypercall.Call{send(1), send(2)})
	fmt.Println(results, err)
	// Output:
	// Xen is asked EVTCHNOP_send
	// Xen is asked EVTCHNOP_send
	// [{0 <nil>} {0 <nil>}] <nil>
}

func ExampleErrno() {
	err := error(&hypercall.OpError{Op: "GNTTABOP_get_version", On: "domain 3", Err: hypercall.EPERM})
	fmt.Println(err)
	fmt.Println(errors.Is(err, fs.ErrPermission))
	// Output:
	// xen: GNTTABOP_get_version (domain 3): EPERM (operation not permitted)
	// true
}

func ExampleABI_SharedInfo() {
	for _, abi := range []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64} {
		s := abi.SharedInfo()
		fmt.Printf("%v: %d ports, pending bits at %d, mask bits at %d\n", abi, s.Ports(), s.EvtchnPending, s.EvtchnMask)
	}
	// Output:
	// x86_64: 4096 ports, pending bits at 2048, mask bits at 2560
	// x86_32: 1024 ports, pending bits at 2048, mask bits at 2176
	// arm64: 4096 ports, pending bits at 48, mask bits at 560
}
