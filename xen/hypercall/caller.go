package hypercall

import "github.com/hvkit/hvkit/shm"

// Caller makes hypercalls, as one domain. Implementations are the simulator (in this process or another), [Privcmd], and the bare
// VMCALL, VMMCALL and HVC instructions. A Caller is safe for concurrent use.
//
// Programs use the typed functions of this package ([MapGrants], [SendEvent], ...), which build the [Call].
type Caller interface {
	// ABI is the layout in which structures pass.
	ABI() ABI
	// Hypercall makes the call. Where Xen answers with a negative number the error is an [Errno]; other errors say that the call
	// did not reach Xen. c and what it points at are the caller's again on return; c.Data and what its Refs point at hold what Xen
	// wrote.
	Hypercall(c *Call) (uint64, error)
}

// Incarnations is what a [Caller] also implements whose domain can become another incarnation (suspend and resume, migration, soft
// reset) while its program runs. The new incarnation has ports and handles with the numbers of the former's, and runs before whoever
// made those knows of it: a call that names one must not meet another.
type Incarnations interface {
	// Incarnation returns a Caller for the domain's present incarnation. Once the domain is another one, its calls answer [ErrStale]
	// and do nothing.
	Incarnation() Caller
}

// Incarnation returns a Caller for the present incarnation of the domain that c makes hypercalls as, or c itself where the domain has
// only one.
func Incarnation(c Caller) Caller {
	if i, ok := c.(Incarnations); ok {
		return i.Incarnation()
	}
	return c
}

// Call is one hypercall: a number, up to five arguments, and the memory that at most one of them points at. It is plain data, so
// that it can be sent to another process, recorded, and played back.
type Call struct {
	Nr   Number
	Args [5]uint64 // the arguments as numbers; Args[Ptr] is unused when Data is not nil
	N    int       // how many arguments the call has
	Ptr  int       // the argument that is the address of Data
	Data []byte    // nil where no argument is an address; Xen reads it and writes it
	Refs []DataRef // the addresses inside Data
}

// DataRef says that the word at Data[Off:] of a [Call] (or of a DataRef) is the address of memory of its own: a guest handle inside
// a structure, such as GNTTABOP_setup_table's frame_list.
type DataRef struct {
	Off  int
	Data []byte
	Refs []DataRef
}

// Memory is the guest-physical address space of a domain: what native code asks of the platform beside hypercalls. A Memory is safe
// for concurrent use.
type Memory interface {
	// Alloc takes n consecutive frames of zeroed memory, and the region that is the way to them. Closing the region does not free
	// the frames.
	Alloc(n int) (GFN, *shm.Region, error)
	// Free gives back frames that Alloc returned, whole allocations only. Nobody may have them mapped or granted any more.
	Free(first GFN, n int) error
	// Reserve takes n consecutive frame numbers behind which there is nothing, so that Xen can be asked to put something there: grant
	// table frames, shared_info, other domains' pages.
	Reserve(n int) (GFN, error)
	// Unreserve gives frame numbers that Reserve returned back, whole reservations only, once nothing is behind them.
	Unreserve(first GFN, n int) error
	// View is the way to whatever is behind n consecutive frame numbers now. Where that is nothing the error is [EINVAL], and where
	// it is something, but for lack of memory for the way to it, another. A view that is not writable panics on writes. The caller
	// closes the view before what is behind it is taken away.
	View(first GFN, n int, writable bool) (*shm.Region, error)
}

// UnmapNotifier is what a [Memory] also implements where the platform can tell a peer that this domain's frames have gone even when
// the domain dies without a word: the simulator. It is what gntalloc and gntdev offer as SET_UNMAP_NOTIFY.
type UnmapNotifier interface {
	// SetUnmapNotify has the platform, when the domain dies, clear the byte at offset off of the frame (own or mapped) if off is not
	// negative, and then send an event on port if that is not zero. A second call for the frame replaces the first; off -1 and port 0
	// take it back.
	SetUnmapNotify(frame GFN, off int, port Port) error
}
