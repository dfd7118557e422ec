package shm_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hvkit/hvkit/shm"
)

func newFile(t *testing.T, name string, pages int) *os.File {
	t.Helper()
	f, err := shm.NewFile(name, pages)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// mapFile maps all pages of a new memfd, which is closed on return: the mapping does not need it.
func mapFile(t *testing.T, name string, pages int) *shm.Region {
	t.Helper()
	f, err := shm.NewFile(name, pages)
	require.NoError(t, err)
	defer f.Close()
	r, err := shm.Map(true, shm.Extent{FD: int(f.Fd()), Pages: pages})
	require.NoError(t, err)
	return r
}

func TestTwoMappingsShareMemory(t *testing.T) {
	f := newFile(t, "two", 4)
	fd := int(f.Fd())
	a, err := shm.Map(true, shm.Extent{FD: fd, Pages: 4})
	require.NoError(t, err)
	b, err := shm.Map(true, shm.Extent{FD: fd, First: 3, Pages: 1}, shm.Extent{FD: fd, Pages: 2}, shm.Extent{FD: fd, First: 3, Pages: 1})
	require.NoError(t, err)
	defer b.Close()

	a.Store32(3*page+8, 77)
	require.True(t, b.Load32(8).Is(77))
	require.True(t, b.Load32(3*page+8).Is(77), "one page twice in a mapping")
	b.CopyIn(page-2, []byte{1, 2, 3, 4}) // over the border of two extents
	require.True(t, a.Load16(4*page-2).Is(0x0201))
	require.True(t, a.Load16(0).Is(0x0403))

	require.NoError(t, a.Close())
	require.True(t, a.Load32(3*page+8).Is(0))
	a.Store32(3*page+8, 99)
	require.True(t, b.Load32(8).Is(77), "a write after Close reached the memory")
	require.EqualValues(t, 2, a.LateAccesses())
}

func TestReadOnlyMapping(t *testing.T) {
	f := newFile(t, "ro", 1)
	fd := int(f.Fd())
	rw, err := shm.Map(true, shm.Extent{FD: fd, Pages: 1})
	require.NoError(t, err)
	defer rw.Close()
	ro, err := shm.Map(false, shm.Extent{FD: fd, Pages: 1})
	require.NoError(t, err)
	defer ro.Close()
	require.False(t, ro.Writable())
	rw.Store8(5, 200)
	require.True(t, ro.Load8(5).Is(200))
	require.IsType(t, &shm.ReadOnlyError{}, panics(t, func() { ro.Store8(5, 1) }))
}

func TestMapRefuses(t *testing.T) {
	f := newFile(t, "refuses", 2)
	fd := int(f.Fd())
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, file.Truncate(page+page/2))
	before := mapLines(t, "memfd:refuses")
	for name, c := range map[string]struct {
		extents []shm.Extent
		err     error
	}{
		"no extent":        {nil, nil},
		"no page":          {[]shm.Extent{{FD: fd}}, nil},
		"negative pages":   {[]shm.Extent{{FD: fd, Pages: -1}}, nil},
		"negative first":   {[]shm.Extent{{FD: fd, First: -1, Pages: 1}}, nil},
		"far":              {[]shm.Extent{{FD: fd, First: math.MaxInt, Pages: 1}}, nil},
		"far, no overflow": {[]shm.Extent{{FD: fd, First: 1 << 24, Pages: 1}}, nil},
		"many":             {[]shm.Extent{{FD: fd, Pages: math.MaxInt}}, nil},
		"many in sum":      {[]shm.Extent{{FD: fd, Pages: 1}, {FD: fd, Pages: math.MaxInt}}, nil},
		"past the end":     {[]shm.Extent{{FD: fd, First: 1, Pages: 2}}, nil},
		"part of a page":   {[]shm.Extent{{FD: int(file.Fd()), Pages: 2}}, nil},
		"bad descriptor":   {[]shm.Extent{{FD: fd, Pages: 1}, {FD: -1, Pages: 1}}, unix.EBADF},
	} {
		_, err := shm.Map(true, c.extents...)
		require.Error(t, err, name)
		require.True(t, strings.HasPrefix(err.Error(), "shm: "), err)
		if c.err != nil {
			require.ErrorIs(t, err, c.err, name)
		}
	}
	require.Equal(t, before, mapLines(t, "memfd:refuses"), "a refused Map left a mapping")
}

