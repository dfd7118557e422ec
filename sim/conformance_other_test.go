//go:build !linux

package sim_test

import "github.com/hvkit/hvkit/xen/hypercall"

func platforms() []platform {
	return []platform{heapPair(hypercall.X86_64), heapPair(hypercall.X86_32), heapPair(hypercall.ARM64)}
}
