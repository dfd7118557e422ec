//go:build !linux || !(amd64 || arm64)

package xendev

import (
	"errors"
	"fmt"
)

// Open opens a device. It needs Linux on amd64 or arm64.
func Open(name string) (Node, error) {
	return nil, fmt.Errorf("open %s%s: Xen's devices are Linux's, on amd64 and arm64: %w", Dir, name, errors.ErrUnsupported)
}
