//go:build unix

package nowait

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSocket(t *testing.T) {
	require.Nil(t, For(io.Discard))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	far, err := l.Accept()
	require.NoError(t, err)
	defer far.Close()

	s := For(near)
	var sent []byte
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for { // until there is no room: it must not wait
		n, err := s.TryWrite(chunk)
		require.NoError(t, err)
		sent = append(sent, chunk[:n]...)
		if n == 0 {
			break
		}
		require.Less(t, len(sent), 1<<28)
	}
	got := make([]byte, len(sent))
	_, err = io.ReadFull(far, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	n, err := s.TryWrite(chunk[:16])
	require.NoError(t, err)
	require.Equal(t, 16, n)

	require.NoError(t, near.Close())
	_, err = s.TryWrite(chunk)
	require.ErrorIs(t, err, net.ErrClosed)
}
