package hypercalltest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Exchange is a hypercall and its answer.
type Exchange struct {
	Call  hypercall.Call  // as it was made
	Reply hypercall.Call  // as it was afterwards: its Data, and what its Refs point at, hold what Xen wrote
	Value uint64          // the result
	Errno hypercall.Errno `json:",omitempty"` // Xen's error, or 0
	// Failure is the text of an error that is not Xen's: the call did not reach Xen.
	Failure string `json:",omitempty"`
}

// String describes the exchange in one line, such as "EVTCHNOP_send [05000000] = 0".
func (e Exchange) String() string {
	var b strings.Builder
	b.WriteString(e.Call.Name())
	for i := range min(max(e.Call.N, 0), len(e.Call.Args)) {
		if i == 0 && e.Call.Name() != e.Call.Nr.String() {
			continue // the command, which has been named
		}
		if e.Call.Data != nil && i == e.Call.Ptr {
			describeMemory(&b, e.Call.Data, e.Reply.Data, e.Call.Refs, e.Reply.Refs)
			continue
		}
		fmt.Fprintf(&b, " %#x", e.Call.Args[i])
	}
	switch {
	case e.Failure != "":
		fmt.Fprintf(&b, " failed: %s", e.Failure)
	case e.Errno != 0:
		fmt.Fprintf(&b, " = -%s", e.Errno.Name())
	default:
		fmt.Fprintf(&b, " = %#x", e.Value)
	}
	return b.String()
}

// describeMemory writes bytes as they were and, if they changed, as they became; then those that they point at.
func describeMemory(b *strings.Builder, before, after []byte, refs, refsAfter []hypercall.DataRef) {
	fmt.Fprintf(b, " [%x", before)
	if !bytes.Equal(before, after) {
		fmt.Fprintf(b, " -> %x", after)
	}
	for i := range refs {
		var data []byte
		var inner []hypercall.DataRef
		if i < len(refsAfter) {
			data, inner = refsAfter[i].Data, refsAfter[i].Refs
		}
		fmt.Fprintf(b, " @%d", refs[i].Off)
		describeMemory(b, refs[i].Data, data, refs[i].Refs, inner)
	}
	b.WriteString("]")
}

// cloneCall copies a call and everything that it points at.
func cloneCall(c *hypercall.Call) hypercall.Call {
	clone := *c
	clone.Data = bytes.Clone(c.Data)
	clone.Refs = cloneRefs(c.Refs)
	return clone
}

func cloneRefs(refs []hypercall.DataRef) []hypercall.DataRef {
	if refs == nil {
		return nil
	}
	clone := make([]hypercall.DataRef, len(refs))
	for i, r := range refs {
		clone[i] = hypercall.DataRef{Off: r.Off, Data: bytes.Clone(r.Data), Refs: cloneRefs(r.Refs)}
	}
	return clone
}

// sameCall says whether two calls ask the same. The argument that stands for an address does not count.
func sameCall(a, b *hypercall.Call) bool {
	if a.Nr != b.Nr || a.N != b.N || (a.Data == nil) != (b.Data == nil) || a.N < 0 || a.N > len(a.Args) {
		return false
	}
	if a.Data != nil && a.Ptr != b.Ptr {
		return false
	}
	for i := range a.N {
		if a.Args[i] != b.Args[i] && !(a.Data != nil && i == a.Ptr) {
			return false
		}
	}
	return bytes.Equal(a.Data, b.Data) && sameRefs(a.Refs, b.Refs)
}

func sameRefs(a, b []hypercall.DataRef) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Off != b[i].Off || !bytes.Equal(a[i].Data, b[i].Data) || !sameRefs(a[i].Refs, b[i].Refs) {
			return false
		}
	}
	return true
}
