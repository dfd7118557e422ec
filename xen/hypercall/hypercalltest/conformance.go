package hypercalltest

import (
	"errors"
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// noDomain is a domain id that no host gives out.
const noDomain hypercall.DomID = hypercall.DomFirstReserved - 1

// nowhere is an address in the last page, where no guest has memory: no calls' Data stands for it.
const nowhere = ^uint64(hypercall.PageSize - 1)

// TestCaller sees that what is behind c answers as Xen 4.17 does, in what every domain may ask: of itself, and in vain of a domain that
// does not exist. It runs on the simulator and on real Xen alike, and leaves nothing behind. The facts are from Xen's
// common/event_channel.c, common/grant_table.c, common/kernel.c, common/sched/core.c and arch/x86/hvm/hvm.c.
func TestCaller(t *testing.T, c hypercall.Caller) {
	t.Run("version", func(t *testing.T) { testVersion(t, c) })
	t.Run("unknown", func(t *testing.T) { testUnknown(t, c) })
	t.Run("missing memory", func(t *testing.T) { testMissingMemory(t, c) })
	t.Run("channel to itself", func(t *testing.T) { testLoopback(t, c) })
	t.Run("ports that are not there", func(t *testing.T) { testNoPort(t, c) })
	t.Run("bindings that cannot be", func(t *testing.T) { testBadBindings(t, c) })
	t.Run("grant table", func(t *testing.T) { testGrantTable(t, c) })
	t.Run("grants that are not there", func(t *testing.T) { testNoGrant(t, c) })
	t.Run("parameters", func(t *testing.T) { testParameters(t, c) })
	t.Run("multicall", func(t *testing.T) { testMulticall(t, c) })
}

// want fails the test unless err is, or holds, the target; nil wants success.
func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

// need ends the test unless err is nil.
func need(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testVersion(t *testing.T, c hypercall.Caller) {
	major, minor, err := hypercall.Version(c)
	need(t, err)
	if major < 4 {
		t.Errorf("version %d.%d", major, minor)
	}
	extra, err := hypercall.ExtraVersion(c)
	need(t, err)
	if len(extra) > hypercall.ExtraVersionSize {
		t.Errorf("extra version %q", extra)
	}
	_, err = hypercall.Features(c, 0)
	need(t, err)
	need(t, hypercall.Yield(c))
}

// testUnknown calls what Xen has not.
func testUnknown(t *testing.T, c hypercall.Caller) {
	_, err := c.Hypercall(hypercall.NewCall(60))
	want(t, "hypercall 60", err, hypercall.ENOSYS)
	for _, nr := range []hypercall.Number{hypercall.NrEventChannelOp, hypercall.NrSchedOp, hypercall.NrXenVersion} {
		_, err := c.Hypercall(hypercall.NewCall(nr, 99, 0))
		want(t, nr.String()+" 99", err, hypercall.ENOSYS)
	}
	_, err = c.Hypercall(hypercall.NewStructCall(c.ABI(), hypercall.NrGrantTableOp, 99, &hypercall.GrantTableVersion{}))
	want(t, "grant_table_op 99", err, hypercall.ENOSYS)
}

// testMissingMemory passes an address behind which there is nothing where a structure is needed.
func testMissingMemory(t *testing.T, c hypercall.Caller) {
	for _, cmd := range []uint64{hypercall.EvtchnopAllocUnbound, hypercall.EvtchnopSend, hypercall.EvtchnopStatus} {
		_, err := c.Hypercall(hypercall.NewCall(hypercall.NrEventChannelOp, cmd, nowhere))
		want(t, hypercall.CommandName(hypercall.NrEventChannelOp, cmd), err, hypercall.EFAULT)
	}
	_, err := c.Hypercall(hypercall.NewCall(hypercall.NrSchedOp, hypercall.SchedopPoll, nowhere))
	want(t, "SCHEDOP_poll", err, hypercall.EFAULT)
}

// wantStatus compares a port's state.
func wantStatus(t *testing.T, c hypercall.Caller, p hypercall.Port, state hypercall.ChannelState, remote hypercall.Port) {
	t.Helper()
	st, err := hypercall.PortStatus(c, hypercall.DomSelf, p)
	need(t, err)
	if st.State != state || st.RemotePort != remote {
		t.Errorf("port %d is %v with port %d, want %v with port %d", p, st.State, st.RemotePort, state, remote)
	}
}

// testLoopback connects the domain to itself.
func testLoopback(t *testing.T, c hypercall.Caller) {
	a, err := hypercall.AllocUnbound(c, hypercall.DomSelf, hypercall.DomSelf)
	need(t, err)
	wantStatus(t, c, a, hypercall.EvtchnUnbound, 0)
	want(t, "sending on an unbound port", hypercall.SendEvent(c, a), nil)
	b, err := hypercall.BindInterdomain(c, hypercall.DomSelf, a)
	need(t, err)
	if a == b || a == 0 || b == 0 {
		t.Errorf("ports %d and %d", a, b)
	}
	wantStatus(t, c, a, hypercall.EvtchnInterdomain, b)
	wantStatus(t, c, b, hypercall.EvtchnInterdomain, a)
	_, err = hypercall.BindInterdomain(c, hypercall.DomSelf, a)
	want(t, "binding to a bound port", err, hypercall.EINVAL)
	want(t, "sending", hypercall.SendEvent(c, a), nil)
	want(t, "sending back", hypercall.SendEvent(c, b), nil)
	want(t, "unmasking", hypercall.UnmaskPort(c, a), nil)
	want(t, "closing", hypercall.ClosePort(c, a), nil)
	wantStatus(t, c, b, hypercall.EvtchnUnbound, 0)
	want(t, "closing the other end", hypercall.ClosePort(c, b), nil)
	want(t, "closing again", hypercall.ClosePort(c, b), hypercall.EINVAL)
	want(t, "sending on a closed port", hypercall.SendEvent(c, b), hypercall.EINVAL)

	ipi, err := hypercall.BindIPI(c, 0)
	need(t, err)
	wantStatus(t, c, ipi, hypercall.EvtchnIPI, 0)
	want(t, "sending an IPI", hypercall.SendEvent(c, ipi), nil)
	want(t, "closing an IPI", hypercall.ClosePort(c, ipi), nil)
}

// testNoPort uses a number that is no port with either kind of event channels.
func testNoPort(t *testing.T, c hypercall.Caller) {
	const none hypercall.Port = 1 << 30
	want(t, "send", hypercall.SendEvent(c, none), hypercall.EINVAL)
	want(t, "close", hypercall.ClosePort(c, none), hypercall.EINVAL)
	want(t, "unmask", hypercall.UnmaskPort(c, none), hypercall.EINVAL)
	_, err := hypercall.PortStatus(c, hypercall.DomSelf, none)
	want(t, "status", err, hypercall.EINVAL)
	_, err = hypercall.BindInterdomain(c, hypercall.DomSelf, none)
	want(t, "bind", err, hypercall.EINVAL)
	want(t, "close port 0", hypercall.ClosePort(c, 0), hypercall.EINVAL)
}

func testBadBindings(t *testing.T, c hypercall.Caller) {
	_, err := hypercall.BindInterdomain(c, noDomain, 1)
	want(t, "to no domain", err, hypercall.ESRCH)
	_, err = hypercall.BindVIRQ(c, hypercall.NumVIRQs, 0)
	want(t, "of no VIRQ", err, hypercall.EINVAL)
	_, err = hypercall.BindIPI(c, 1<<20)
	want(t, "to no vCPU", err, hypercall.ENOENT)
	_, err = hypercall.PortStatus(c, noDomain, 1)
	want(t, "status of no domain's", err, hypercall.ESRCH)
}

func testGrantTable(t *testing.T, c hypercall.Caller) {
	frames, limit, err := hypercall.QueryGrantSize(c, hypercall.DomSelf)
	need(t, err)
	if frames > limit || limit == 0 {
		t.Errorf("%d of %d frames", frames, limit)
	}
	version, err := hypercall.GetGrantVersion(c, hypercall.DomSelf)
	need(t, err)
	if version != 1 && version != 2 {
		t.Errorf("version %d", version)
	}
	_, err = hypercall.SetGrantVersion(c, 3)
	want(t, "version 3", err, hypercall.EINVAL)
	_, _, err = hypercall.QueryGrantSize(c, noDomain)
	want(t, "size of no domain's", err, hypercall.StatusBadDomain)
	_, err = hypercall.SetupTable(c, noDomain, 1)
	want(t, "table of no domain's", err, hypercall.StatusBadDomain)
}

// testNoGrant does operations that fail one by one: the hypercall as a whole succeeds.
func testNoGrant(t *testing.T, c hypercall.Caller) {
	maps := []hypercall.MapGrantRef{
		{Dom: noDomain, Ref: 8, Flags: hypercall.GrantMapHost, HostAddr: hypercall.PageSize},
		{Dom: noDomain, Ref: 9, Flags: hypercall.GrantMapHost, HostAddr: hypercall.PageSize},
	}
	need(t, hypercall.MapGrants(c, maps))
	for i := range maps {
		want(t, "mapping", maps[i].Status.Err(), hypercall.StatusBadDomain)
	}
	unmaps := []hypercall.UnmapGrantRef{{Handle: hypercall.NoHandle, HostAddr: hypercall.PageSize}}
	need(t, hypercall.UnmapGrants(c, unmaps))
	want(t, "unmapping", unmaps[0].Status.Err(), hypercall.StatusBadHandle)
	end := hypercall.CopyPtr{Dom: noDomain, Ref: 8}
	copies := []hypercall.GrantCopy{{Src: end, Dst: end, Len: 16, Flags: hypercall.CopySourceGref | hypercall.CopyDestGref}}
	need(t, hypercall.CopyGrants(c, copies))
	want(t, "copying", copies[0].Status.Err(), hypercall.StatusBadDomain)
}

func testParameters(t *testing.T, c hypercall.Caller) {
	_, err := hypercall.GetParam(c, hypercall.DomSelf, hypercall.NumParams)
	want(t, "no parameter", err, hypercall.EINVAL)
	_, err = hypercall.GetParam(c, noDomain, hypercall.ParamStorePFN)
	want(t, "no domain's parameter", err, hypercall.ESRCH)
}

func testMulticall(t *testing.T, c hypercall.Caller) {
	p, err := hypercall.AllocUnbound(c, hypercall.DomSelf, hypercall.DomSelf)
	need(t, err)
	defer func() { want(t, "closing", hypercall.ClosePort(c, p), nil) }()
	abi := c.ABI()
	status := hypercall.EvtchnStatus{Dom: hypercall.DomSelf, Port: p}
	asked := hypercall.NewStructCall(abi, hypercall.NrEventChannelOp, hypercall.EvtchnopStatus, &status)
	results, err := hypercall.Multicall(c, []*hypercall.Call{
		hypercall.NewCall(hypercall.NrXenVersion, hypercall.XenverVersion, 0),
		hypercall.NewCall(hypercall.NrEventChannelOp, 99, 0),
		asked,
	})
	need(t, err)
	major, minor, err := hypercall.Version(c)
	need(t, err)
	if got := results[0]; got.Err != nil || got.Value != uint64(major)<<16|uint64(minor) {
		t.Errorf("version %v", got)
	}
	want(t, "unknown command", results[1].Err, hypercall.ENOSYS)
	want(t, "status", results[2].Err, nil)
	need(t, asked.Decode(abi, 0, &status))
	if status.State != hypercall.EvtchnUnbound {
		t.Errorf("port is %v", status.State)
	}
}
