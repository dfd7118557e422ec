//go:build !linux

package terminal

import (
	"errors"
	"os"
)

// Size knows no terminals here.
func Size(*os.File) (rows, cols uint16, ok bool) { return 0, 0, false }

// Raw is for Linux.
func Raw(*os.File) (restore func() error, err error) { return nil, errors.ErrUnsupported }
