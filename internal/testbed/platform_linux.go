package testbed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has a command killed when the thread that starts it ends, and kept from the terminal's signals.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// socketPair returns a connection, and the other end of it for a child.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("testbed: %w", err)
	}
	a, b := os.NewFile(uintptr(fds[0]), "testbed"), os.NewFile(uintptr(fds[1]), "qemu")
	ours, err = net.FileConn(a)
	if err = errors.Join(err, a.Close()); err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return ours, b, nil
}

// tryLock locks a file, if nobody else has it locked.
func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
