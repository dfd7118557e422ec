//go:build unix

package terminal

import (
	"os"

	"golang.org/x/sys/unix"
)

// columns returns how wide the terminal behind f is. ok is false where f is no terminal.
func columns(f *os.File) (n int, ok bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}
