package hypercall

// Domain ids that are no ordinary domain's (DOMID_* in public xen.h).
const (
	DomFirstReserved DomID = 0x7FF0 // ids from here on cannot be ordinary domains'
	DomSelf          DomID = 0x7FF0 // the caller
	DomIO            DomID = 0x7FF1 // owner of I/O memory
	DomXen           DomID = 0x7FF2 // owner of Xen's own pages
	DomCow           DomID = 0x7FF3 // owner of sharable pages
	DomInvalid       DomID = 0x7FF4 // nobody
	DomIdle          DomID = 0x7FFF // the idle domain
	DomMask          DomID = 0x7FFF // the bits that an id can have
)

// Hypercall numbers (__HYPERVISOR_* in public xen.h).
const (
	NrMemoryOp       Number = 12
	NrMulticall      Number = 13
	NrSetTimerOp     Number = 15
	NrXenVersion     Number = 17
	NrConsoleIO      Number = 18
	NrGrantTableOp   Number = 20
	NrVMAssist       Number = 21
	NrVCPUOp         Number = 24
	NrXsmOp          Number = 27
	NrSchedOp        Number = 29
	NrEventChannelOp Number = 32
	NrPhysdevOp      Number = 33
	NrHVMOp          Number = 34
	NrSysctl         Number = 35
	NrDomctl         Number = 36
	NrArgoOp         Number = 39
	NrDMOp           Number = 41
	NrHypfsOp        Number = 42
)
