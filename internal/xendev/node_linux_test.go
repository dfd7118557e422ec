//go:build amd64 || arm64

package xendev

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pipeNode is the reading end of a pipe as a node, which Linux has everywhere, and its writing end.
func pipeNode(t *testing.T) (*node, *os.File) {
	var fds [2]int
	require.NoError(t, unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	n := &node{file: os.NewFile(uintptr(fds[0]), "pipe"), fd: fds[0]}
	w := os.NewFile(uintptr(fds[1]), "pipe")
	t.Cleanup(func() {
		n.Close()
		w.Close()
	})
	return n, w
}

func TestNodeReads(t *testing.T) {
	n, w := pipeNode(t)
	b := make([]byte, 8)
	k, err := n.TryRead(b)
	require.NoError(t, err)
	require.Zero(t, k, "nothing is there")
	_, err = w.Write([]byte("event"))
	require.NoError(t, err)
	k, err = n.Read(b)
	require.NoError(t, err)
	require.Equal(t, "event", string(b[:k]))

	// FIONREAD writes how much there is into what the argument points at.
	_, err = w.Write([]byte("123"))
	require.NoError(t, err)
	size := make([]byte, 4)
	_, err = n.Ioctl(Request(unix.TIOCINQ), size)
	require.NoError(t, err)
	require.EqualValues(t, 3, le.Uint32(size))
	k, err = n.TryRead(b)
	require.NoError(t, err)
	require.Equal(t, 3, k)
	_, err = n.Ioctl(Request(unix.TCGETS), make([]byte, 64))
	require.ErrorIs(t, err, unix.ENOTTY)
}

// The words of a structure that are pointers are addresses of their data, which the kernel reads; an empty one is 0.
func TestNodePointers(t *testing.T) {
	n, _ := pipeNode(t)
	arg := []byte{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	data := []byte("data")
	_, err := n.Ioctl(Request(unix.TIOCINQ), arg, Pointer{Off: 0, Data: data}, Pointer{Off: 8})
	require.NoError(t, err)
	require.Zero(t, le.Uint64(arg[8:]))
	// The request overwrote the lower half of the address.
	require.NotEqual(t, uint32(0x01010101), le.Uint32(arg[4:]))
}

func TestNodeClose(t *testing.T) {
	n, _ := pipeNode(t)
	read := make(chan error, 1)
	go func() {
		_, err := n.Read(make([]byte, 1))
		read <- err
	}()
	require.NoError(t, n.Close())
	require.ErrorIs(t, <-read, os.ErrClosed)
	require.NoError(t, n.Close())
	_, err := n.TryRead(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = n.Ioctl(EvtchnReset, nil)
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = n.Map(0, 1, true)
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestOpenOfAMissingDevice(t *testing.T) {
	_, err := Open("hvkit-no-such-device")
	require.ErrorIs(t, err, os.ErrNotExist)
	path, ok := errors.AsType[*os.PathError](err)
	require.True(t, ok)
	require.Equal(t, "/dev/xen/hvkit-no-such-device", path.Path)
}
