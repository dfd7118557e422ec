package hypercall_test

import (
	"fmt"
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// silent is a Caller that does nothing: what is measured is the typed function.
type silent struct{}

func (silent) ABI() hypercall.ABI                        { return hypercall.X86_64 }
func (silent) Hypercall(*hypercall.Call) (uint64, error) { return 0, nil }

func BenchmarkSendEvent(b *testing.B) {
	var c hypercall.Caller = silent{}
	b.ReportAllocs()
	for b.Loop() {
		if err := hypercall.SendEvent(c, 5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMapGrants(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			var c hypercall.Caller = silent{}
			ops := make([]hypercall.MapGrantRef, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := hypercall.MapGrants(c, ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCopyGrants(b *testing.B) {
	for _, n := range []int{1, 32} {
		b.Run(fmt.Sprintf("%d", n), func(b *testing.B) {
			var c hypercall.Caller = silent{}
			ops := make([]hypercall.GrantCopy, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := hypercall.CopyGrants(c, ops); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnmarshalMapGrantRef(b *testing.B) {
	for _, abi := range abis {
		b.Run(abi.String(), func(b *testing.B) {
			buf := make([]byte, new(hypercall.MapGrantRef).Size(abi))
			b.ReportAllocs()
			for b.Loop() {
				var op hypercall.MapGrantRef
				op.Unmarshal(abi, buf)
			}
		})
	}
}
