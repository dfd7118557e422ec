package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel kill the process when this one dies. Workers also end when their standard input does; this is for one
// that hangs. (The signal is bound to the thread that starts the process; the runtime ends no thread that is not locked.)
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
