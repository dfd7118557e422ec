//go:build !(linux || darwin || windows || solaris || netbsd || js)

package hypercall

import "syscall"

// The system has no such errors: no error of its matches.
const (
	hostENODATA syscall.Errno = 0
	hostETIME   syscall.Errno = 0
)
