package hypercall

import "fmt"

// DomctlGetDomainInfo is the command of domctl(arg) that [GetDomainInfo] uses (XEN_DOMCTL_getdomaininfo in public domctl.h).
const DomctlGetDomainInfo = 5

// DomctlVersion is the version of the interface of Xen 4.17 (XEN_DOMCTL_INTERFACE_VERSION). Xen answers EACCES to any other than its own.
// What this package reads of the answer has been in the same place since version 9.
const DomctlVersion = 0x15

// DomainFlags says how a domain is (XEN_DOMINF_*). Where it has shut down, the reason is in bits 16 to 23.
type DomainFlags uint32

// Flags of a domain.
const (
	DomainDying    DomainFlags = 1 << 0 // it is being torn down, or is there only because others have its pages still
	DomainHVM      DomainFlags = 1 << 1
	DomainShutdown DomainFlags = 1 << 2 // it has shut down, crashed or is suspended
	DomainPaused   DomainFlags = 1 << 3
	DomainBlocked  DomainFlags = 1 << 4
	DomainRunning  DomainFlags = 1 << 5

	DomainReasonShift = 16
)

// Reason is why the domain has shut down, if DomainShutdown is set.
func (f DomainFlags) Reason() ShutdownReason { return ShutdownReason(f >> DomainReasonShift & 0xFF) }

// DomainInfo is the beginning of what Xen says of a domain to a control domain (struct xen_domctl, with its member getdomaininfo).
type DomainInfo struct {
	Cmd     uint32      // in: DomctlGetDomainInfo
	Version uint32      // in: DomctlVersion, or another one
	Dom     DomID       // in: the domain, or the least that is wanted; out: whose information it is
	Of      DomID       // out: the same
	Flags   DomainFlags // out
}

// domctlRest is how much follows in the structure, whose union has room for 128 bytes.
const domctlRest = 128 - 8

func (m *DomainInfo) layout(c *codec) {
	var pad uint16
	var rest [domctlRest]byte
	u32(c, &m.Cmd)
	u32(c, &m.Version)
	u16(c, &m.Dom)
	for range 3 {
		u16(c, &pad)
	}
	u16(c, &m.Of)
	u16(c, &pad)
	u32(c, &m.Flags)
	chars(c, rest[:])
}

// Size, Marshal and Unmarshal are as in [Struct].
func (m *DomainInfo) Size(abi ABI) int            { c := measure(abi); m.layout(&c); return c.end() }
func (m *DomainInfo) Marshal(abi ABI, b []byte)   { c := writer(abi, b); m.layout(&c); c.end() }
func (m *DomainInfo) Unmarshal(abi ABI, b []byte) { c := reader(abi, b); m.layout(&c); c.end() }

// GetDomainInfo asks Xen for a domain: a control domain's privilege. Where there is no domain of that number the error is [ESRCH], and
// where Xen speaks another version of the interface, [EACCES].
func GetDomainInfo(c Caller, version uint32, dom DomID) (DomainInfo, error) {
	info := DomainInfo{Cmd: DomctlGetDomainInfo, Version: version, Dom: dom}
	abi := c.ABI()
	call := &Call{Nr: NrDomctl, N: 1, Data: make([]byte, info.Size(abi))}
	info.Marshal(abi, call.Data)
	_, err := c.Hypercall(call)
	if err == nil {
		info.Unmarshal(abi, call.Data)
		if info.Dom != dom { // the next one that there is
			err = ESRCH
		}
	}
	if err != nil {
		return DomainInfo{}, &OpError{Op: "XEN_DOMCTL_getdomaininfo", On: fmt.Sprintf("domain %d", dom), Err: err}
	}
	return info, nil
}
