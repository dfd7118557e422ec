//go:build !unix

package main

import (
	"errors"
	"io"
	"net"
)

const socketHandle = "socket:"

func holdSocket(io.ReadWriteCloser) string           { return "" }
func inheritSocket(string) (net.Conn, error)         { return nil, errors.ErrUnsupported }
func inheritListener(int) (*net.UnixListener, error) { return nil, errors.ErrUnsupported }
func holdListener(*net.UnixListener) (int, error)    { return 0, errors.ErrUnsupported }
func execSelf(string) error                          { return errors.ErrUnsupported }
