//go:build !linux

package shm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// NewFile makes a sealed memfd. It needs Linux: on other systems it returns [errors.ErrUnsupported].
func NewFile(name string, pages int) (*os.File, error) {
	return nil, fmt.Errorf("shm: memfd on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// VerifySealed checks that a file is a sealed memfd. It needs Linux: on other systems it returns [errors.ErrUnsupported].
func VerifySealed(f *os.File, pages int) error {
	return fmt.Errorf("shm: memfd on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
