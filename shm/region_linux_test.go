package shm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

func addMapped(t *testing.T, m map[string]*shm.Region) {
	f := newFile(t, "layouts", 5)
	fd := int(f.Fd())
	flat, err := shm.Map(true, shm.Extent{FD: fd, Pages: 3})
	require.NoError(t, err)
	mixed, err := shm.Map(true, shm.Extent{FD: fd, First: 4, Pages: 1}, shm.Extent{FD: fd, First: 2, Pages: 2})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, flat.Close())
		require.NoError(t, mixed.Close())
	})
	m["mapped"], m["mapped extents"] = flat, mixed
}
