package hypercall

import "fmt"

// MulticallEntry is one call of a multicall (struct multicall_entry).
type MulticallEntry struct {
	Op     uint64 // in: the number
	Result uint64 // out: xen_ulong_t
	Args   [6]uint64
}

func (m *MulticallEntry) layout(c *codec) {
	word(c, &m.Op)
	word(c, &m.Result)
	for i := range m.Args {
		word(c, &m.Args[i])
	}
}

// ArgOffset is where the i-th argument of the entry is, for [DataRef.Off].
func (m *MulticallEntry) ArgOffset(abi ABI, i int) int { return (2 + i) * abi.WordBytes() }

// CallResult is what became of one call of a multicall.
type CallResult struct {
	Value uint64
	Err   error // an Errno, or nil
}

// MaxMulticall is the most calls that [Multicall] takes.
const MaxMulticall = 1024

// Multicall makes several calls in one hypercall, in order; one that fails does not stop the others. The error is nil if the
// hypercall was made. What Xen wrote is in the calls' Data.
func Multicall(c Caller, calls []*Call) ([]CallResult, error) {
	on := func() string { return fmt.Sprintf("%d calls", len(calls)) }
	if len(calls) == 0 {
		return nil, nil
	}
	if len(calls) > MaxMulticall {
		return nil, &OpError{Op: "multicall", On: on(), Err: E2BIG}
	}
	abi := c.ABI()
	m := multicallOf(abi, calls)
	if _, err := c.Hypercall(m); err != nil {
		return nil, &OpError{Op: "multicall", On: on(), Err: err}
	}
	results := make([]CallResult, len(calls))
	for i := range results {
		var e MulticallEntry
		if err := m.Decode(abi, i, &e); err != nil {
			return nil, &OpError{Op: "multicall", On: on(), Err: err}
		}
		results[i].Value, results[i].Err = Result(signExtend(abi, e.Result))
	}
	return results, nil
}

// multicallOf returns the call multicall(entries, len(calls)).
func multicallOf(abi ABI, calls []*Call) *Call {
	var e MulticallEntry
	size := e.Size(abi)
	m := &Call{Nr: NrMulticall, Args: [5]uint64{1: uint64(len(calls))}, N: 2, Data: make([]byte, size*len(calls))}
	for i, call := range calls {
		// A result that Xen did not come to must not look like success.
		e = MulticallEntry{Op: uint64(call.Nr), Result: negative(ENOSYS)}
		copy(e.Args[:], call.Args[:])
		if call.Data != nil {
			off := i*size + e.ArgOffset(abi, call.Ptr)
			m.Refs = append(m.Refs, DataRef{Off: off, Data: call.Data, Refs: call.Refs})
		}
		e.Marshal(abi, m.Data[i*size:])
	}
	return m
}

// MulticallCall is the i-th call of a multicall, for those who answer one. Its Data is the multicall's, not a copy.
func (c *Call) MulticallCall(abi ABI, i int) (*Call, error) {
	var e MulticallEntry
	if err := c.Decode(abi, i, &e); err != nil {
		return nil, err
	}
	call := &Call{Nr: Number(e.Op), N: len(c.Args)}
	copy(call.Args[:], e.Args[:])
	for arg := range call.Args {
		if r := findRef(c.Refs, i*e.Size(abi)+e.ArgOffset(abi, arg)); r != nil {
			call.Ptr, call.Data, call.Refs = arg, r.Data, r.Refs
			break
		}
	}
	return call, nil
}

// SetMulticallResult writes what became of the i-th call of a multicall.
func (c *Call) SetMulticallResult(abi ABI, i int, value uint64, errno Errno) error {
	var e MulticallEntry
	if err := c.Decode(abi, i, &e); err != nil {
		return err
	}
	e.Result = value
	if errno != 0 {
		e.Result = negative(errno)
	}
	return c.Encode(abi, i, &e)
}

func signExtend(abi ABI, v uint64) uint64 {
	if abi.WordBytes() == 4 {
		return uint64(int64(int32(v)))
	}
	return v
}

// negative is what the result register holds for an error.
func negative(e Errno) uint64 { return uint64(-int64(e)) }
