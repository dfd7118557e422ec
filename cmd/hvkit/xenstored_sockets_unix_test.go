//go:build unix

package main

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRestartArgs(t *testing.T) {
	want := []string{"hvkit", "xenstored", "--dom0", "--state=s", "--restore=new"}
	for _, args := range []string{
		"hvkit xenstored --dom0 --state=s", "hvkit xenstored --restore old --dom0 --state=s", "hvkit xenstored --dom0 --restore=old --state=s",
		"hvkit xenstored --dom0 --restore-from=/h@HEAD --state=s", "hvkit xenstored --restore-from /h@HEAD --dom0 --state=s",
	} {
		require.Equal(t, want, restartArgs(strings.Fields(args), "new"))
	}
}

// TestSocketsAreHeld: a socket that was held goes on under its descriptor when the one before is closed, with what was sent meanwhile; the
// path of one that listens stays.
func TestSocketsAreHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix("unix", path)
	require.NoError(t, err)
	client, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer client.Close()
	server, err := l.Accept()
	require.NoError(t, err)
	handle := holdSocket(server)
	fd, err := holdListener(l)
	require.NoError(t, err)
	require.NoError(t, server.Close())
	require.NoError(t, l.Close())
	_, err = client.Write([]byte("x"))
	require.NoError(t, err)
	late, err := net.Dial("unix", path)
	require.NoError(t, err)
	defer late.Close()

	again, err := inheritSocket(strings.TrimPrefix(handle, socketHandle))
	require.NoError(t, err)
	defer again.Close()
	var b [1]byte
	_, err = again.Read(b[:])
	require.NoError(t, err)
	next, err := inheritListener(fd)
	require.NoError(t, err)
	defer next.Close()
	conn, err := next.Accept()
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Empty(t, holdSocket(nil))
	_, err = inheritSocket(strconv.Itoa(1 << 30))
	require.Error(t, err)
}
