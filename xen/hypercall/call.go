package hypercall

import (
	"fmt"
	"sync"
)

// Ref returns the memory that the word at Data[off:] is the address of, or nil if the call has none there.
func (c *Call) Ref(off int) []byte {
	if r := findRef(c.Refs, off); r != nil {
		return r.Data
	}
	return nil
}

// Ref returns the memory that the word at Data[off:] is the address of, or nil if there is none.
func (r *DataRef) Ref(off int) []byte {
	if n := findRef(r.Refs, off); n != nil {
		return n.Data
	}
	return nil
}

func findRef(refs []DataRef, off int) *DataRef {
	for i := range refs {
		if refs[i].Off == off {
			return &refs[i]
		}
	}
	return nil
}

// Decode reads the i-th structure of the array that the call's pointer argument is the address of (the 0-th where it is the address
// of one). It returns EFAULT, as Xen does for memory that is not there, if Data does not hold all of it.
func (c *Call) Decode(abi ABI, i int, s Struct) error {
	b := element(c.Data, s.Size(abi), i)
	if b == nil {
		return EFAULT
	}
	s.Unmarshal(abi, b)
	return nil
}

// Encode writes the i-th structure back, as Decode read it.
func (c *Call) Encode(abi ABI, i int, s Struct) error {
	b := element(c.Data, s.Size(abi), i)
	if b == nil {
		return EFAULT
	}
	s.Marshal(abi, b)
	return nil
}

// element returns the i-th element of an array of elements of the given size, or nil if it is not wholly inside data.
func element(data []byte, size, i int) []byte {
	if i < 0 || size <= 0 || i >= len(data)/size {
		return nil
	}
	return data[i*size : (i+1)*size]
}

// NewCall returns a call with numbers for arguments, at most five: it panics where there are more, as no hypercall has so many.
func NewCall(nr Number, args ...uint64) *Call {
	c := &Call{Nr: nr, N: len(args)}
	if len(args) > len(c.Args) {
		panic(fmt.Sprintf("hypercall: call %d with %d arguments, more than %d", nr, len(args), len(c.Args)))
	}
	copy(c.Args[:], args)
	return c
}

// NewStructCall returns a call of a command with a structure: the form that grant tables, event channels, memory, HVM, scheduler and
// version calls have. It is for calls that this package has no function for, and for [Multicall].
func NewStructCall(abi ABI, nr Number, cmd uint64, s Struct) *Call {
	c := &Call{Nr: nr, Args: [5]uint64{cmd}, N: 2, Ptr: 1, Data: make([]byte, s.Size(abi))}
	if nr == NrGrantTableOp {
		c.Args[2], c.N = 1, 3
	}
	s.Marshal(abi, c.Data)
	return c
}

// maxPooled is the largest buffer, in bytes, that is kept for the next call.
const maxPooled = 64 << 10

// scratch is a call and the memory that it points at, kept from call to call so that calls do not allocate.
type scratch struct {
	call Call
	buf  []byte
	list []byte
	refs [1]DataRef
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// newScratch returns the call nr(cmd, &data) with n bytes of data.
func newScratch(nr Number, cmd uint64, n int) *scratch {
	s := scratches.Get().(*scratch)
	s.buf = sized(s.buf, n)
	s.call = Call{Nr: nr, Args: [5]uint64{cmd}, N: 2, Ptr: 1, Data: s.buf}
	return s
}

// withList has the word at offset off of the data be the address of n bytes, which it returns.
func (s *scratch) withList(off, n int) []byte {
	s.list = sized(s.list, n)
	s.refs[0] = DataRef{Off: off, Data: s.list}
	s.call.Refs = s.refs[:]
	return s.list
}

func (s *scratch) free() {
	if cap(s.buf) > maxPooled || cap(s.list) > maxPooled {
		return
	}
	s.call = Call{}
	s.refs[0] = DataRef{}
	scratches.Put(s)
}

func sized(b []byte, n int) []byte {
	if n > cap(b) {
		return make([]byte, n)
	}
	return b[:n]
}

// do makes the call nr(cmd, &arg), and reads back into arg what Xen wrote.
func do(c Caller, nr Number, cmd uint64, arg Struct) (uint64, error) {
	abi := c.ABI()
	s := newScratch(nr, cmd, arg.Size(abi))
	defer s.free()
	arg.Marshal(abi, s.buf)
	if nr == NrGrantTableOp {
		s.call.Args[2], s.call.N = 1, 3
	}
	r, err := c.Hypercall(&s.call)
	arg.Unmarshal(abi, s.buf)
	return r, err
}
