package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// listenUnix listens on a Unix socket. It makes the directory, for the user alone, and removes a socket that a dead process has left.
func listenUnix(network, path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	addr := &net.UnixAddr{Name: path, Net: network}
	l, err := net.ListenUnix(network, addr)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, plainListenError(path, err)
	}
	info, statErr := os.Lstat(path)
	if statErr == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there and no socket", path)
	}
	if served(network, path) {
		return nil, fmt.Errorf("%s is served by another process already", path)
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	l, err = net.ListenUnix(network, addr)
	return l, plainListenError(path, err)
}

func plainListenError(path string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.EINVAL) && len(path) > maxSocketPath {
		return fmt.Errorf("%s: the path of a Unix socket has at most %d bytes", path, maxSocketPath)
	}
	return fmt.Errorf("listen at %s: %w", path, lastCause(err))
}

// maxSocketPath is what fits sockaddr_un on Linux, with the NUL.
const maxSocketPath = 107

// served reports whether somebody accepts connections at the path.
func served(network, path string) bool {
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), network, path)
	if err != nil {
		return !absentSocket(err)
	}
	conn.Close()
	return true
}
