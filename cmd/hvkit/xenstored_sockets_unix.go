//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketHandle is what the handle of a client's socket begins with; its descriptor follows.
const socketHandle = "socket:"

// holdSocket duplicates a socket so that it stays open in the program that takes this one's place.
func holdSocket(rw io.ReadWriteCloser) string {
	c, ok := rw.(syscall.Conn)
	if !ok {
		return ""
	}
	fd, err := inheritable(c)
	if err != nil {
		return ""
	}
	return socketHandle + strconv.Itoa(fd)
}

// inheritable duplicates a descriptor without the flag that closes it.
func inheritable(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var dup int
	var errno error
	if err := raw.Control(func(fd uintptr) { dup, errno = unix.FcntlInt(fd, unix.F_DUPFD, 3) }); err != nil {
		return 0, err
	}
	return dup, errno
}

// inheritSocket returns the client's socket that the program before this one has held.
func inheritSocket(text string) (net.Conn, error) {
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	f := inheritedFile(fd)
	defer f.Close()
	return net.FileConn(f)
}

// inheritListener is the same for a socket that listens.
func inheritListener(fd int) (*net.UnixListener, error) {
	f := inheritedFile(fd)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket of the program before: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is no Unix socket", fd), l.Close())
	}
	ul.SetUnlinkOnClose(true)
	return ul, nil
}

func inheritedFile(fd int) *os.File {
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "inherited")
}

// holdListener duplicates a socket that listens, and leaves its path where it is when this one is closed.
func holdListener(l *net.UnixListener) (int, error) {
	l.SetUnlinkOnClose(false)
	return inheritable(l)
}

// execSelf has this program begin again, with the state.
func execSelf(state string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start %s again: %w", exe, syscall.Exec(exe, restartArgs(os.Args, state), os.Environ()))
}

// restartArgs returns the command line with the state in the place of what the daemon began with, be it --restore or --restore-from.
func restartArgs(args []string, state string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(args[i], "=")
		switch {
		case name != "--restore" && name != "--restore-from":
			out = append(out, args[i])
		case !whole:
			i++ // its value is the next
		}
	}
	return append(out, "--restore="+state)
}
