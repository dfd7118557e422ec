package xenstore_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// A server that has not accepted the last client yet is waited for.
func TestDialBusyServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	server, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(server)
	require.NoError(t, unix.Bind(server, &unix.SockaddrUnix{Name: path}))
	require.NoError(t, unix.Listen(server, 0))
	first, err := xenstore.DialConn(t.Context(), path)
	require.NoError(t, err)
	defer first.Close()

	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired")
	cancel(tired)
	_, err = xenstore.DialConn(ctx, path)
	require.Error(t, err)

	ended := make(chan error, 1)
	go func() {
		second, err := xenstore.DialConn(t.Context(), path)
		if err == nil {
			err = second.Close()
		}
		ended <- err
	}()
	for range 2 {
		fd, _, err := unix.Accept4(server, unix.SOCK_CLOEXEC)
		require.NoError(t, err)
		defer unix.Close(fd)
	}
	require.NoError(t, <-ended)
}
