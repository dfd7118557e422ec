// Package hypercall is how a domain talks to Xen: the numbers, the argument structures of x86-64, x86-32 and arm64, a typed function for
// each call, and the interface behind which the platform makes it.
//
// # A call, from top to bottom
//
//	SendEvent(c, 5)                       a typed function: checks, builds, reads back
//	    │  Call{Nr: NrEventChannelOp, Args: {EvtchnopSend, ·}, Ptr: 1, Data: 05 00 00 00}
//	    ▼
//	Caller.Hypercall(*Call)               a platform: /dev/xen/privcmd, VMCALL/VMMCALL/HVC, the simulator, a test's record
//	    │
//	    ▼
//	(0, nil)  or  (0, Errno)              Data now holds what Xen wrote
//
// A hypercall has a [Number], and up to five numbers for arguments, of which one may be the address of a structure or an array of them.
// A [Call] holds the bytes themselves in place of the address, and likewise (as [DataRef]) in place of the addresses inside
// structures. So it is plain data: the simulator answers it in this process or another, package hypercalltest records it and
// plays it back, and a platform that makes the real call copies it to where Xen can read it.
//
// # Families
//
//	hypercall              commands    functions
//	grant_table_op         Gnttabop…   MapGrants, UnmapGrants, CopyGrants, SetupTable, QueryGrantSize, GetGrantVersion,
//	                                   SetGrantVersion, SwapGrants
//	event_channel_op       Evtchnop…   AllocUnbound, BindInterdomain, BindVIRQ, BindIPI, BindVCPU, ClosePort, SendEvent,
//	                                   UnmaskPort, PortStatus, ResetEvents
//	memory_op              Xenmem…     AddToPhysmap, AddToPhysmapBatch, RemoveFromPhysmap, PopulatePhysmap, DecreaseReservation,
//	                                   CurrentReservation, MaximumReservation, MaximumGPFN
//	hvm_op                 Hvmop…      GetParam, SetParam, SetUpcallVector
//	sched_op               Schedop…    Yield, Block, Shutdown, Suspend, Poll, SetWatchdog
//	vcpu_op                Vcpuop…     VCPUUp, VCPUDown, VCPUIsUp, VCPURunstate, RegisterVCPUInfo, SetPeriodicTimer,
//	                                   StopPeriodicTimer, SetSingleshotTimer, StopSingleshotTimer, SendNMI
//	xen_version            Xenver…     Version, ExtraVersion, Capabilities, Changeset, QueryCompileInfo, Features
//	console_io             Consoleio…  ConsoleWrite, ConsoleRead
//	set_timer_op                       SetTimer
//	multicall                          Multicall
//
// For anything else, build a call with [NewCall] or [NewStructCall].
//
// # Errors
//
// The functions return an [*OpError], which says what was asked; errors.Is finds the [Errno] in it, and the errors of packages
// syscall and fs of the same name. Grant operations come in batches, and each has a [GrantStatus] of its own: the error of [MapGrants]
// says that the call failed, the Status of each operation what became of it.
//
// # Structures
//
// Each argument structure implements [Struct]. It states its members once, as the C declaration does; sizes and offsets follow from
// the rules of the ABI, and the tests compare them, and every constant, with what C compilers made of Xen's public headers (of
// release 4.17; the program internal/layoutgen asks them). [ABI.SharedInfo] gives the layout of the page that Xen shares with a
// domain, which is read and written in place.
//
// # Answering
//
// Whoever plays Xen reads the structures with [Call.Decode] and writes them back with [Call.Encode], finds what handles point at with
// [Call.Ref], the calls of a multicall with [Call.MulticallCall], and checks a call that came from another process with
// [Call.Validate] first. The conformance suite for it is hypercalltest.TestCaller.
//
// # Concurrency and cost
//
// All functions are safe for concurrent use, as a [Caller] is. Those on data paths (SendEvent, UnmaskPort, MapGrants, UnmapGrants,
// CopyGrants, Poll) do not allocate in steady state. None waits for anything but Xen; that is what [Block], [Poll] and
// [Suspend] are for.
package hypercall

//go:generate go run ./internal/layoutgen
