package hypercall

// SharedInfo is the layout of the page that Xen shares with a domain (struct shared_info in public xen.h). Numbers are bytes from its
// start, unless they say otherwise.
type SharedInfo struct {
	Size          int // of the structure
	VCPUs         int // vCPUs that have their vcpu_info here; further ones need [RegisterVCPUInfo]
	VCPUSize      int // of a vcpu_info; vCPU i's is at i*VCPUSize
	EvtchnPending int // the pending bits: WordBytes*8 words of WordBytes each
	EvtchnMask    int // the mask bits, as many
	WordBytes     int // of a word of these, and of the selector
	WCVersion     int // wall clock: u32, odd during an update
	WCSec         int // wall clock: u32, seconds since 1970 at the start of system time
	WCNsec        int // wall clock: u32
	WCSecHi       int // wall clock: u32, the high half of WCSec

	// In a vcpu_info, from its start:

	UpcallPending int // u8: an event came
	UpcallMask    int // u8: do not interrupt; -1 where the ABI has none (ARM)
	PendingSel    int // a word: which words of EvtchnPending have bits for this vCPU
	Time          int // a [VCPUTimeInfo]
}

// Ports is how many ports 2-level event channels have: 4096, or 1024 on 32-bit x86. Port 0 is never used.
func (s SharedInfo) Ports() int { return s.WordBytes * 8 * s.WordBytes * 8 }

// SharedInfo returns the layout of shared_info.
func (abi ABI) SharedInfo() SharedInfo {
	switch abi {
	case X86_32:
		return SharedInfo{
			Size: 2344, VCPUs: 32, VCPUSize: 64, EvtchnPending: 2048, EvtchnMask: 2176, WordBytes: 4,
			WCVersion: 2304, WCSec: 2308, WCNsec: 2312, WCSecHi: 2340,
			UpcallPending: 0, UpcallMask: 1, PendingSel: 4, Time: 32,
		}
	case ARM64:
		return SharedInfo{
			Size: 1088, VCPUs: 1, VCPUSize: 48, EvtchnPending: 48, EvtchnMask: 560, WordBytes: 8,
			WCVersion: 1072, WCSec: 1076, WCNsec: 1080, WCSecHi: 1084,
			UpcallPending: 0, UpcallMask: -1, PendingSel: 8, Time: 16,
		}
	default:
		return SharedInfo{
			Size: 3136, VCPUs: 32, VCPUSize: 64, EvtchnPending: 2048, EvtchnMask: 2560, WordBytes: 8,
			WCVersion: 3072, WCSec: 3076, WCNsec: 3080, WCSecHi: 3084,
			UpcallPending: 0, UpcallMask: 1, PendingSel: 8, Time: 32,
		}
	}
}

// VCPUTimeInfo is a vCPU's clock (struct vcpu_time_info): system time is SystemTime plus the TSC's ticks since TSCTimestamp, shifted
// by TSCShift, times TSCToSystemMul, divided by 2^32. It is consistent if Version is even and the same before and after it was read.
type VCPUTimeInfo struct {
	Version        uint32
	TSCTimestamp   uint64
	SystemTime     uint64 // nanoseconds
	TSCToSystemMul uint32
	TSCShift       int8
	Flags          uint8 // TimeTSCStable, TimeGuestStopped
}

// Flags of [VCPUTimeInfo] (XEN_PVCLOCK_*).
const (
	TimeTSCStable    = 1 << 0
	TimeGuestStopped = 1 << 1
)

func (m *VCPUTimeInfo) layout(c *codec) {
	var pad0 uint32
	var pad1 [2]byte
	u32(c, &m.Version)
	u32(c, &pad0)
	u64(c, &m.TSCTimestamp)
	u64(c, &m.SystemTime)
	u32(c, &m.TSCToSystemMul)
	u8(c, &m.TSCShift)
	u8(c, &m.Flags)
	chars(c, pad1[:])
}
