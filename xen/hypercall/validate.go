package hypercall

import "fmt"

// Bounds on calls that come from somewhere else, such as another process: see [Call.Validate].
const (
	MaxCallBytes = 16 << 20 // bytes that a call points at, in all
	MaxCallRefs  = 4096     // addresses inside them, in all
	MaxRefDepth  = 4        // how deep they are nested: a multicall, its entries' arguments, and handles in those
)

// MalformedCallError says that a [Call] is not one: it contradicts itself or is too large.
type MalformedCallError struct{ Reason string }

func (e *MalformedCallError) Error() string { return "xen: malformed hypercall: " + e.Reason }

// Validate checks that a call which came from somewhere else is well-formed: argument numbers exist, addresses are inside the memory
// that they are said to be in and do not overlap, and sizes are within bounds. It says nothing of what the call asks for. The error
// is a [*MalformedCallError].
func (c *Call) Validate(abi ABI) error {
	if c.N < 0 || c.N > len(c.Args) {
		return &MalformedCallError{fmt.Sprintf("%d arguments", c.N)}
	}
	if c.Data == nil {
		if len(c.Refs) > 0 {
			return &MalformedCallError{"addresses inside no memory"}
		}
		return nil
	}
	if c.Ptr < 0 || c.Ptr >= c.N {
		return &MalformedCallError{fmt.Sprintf("argument %d of %d is an address", c.Ptr, c.N)}
	}
	v := validation{word: abi.WordBytes()}
	return v.memory(c.Data, c.Refs, 0)
}

// validation adds up what a call points at.
type validation struct{ word, bytes, refs int }

func (v *validation) memory(data []byte, refs []DataRef, depth int) error {
	v.bytes += len(data)
	v.refs += len(refs)
	switch {
	case v.bytes > MaxCallBytes:
		return &MalformedCallError{fmt.Sprintf("more than %d bytes", MaxCallBytes)}
	case v.refs > MaxCallRefs:
		return &MalformedCallError{fmt.Sprintf("more than %d addresses", MaxCallRefs)}
	case len(refs) > 0 && depth == MaxRefDepth:
		return &MalformedCallError{fmt.Sprintf("addresses nested deeper than %d", MaxRefDepth)}
	}
	free := 0 // where the next address may begin
	for i := range refs {
		r := &refs[i]
		if r.Off < free || r.Off > len(data)-v.word {
			return &MalformedCallError{fmt.Sprintf("an address at offset %d of %d bytes, after %d", r.Off, len(data), free)}
		}
		free = r.Off + v.word
		if err := v.memory(r.Data, r.Refs, depth+1); err != nil {
			return err
		}
	}
	return nil
}