// TestMapFarPage maps what is further into a descriptor than a region is large: gntalloc has every share further in than the one before.
func TestMapFarPage(t *testing.T) {
	const first = 1<<24 + 5
	fd, err := unix.MemfdCreate("far", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Ftruncate(fd, (first+1)*page))
	r, err := shm.Map(true, shm.Extent{FD: fd, First: first, Pages: 1})
	require.NoError(t, err)
	defer r.Close()
	r.Store8(9, 77)
	b := []byte{0}
	_, err = unix.Pread(fd, b, first*page+9)
	require.NoError(t, err)
	require.EqualValues(t, 77, b[0])
}

func TestMapOfUnmappable(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	f := newFile(t, "good", 1)
	_, err = shm.Map(false, shm.Extent{FD: int(f.Fd()), Pages: 1}, shm.Extent{FD: int(r.Fd()), Pages: 1})
	require.ErrorIs(t, err, unix.ENODEV)
	require.Zero(t, mapLines(t, "memfd:good"), "the extent before the bad one stayed mapped")
}

func TestNewFileIsSealed(t *testing.T) {
	f := newFile(t, "sealed", 3)
	require.NoError(t, shm.VerifySealed(f, 3))
	require.NoError(t, shm.VerifySealed(f, 1))
	fd := int(f.Fd())
	require.ErrorIs(t, unix.Ftruncate(fd, page), unix.EPERM)
	require.ErrorIs(t, unix.Ftruncate(fd, 4*page), unix.EPERM)
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
	require.ErrorIs(t, err, unix.EPERM)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.FD_CLOEXEC)
	for _, n := range []int{0, -1, math.MaxInt} {
		_, err := shm.NewFile("bad", n)
		require.Error(t, err)
	}
}

func TestVerifySealedRefuses(t *testing.T) {
	memfd := func(flags, seals int) *os.File {
		fd, err := unix.MemfdCreate("other", flags|unix.MFD_CLOEXEC)
		require.NoError(t, err)
		f := os.NewFile(uintptr(fd), "other")
		t.Cleanup(func() { f.Close() })
		require.NoError(t, unix.Ftruncate(fd, 2*page))
		if seals != 0 {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
			require.NoError(t, err)
		}
		return f
	}
	const both = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	regular, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer regular.Close()
	require.NoError(t, regular.Truncate(2*page))
	pr, pw, err := os.Pipe()
	require.NoError(t, err)
	defer pr.Close()
	defer pw.Close()

	require.NoError(t, shm.VerifySealed(memfd(unix.MFD_ALLOW_SEALING, both), 2))
	for name, c := range map[string]struct {
		file   *os.File
		pages  int
		reason string
	}{
		"can shrink":     {memfd(unix.MFD_ALLOW_SEALING, unix.F_SEAL_GROW), 2, "can shrink"},
		"can grow":       {memfd(unix.MFD_ALLOW_SEALING, unix.F_SEAL_SHRINK), 2, "can shrink or grow"},
		"not sealed":     {memfd(unix.MFD_ALLOW_SEALING, 0), 2, "can shrink or grow"},
		"not sealable":   {memfd(0, 0), 2, "can shrink or grow"},
		"too short":      {memfd(unix.MFD_ALLOW_SEALING, both), 3, "it has 8192 bytes, and 12288 are needed"},
		"regular file":   {regular, 1, ""},
		"pipe":           {pr, 1, "no memfd"},
		"no pages":       {memfd(unix.MFD_ALLOW_SEALING, both), 0, "0 pages"},
		"negative pages": {memfd(unix.MFD_ALLOW_SEALING, both), -1, "-1 pages"},
		"overflow":       {memfd(unix.MFD_ALLOW_SEALING, both), math.MaxInt, "pages"},
	} {
		var e *shm.SealError
		require.ErrorAs(t, shm.VerifySealed(c.file, c.pages), &e, name)
		require.Contains(t, e.Reason, c.reason, name)
	}
	closed := newFile(t, "closed", 1)
	closed.Close()
	require.ErrorContains(t, shm.VerifySealed(closed, 1), "closed")
}

