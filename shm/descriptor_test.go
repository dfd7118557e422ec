package shm_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
}

func TestDescriptorFile(t *testing.T) {
	for name, r := range layouts(t) {
		f, err := os.Create(filepath.Join(t.TempDir(), "file"))
		require.NoError(t, err)
		defer f.Close()
		data := pattern(2*page + 77)
		r.CopyIn(5, data)
		n, err := r.CopyOutTo(f, 5, len(data))
		require.NoError(t, err, name)
		require.Equal(t, len(data), n, name)
		got, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got), name)

		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		r.Zero(0, r.Size())
		for done := 0; done < len(data); {
			n, err := r.CopyInFrom(100+done, f, len(data)-done)
			require.NoError(t, err, name)
			require.Positive(t, n, name)
			done += n
		}
		all := contents(r)
		require.True(t, bytes.Equal(data, all[100:100+len(data)]), name)
		require.Equal(t, make([]byte, 100), all[:100], name)
		require.Equal(t, make([]byte, r.Size()-100-len(data)), all[100+len(data):], name)
		n, err = r.CopyInFrom(0, f, 1)
		require.Zero(t, n, name)
		require.Equal(t, io.EOF, err, name)
	}
}

// More bytes than the pipe takes at once, and more pages than one writev names, arrive whole and in order.
func TestDescriptorPipe(t *testing.T) {
	const pages = 1100
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	src, dst := scattered(pages), scattered(pages)
	data := pattern(pages*page - 3)
	src.CopyIn(3, data)
	written := make(chan error, 1)
	go func() {
		_, err := src.CopyOutTo(pw, 3, len(data))
		pw.Close()
		written <- err
	}()
	done := 0
	for {
		n, err := dst.CopyInFrom(1+done, pr, len(data)+1-done)
		done += n
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	require.NoError(t, <-written)
	require.Equal(t, len(data), done)
	require.True(t, bytes.Equal(data, contents(dst)[1:1+len(data)]))
}

func TestDescriptorRefuses(t *testing.T) {
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	defer pw.Close()
	r := shm.New(2)
	for _, span := range []struct{ off, n int }{
		{-1, 1}, {0, 2*page + 1}, {2 * page, 1}, {0, -1}, {math.MaxInt, 2}, {0, math.MinInt}, {1, math.MaxInt},
	} {
		n, err := r.CopyInFrom(span.off, pr, span.n)
		require.IsType(t, &shm.BoundsError{}, err, "%+v", span)
		require.Zero(t, n)
		n, err = r.CopyOutTo(pw, span.off, span.n)
		require.IsType(t, &shm.BoundsError{}, err, "%+v", span)
		require.Zero(t, n)
	}
	_, err = r.ReadOnly().CopyInFrom(0, pr, 1)
	require.IsType(t, &shm.ReadOnlyError{}, err)
	n, err := r.CopyInFrom(2*page, pr, 0)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = r.CopyOutTo(pw, 2*page, 0)
	require.NoError(t, err)
	require.Zero(t, n)

	broken := errors.New("no descriptor")
	_, err = r.CopyInFrom(0, noConn{broken}, 1)
	require.ErrorIs(t, err, broken)
	_, err = r.CopyOutTo(noConn{broken}, 0, 1)
	require.ErrorIs(t, err, broken)

	require.NoError(t, r.Close())
	_, err = r.CopyInFrom(0, pr, 1)
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = r.CopyOutTo(pw, 0, 1)
	require.ErrorIs(t, err, os.ErrClosed)
	require.EqualValues(t, 2, r.LateAccesses())
	require.NoError(t, pw.Close())
	_, err = io.ReadFull(pr, make([]byte, 1))
	require.Equal(t, io.EOF, err, "something was written all the same")
}

// noConn is a descriptor, and a reader and writer, that fails.
type noConn struct{ err error }

func (c noConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }
func (c noConn) Read([]byte) (int, error)              { return 0, c.err }
func (c noConn) Write([]byte) (int, error)             { return 0, c.err }

func TestDescriptorObserved(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer f.Close()
	r := shm.New(1)
	var kinds []shm.Kind
	r.Observe(observer(func(a shm.Access) {
		kinds = append(kinds, a.Kind)
		require.Equal(t, 8, a.Off)
		require.Equal(t, 100, a.Len)
	}))
	_, err = r.CopyOutTo(f, 8, 100)
	require.NoError(t, err)
	_, err = f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	_, err = r.CopyInFrom(8, f, 100)
	require.NoError(t, err)
	require.Contains(t, kinds, shm.CopyOut)
	require.Contains(t, kinds, shm.CopyIn)
}

func TestDescriptorDeadline(t *testing.T) {
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	defer pw.Close()
	require.NoError(t, pr.SetReadDeadline(time.Unix(1, 0)))
	_, err = shm.New(1).CopyInFrom(0, pr, 1)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, pw.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
	n, err := shm.New(64).CopyOutTo(pw, 0, 64*page)
	for err == nil { // until the pipe is full
		n, err = shm.New(64).CopyOutTo(pw, 0, 64*page)
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, 64*page)
}

func TestDescriptorBrokenPipe(t *testing.T) {
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pw.Close()
	require.NoError(t, pr.Close())
	_, err = shm.New(1).CopyOutTo(pw, 0, 10)
	require.ErrorIs(t, err, syscall.EPIPE)
	require.ErrorContains(t, err, "shm: write 10 bytes at offset 0")
}

// What other systems than Linux do.
func TestBounce(t *testing.T) {
	data := pattern(40 * page)
	src, dst := scattered(40), scattered(40)
	src.CopyIn(0, data)
	var buf bytes.Buffer
	for done := 0; done < len(data); {
		n, err := src.BounceTo(&buf, done, len(data)-done)
		require.NoError(t, err)
		require.Positive(t, n)
		done += n
	}
	end := iotest.DataErrReader(&buf) // says io.EOF together with the last bytes
	for done := 0; ; {
		n, err := dst.BounceFrom(done, end, len(data)-done)
		done += n
		if done == len(data) {
			require.NoError(t, err, "the end is for the next read, when it comes with data")
			break
		}
		require.NoError(t, err)
	}
	require.True(t, bytes.Equal(data, contents(dst)))
	n, err := dst.BounceFrom(0, end, 1)
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
}
