package hypercall

// ABI is the layout of structures and the calling convention between a domain and Xen.
type ABI uint8

// The ABIs that Xen has public headers for and that hvkit knows.
const (
	X86_64 ABI = iota // 64-bit x86: PV, PVH and HVM
	X86_32            // 32-bit x86
	ARM64             // arm64 (and arm32, whose structures are laid out alike)
)

// DomID is the number of a domain (domid_t).
type DomID uint16

// GFN is the number of a guest's page frame, its guest-physical address divided by 4096.
type GFN uint64

// GrantRef is the number of an entry in a domain's grant table (grant_ref_t).
type GrantRef uint32

// GrantHandle names a mapping of a grant (grant_handle_t).
type GrantHandle uint32

// Port is the number of an event channel in its domain (evtchn_port_t). 0 is never a valid port.
type Port uint32

// VIRQ is the number of a virtual interrupt.
type VIRQ uint32

// Number is the number of a hypercall.
type Number uint32
