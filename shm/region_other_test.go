//go:build !linux

package shm_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

func addMapped(*testing.T, map[string]*shm.Region) {}

func TestMappingNeedsLinux(t *testing.T) {
	_, err := shm.Map(true, shm.Extent{FD: 0, Pages: 1})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = shm.NewFile("x", 1)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, shm.VerifySealed(nil, 1), errors.ErrUnsupported)
}
