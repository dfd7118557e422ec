package grant_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/grant"
)

// G-09: a page is shared for the sake of a few bytes. The peer sees these, and zeros: never what lay in memory before.
func TestG09_TheRestOfAPageIsZero(t *testing.T) {
	a, b := newSides(t)
	secret := bytes.Repeat([]byte("secret"), shm.PageSize/6+1)[:shm.PageSize]
	for range 200 { // memory is used again
		s, err := a.Table.Share(b.ID, 2, grant.ReadWrite)
		require.NoError(t, err)
		s.Region().CopyIn(100, []byte("hello"))
		m, err := b.Table.Map(a.ID, s.Refs(), grant.ReadOnly)
		require.NoError(t, err)
		seen := make([]byte, 2*shm.PageSize)
		m.Region().CopyOut(seen, 0)
		require.Equal(t, "hello", string(seen[100:105]))
		clear(seen[100:105])
		require.Equal(t, make([]byte, len(seen)), seen, "the peer sees more than was meant for it")
		require.NoError(t, m.Close())
		s.Region().CopyIn(0, secret)
		s.Region().CopyIn(shm.PageSize, secret)
		_, err = s.End()
		require.NoError(t, err)
	}
}