func TestVerifySealedRefusesHugePages(t *testing.T) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB)
	if errors.Is(err, unix.ENOENT) {
		t.Skip("this kernel has no huge pages, as in a PV domain of Xen")
	}
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "huge")
	defer f.Close()
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	require.NoError(t, err)
	var e *shm.SealError
	require.ErrorAs(t, shm.VerifySealed(f, 1), &e)
	require.Contains(t, e.Reason, "not ordinary")
}

// mapLines counts the mappings of this process whose line in /proc/self/maps has the text.
func mapLines(t *testing.T, text string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return strings.Count(string(b), text)
}

// collect runs the garbage collector until done says so.
func collect(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			require.Fail(t, "the garbage collector did not give it back")
		}
		runtime.GC()
	}
}

func TestForgottenMappingIsGivenBack(t *testing.T) {
	const name = "memfd:forgotten"
	use := func() {
		r := mapFile(t, "forgotten", 2)
		r.Store8(1, 1)
		require.NotZero(t, mapLines(t, name))
	}
	use()
	collect(t, func() bool { return mapLines(t, name) == 0 })
}

func TestClosedMappingGivesItsAddressSpaceBack(t *testing.T) {
	const pages, regions = 1 << 14, 64 // 64 MiB each
	before := addressSpace(t)
	use := func() {
		for range regions {
			r := mapFile(t, "space", pages)
			require.NoError(t, r.Close())
			require.Zero(t, mapLines(t, "memfd:space"), "Close left the pages mapped")
		}
	}
	use()
	collect(t, func() bool { return addressSpace(t) < before+pages*page*regions/2 })
}

// addressSpace returns the size of this process's address space in bytes.
func addressSpace(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var size int
	_, err = fmt.Sscan(string(b), &size)
	require.NoError(t, err)
	return size * os.Getpagesize()
}

// A slice, a join and a copy under way each keep the mapping they use.
func TestDerivedRegionsKeepTheMapping(t *testing.T) {
	for name, derive := range map[string]func(*shm.Region) *shm.Region{
		"slice":     func(r *shm.Region) *shm.Region { return r.Slice(1, 1) },
		"read-only": func(r *shm.Region) *shm.Region { return r.Slice(1, 1).ReadOnly() },
		"join":      func(r *shm.Region) *shm.Region { return shm.Join(r.Slice(1, 1), shm.New(1)) },
		"join of joins": func(r *shm.Region) *shm.Region {
			return shm.Join(shm.Join(shm.New(1), r).Slice(2, 1))
		},
	} {
		r := func() *shm.Region {
			r := mapFile(t, "derived", 2)
			r.Store32(page+4, 5)
			return derive(r)
		}()
		for range 3 {
			runtime.GC()
		}
		require.True(t, r.Load32(4).Is(5), name)
		require.NotZero(t, mapLines(t, "memfd:derived"), name)
		runtime.KeepAlive(r)
	}
	collect(t, func() bool { return mapLines(t, "memfd:derived") == 0 })
}

// Regions are dropped while their last access is under way; an access to memory that was given back would fault.
func TestLastAccessKeepsTheMapping(t *testing.T) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	buf := make([]byte, 64*page)
	for range 200 {
		mapFile(t, "last", 64).CopyOut(buf, 0)
	}
	close(stop)
	wg.Wait()
	collect(t, func() bool { return mapLines(t, "memfd:last") == 0 })
}

func TestMapErrorIsUnsupportedWherePagesDiffer(t *testing.T) {
	if os.Getpagesize() == page {
		r := mapFile(t, "page", 1)
		require.NoError(t, r.Close())
		return
	}
	f := newFile(t, "page", 1)
	_, err := shm.Map(true, shm.Extent{FD: int(f.Fd()), Pages: 1})
	require.True(t, errors.Is(err, errors.ErrUnsupported))
}
