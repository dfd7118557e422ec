package attach

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A peer fills the counter after the look that found room in it: who rings waits, and Close lets him out.
func TestCloseLetsARingerOut(t *testing.T) {
	e, err := NewEvent()
	require.NoError(t, err)
	_, err = unix.FcntlInt(uintptr(e.FD()), unix.F_SETFL, 0)
	require.NoError(t, err)
	var full [8]byte
	binary.LittleEndian.PutUint64(full[:], 1<<64-2)
	_, err = unix.Write(e.FD(), full[:])
	require.NoError(t, err)
	e.Ring() // which looks first

	require.True(t, e.Hold())
	out := make(chan struct{})
	go func() {
		ring(e.fd)
		e.Release()
		close(out)
	}()
	select {
	case <-out:
		require.Fail(t, "the write did not block")
	case <-time.After(50 * time.Millisecond):
	}
	e.Close()
	select {
	case <-out:
	case <-time.After(10 * time.Second):
		require.Fail(t, "Close did not let the ringer out")
	}
	require.Equal(t, -1, e.FD())
	require.False(t, e.Hold())
	e.Ring()
	e.Close()
}
