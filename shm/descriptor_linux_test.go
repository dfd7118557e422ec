package shm_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/shm"
)

// unixPair returns two connected stream sockets.
func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

func TestDescriptorSocketOfMappedMemory(t *testing.T) {
	a, b := unixPair(t)
	src, dst := mapFile(t, "source", 300), mapFile(t, "target", 300)
	defer src.Close()
	defer dst.Close()
	data := pattern(300 * page)
	src.CopyIn(0, data)
	written := make(chan error, 1)
	go func() {
		_, err := src.CopyOutTo(a, 0, len(data))
		a.CloseWrite()
		written <- err
	}()
	done := 0
	for done < len(data) {
		n, err := dst.CopyInFrom(done, b, len(data)-done)
		require.NoError(t, err)
		done += n
	}
	require.NoError(t, <-written)
	require.True(t, bytes.Equal(data, contents(dst)))
	_, err := dst.CopyInFrom(0, b, 1)
	require.Equal(t, io.EOF, err)
}

// A region that is closed while its transfer waits for the descriptor takes no part in it any more.
func TestCloseDuringTransfer(t *testing.T) {
	for name, r := range map[string]*shm.Region{"heap": shm.New(1), "mapped": mapFile(t, "waits", 1)} {
		a, b := unixPair(t)
		entered, result := make(chan struct{}), make(chan error, 1)
		r.Observe(observer(func(shm.Access) { close(entered) }))
		go func() {
			_, err := r.CopyInFrom(0, a, 10)
			result <- err
		}()
		<-entered
		r.Observe(nil)
		require.NoError(t, r.Close())
		_, err := b.Write([]byte("too late"))
		require.NoError(t, err)
		require.ErrorIs(t, <-result, os.ErrClosed, name)
		require.EqualValues(t, 1, r.LateAccesses(), name)
		got := make([]byte, 8)
		_, err = io.ReadFull(a, got)
		require.NoError(t, err)
		require.Equal(t, "too late", string(got), "the bytes are still in the socket")
	}
}
