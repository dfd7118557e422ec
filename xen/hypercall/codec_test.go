package hypercall_test

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// roundTrip reads a structure from bytes, writes it, and reads that again: it must be the same structure, and writing it the same
// bytes. It returns what is wrong, or "".
func roundTrip(abi hypercall.ABI, prototype hypercall.Struct, b []byte) string {
	first, second := fresh(prototype), fresh(prototype)
	first.Unmarshal(abi, b)
	written := marshal(abi, first)
	second.Unmarshal(abi, written)
	if diff := cmp.Diff(first, second); diff != "" {
		return fmt.Sprintf("%v: %x reads differently than what it is written as, %x:\n%s", abi, b, written, diff)
	}
	if again := marshal(abi, second); !bytes.Equal(written, again) {
		return fmt.Sprintf("%v: %x is written as %x, then as %x", abi, b, written, again)
	}
	return ""
}

func TestAnyBytesRoundTrip(t *testing.T) {
	for _, c := range layoutCases {
		t.Run(c.c, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				abi := rapid.SampledFrom(abis).Draw(t, "abi")
				size := c.value.Size(abi)
				b := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "bytes")
				if wrong := roundTrip(abi, c.value, b); wrong != "" {
					t.Fatal(wrong)
				}
			})
		})
	}
}

// TestAnyValueRoundTrips draws values of the fields; fields that are words lose what a 32-bit ABI has no room for, so that one is
// left to TestAnyBytesRoundTrip.
func TestAnyValueRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		abi := rapid.SampledFrom([]hypercall.ABI{hypercall.X86_64, hypercall.ARM64}).Draw(t, "abi")
		want := []hypercall.Struct{
			rapid.Ptr(rapid.Make[hypercall.MapGrantRef](), false).Draw(t, "map"),
			rapid.Ptr(rapid.Make[hypercall.UnmapGrantRef](), false).Draw(t, "unmap"),
			rapid.Ptr(rapid.Make[hypercall.GrantEntry](), false).Draw(t, "entry"),
			rapid.Ptr(rapid.Make[hypercall.MemoryReservation](), false).Draw(t, "reservation"),
			rapid.Ptr(rapid.Make[hypercall.MulticallEntry](), false).Draw(t, "multicall"),
			rapid.Ptr(rapid.Make[hypercall.VCPUTimeInfo](), false).Draw(t, "time"),
		}
		for _, w := range want {
			got := reflect.New(reflect.TypeOf(w).Elem()).Interface().(hypercall.Struct)
			got.Unmarshal(abi, marshal(abi, w))
			if diff := cmp.Diff(w, got); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// TestCodecsStayInside sees that codecs touch no byte after the structure's end.
func TestCodecsStayInside(t *testing.T) {
	for _, abi := range abis {
		for _, c := range layoutCases {
			size := c.value.Size(abi)
			b := bytes.Repeat([]byte{0x55}, size+8)
			c.value.Marshal(abi, b)
			require.Equal(t, bytes.Repeat([]byte{0x55}, 8), b[size:], c.c)
			exact := b[:size:size]
			fresh(c.value).Unmarshal(abi, exact)
			c.value.Marshal(abi, exact)
		}
	}
}

// FuzzUnmarshal reads arbitrary bytes as each structure.
func FuzzUnmarshal(f *testing.F) {
	for i := range layoutCases {
		f.Add(uint8(i), uint8(i), bytes.Repeat([]byte{byte(i)}, 64))
	}
	f.Fuzz(func(t *testing.T, which, abiNumber uint8, b []byte) {
		abi := abis[int(abiNumber)%len(abis)]
		s := layoutCases[int(which)%len(layoutCases)].value
		call := hypercall.Call{Data: b}
		for i := range 3 {
			size := s.Size(abi)
			err := call.Decode(abi, i, fresh(s))
			if len(b) < (i+1)*size {
				require.Equal(t, hypercall.EFAULT, err)
				return
			}
			require.NoError(t, err)
			require.Empty(t, roundTrip(abi, s, b[i*size:(i+1)*size]))
		}
	})
}

// FuzzAnswer plays Xen for a call of arbitrary shape: whatever it is, validating it and taking it apart ends without a panic.
func FuzzAnswer(f *testing.F) {
	f.Add(uint8(0), uint32(13), 2, 0, 0, 16, []byte{29, 0, 0, 0, 0, 0, 0, 0}, []byte{1, 2, 3, 4})
	f.Add(uint8(1), uint32(20), 3, 1, 12, 0, bytes.Repeat([]byte{1}, 16), []byte{})
	f.Add(uint8(2), uint32(12), -1, 7, -8, 1<<30, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, abiNumber uint8, nr uint32, n, ptr, off, off2 int, data, list []byte) {
		abi := abis[int(abiNumber)%len(abis)]
		c := &hypercall.Call{
			Nr: hypercall.Number(nr), Args: [5]uint64{uint64(ptr), uint64(n)}, N: n, Ptr: ptr, Data: data,
			Refs: []hypercall.DataRef{{Off: off, Data: list}, {Off: off2, Data: list, Refs: []hypercall.DataRef{{Off: off, Data: data}}}},
		}
		require.NotEmpty(t, c.Name())
		if c.Validate(abi) == nil {
			require.Less(t, c.Ptr, c.N)
			require.LessOrEqual(t, off+abi.WordBytes(), off2, "addresses do not overlap")
			require.LessOrEqual(t, off2+abi.WordBytes(), len(data))
		}
		for i := range 4 {
			call, err := c.MulticallCall(abi, i)
			if err != nil {
				require.Equal(t, hypercall.EFAULT, err)
				break
			}
			require.NotEmpty(t, call.Name())
			require.NoError(t, c.SetMulticallResult(abi, i, 0, hypercall.EINVAL))
		}
	})
}
