package shm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

func TestCloseUnderAccessOfMappedMemory(t *testing.T) {
	hammer(t, mapFile(t, "hammer", 3))

	// Through a join, which closes with it.
	r := mapFile(t, "hammer", 3)
	j := shm.Join(r.Slice(2, 1), r.Slice(0, 1), r.Slice(1, 1))
	hammerJoin(t, r, j)
}

func hammerJoin(t *testing.T, r, j *shm.Region) {
	done := make(chan struct{})
	started := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 3*page)
		for i := 0; j.LateAccesses() < 1000; i++ {
			j.CopyIn(0, buf)
			j.Or8(page, 1)
			if i == 0 {
				close(started)
			}
		}
	}()
	<-started
	require.NoError(t, r.Close())
	<-done
	require.True(t, j.Closed())
}
