//go:build linux || darwin || windows || solaris || netbsd || js

package hypercall

import "syscall"

// The errors of STREAMS, which some systems have not.
const (
	hostENODATA = syscall.ENODATA
	hostETIME   = syscall.ETIME
)
