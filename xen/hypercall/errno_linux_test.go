//go:build amd64 || 386 || arm64

package hypercall_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// TestErrnosAreLinuxs uses that Xen took its numbers from Linux: each error must match the host's of the same number, and no other.
func TestErrnosAreLinuxs(t *testing.T) {
	n := 0
	for name, value := range constants {
		if !strings.HasPrefix(name, "XEN_E") {
			continue
		}
		n++
		for host := range syscall.Errno(hypercall.ECONNREFUSED + 1) {
			require.Equal(t, int64(host) == value, hypercall.Errno(value).Is(host), "%s and %d", name, host)
		}
	}
	require.Equal(t, 47, n)
}
