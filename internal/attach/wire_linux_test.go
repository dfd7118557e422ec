package attach

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// socketPair returns the two ends of a connection.
func socketPair(t *testing.T) (a, b *Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var conns [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		conns[i] = NewConn(c.(*net.UnixConn))
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// A process that may open no more descriptors loses those of a message, and nothing else.
func TestNoRoomForDescriptors(t *testing.T) {
	a, b := socketPair(t)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	m := &Message{Kind: AddMemory, ID: 7, GFN: 0x1000, Pages: 1}
	require.NoError(t, a.Send(m, int(r.Fd())))
	require.NoError(t, a.Send(m, int(r.Fd())))

	restore := exhaustDescriptors(t)
	got, fds, err := b.Receive()
	restore()
	require.ErrorIs(t, err, ErrNoRoom)
	require.ErrorIs(t, err, hypercall.EMFILE)
	require.Empty(t, fds)
	require.Equal(t, m, got)

	got, fds, err = b.Receive()
	require.NoError(t, err)
	require.Equal(t, m, got)
	require.Len(t, fds, 1)
	fds.Close()
}

// exhaustDescriptors leaves this process no descriptor to open, until restore.
func exhaustDescriptors(t *testing.T) (restore func()) {
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	free, err := unix.Dup(0) // all below are taken
	require.NoError(t, err)
	require.NoError(t, unix.Close(free))
	less := limit
	less.Cur = uint64(free)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &less))
	return func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }
}
