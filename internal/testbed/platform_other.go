//go:build !linux

package testbed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
)

// The testbed hands sockets to QEMU, and has the kernel end QEMU with this process, in ways that Linux has.
var errPlatform = fmt.Errorf("testbed: hosts are booted on Linux only: %w", errors.ErrUnsupported)

func dieWithParent(*exec.Cmd) {}

func socketPair() (net.Conn, *os.File, error) { return nil, nil, errPlatform }

func tryLock(*os.File) (bool, error) { return false, errPlatform }
