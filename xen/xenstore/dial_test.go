package xenstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	_, err := Dial(t.Context(), path, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, path)

	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	t.Setenv("XENSTORED_PATH", path)
	for _, p := range []string{path, ""} {
		c, err := Dial(t.Context(), p, nil)
		require.NoError(t, err)
		conn, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		<-c.Done()
		require.Error(t, c.Err())
		require.NoError(t, c.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Dial(ctx, path, nil)
	require.Error(t, err)
}

func TestDialFirst(t *testing.T) {
	dir := t.TempDir()
	missing, path := filepath.Join(dir, "missing"), filepath.Join(dir, "socket")
	_, err := dialFirst(t.Context(), []string{missing, path})
	require.ErrorContains(t, err, missing)
	require.ErrorContains(t, err, path)
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	rw, err := dialFirst(t.Context(), []string{missing, path})
	require.NoError(t, err)
	require.NoError(t, rw.Close())
}

// A device that is not the store's is opened, and found out.
func TestDialDevice(t *testing.T) {
	if _, err := os.Stat(os.DevNull); err != nil || os.DevNull != "/dev/null" {
		return // no device files on this system
	}
	for _, cfg := range []*Config{nil, {MaxOutstanding: 7}} {
		c, err := Dial(t.Context(), os.DevNull, cfg)
		require.NoError(t, err)
		require.Equal(t, 1, cap(c.slots), "a kernel mixes up requests that are under way together")
		<-c.Done() // it reads as empty
		require.NoError(t, c.Close())
	}
}

// writes remembers each write.
type writes struct {
	got   []string
	limit int
}

var errFull = errors.New("full")

func (w *writes) Write(p []byte) (int, error) {
	if len(w.got) == w.limit {
		return 0, errFull
	}
	w.got = append(w.got, string(p))
	return len(p), nil
}
func (w *writes) Read([]byte) (int, error) { return 0, nil }
func (w *writes) Close() error             { return nil }

func TestDeviceGetsOneMessageAWrite(t *testing.T) {
	one := AppendMessage(nil, Header{Type: MsgRead}, []byte("/a\x00"))
	two := AppendMessage(nil, Header{Type: MsgResetWatches}, nil)
	all := bytes.Join([][]byte{one, two, one}, nil)
	w := &writes{limit: 10}
	n, err := (&device{w}).Write(all)
	require.NoError(t, err)
	require.Equal(t, len(all), n)
	require.Equal(t, []string{string(one), string(two), string(one)}, w.got)

	n, err = (&device{&writes{limit: 1}}).Write(all)
	require.ErrorIs(t, err, errFull)
	require.Equal(t, len(one), n)

	n, err = (&device{w}).Write(all[:len(all)-1])
	require.Error(t, err)
	require.Equal(t, len(one)+len(two), n)
}
