//go:build !linux

package doctor

import "errors"

func fileLimit() (soft, hard uint64, err error) { return 0, 0, errors.ErrUnsupported }

func tryMemory() error { return errors.ErrUnsupported }
