//go:build !linux

package sim_test

import "github.com/hvkit/hvkit/xen/hypercall"

func barePlatforms() []barePlatform {
	return []barePlatform{heapBare(hypercall.X86_64), heapBare(hypercall.X86_32), heapBare(hypercall.ARM64)}
}
