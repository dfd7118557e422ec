package shm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// sizeSeals are the seals that fix a memfd's size (fcntl F_ADD_SEALS of linux/fcntl.h).
const sizeSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

// NewFile makes a memfd of zeroed pages that can never shrink or grow, so that whoever maps it need not trust those it is shared with.
// The name shows in /proc and need not be unique. The file is closed on exec. No further seal can be added to it: a peer cannot stop
// others from writing it. It needs Linux: on other systems it returns [errors.ErrUnsupported].
func NewFile(name string, pages int) (*os.File, error) {
	if pages <= 0 || pages > maxPages {
		return nil, fmt.Errorf("shm: memfd %q of %d pages: it has 1 to %d", name, pages, maxPages)
	}
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("shm: memfd %q: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.Ftruncate(fd, int64(pages)*PageSize); err != nil {
		f.Close()
		return nil, fmt.Errorf("shm: memfd %q of %d pages: %w", name, pages, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, sizeSeals|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("shm: seal memfd %q: %w", name, err)
	}
	return f, nil
}

// VerifySealed checks that f, which somebody else may have made and may hold still, is a memfd of ordinary pages, of at least the given
// number of them, and sealed against shrinking and growing. An access to what Map makes of such a file cannot fault. The error is a
// [*SealError] where f is something else. It needs Linux: on other systems it returns [errors.ErrUnsupported].
func VerifySealed(f *os.File, pages int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("shm: verify %s: %w", f.Name(), err)
	}
	var reason string
	if cerr := conn.Control(func(fd uintptr) { reason, err = unsealed(int(fd), pages) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("shm: verify %s: %w", f.Name(), err)
	}
	if reason != "" {
		return &SealError{Name: f.Name(), Reason: reason}
	}
	return nil
}

// unsealed says what keeps a descriptor from being a sealed memfd, or "".
func unsealed(fd, pages int) (string, error) {
	if pages <= 0 || pages > maxPages {
		return fmt.Sprintf("%d pages were asked for, and it can have 1 to %d", pages, maxPages), nil
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == unix.EINVAL || err == unix.EBADF { // EBADF: opened with O_PATH
		return "it is no memfd", nil
	}
	if err != nil {
		return "", err
	}
	if seals&sizeSeals != sizeSeals {
		return fmt.Sprintf("it can shrink or grow: its seals are %#x, and %#x are needed", seals, sizeSeals), nil
	}
	// A memfd of huge pages has seals too, but touching it kills the process when the pool of huge pages is empty.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "", err
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return fmt.Sprintf("its pages are not ordinary ones (file system type %#x)", fs.Type), nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	if want := int64(pages) * PageSize; st.Size < want {
		return fmt.Sprintf("it has %d bytes, and %d are needed", st.Size, want), nil
	}
	return "", nil
}
