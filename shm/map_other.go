//go:build !linux

package shm

import (
	"errors"
	"fmt"
	"runtime"
)

// Map maps the pages of the extents. It needs Linux: on other systems it returns [errors.ErrUnsupported].
func Map(writable bool, extents ...Extent) (*Region, error) {
	return nil, fmt.Errorf("shm: map on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
