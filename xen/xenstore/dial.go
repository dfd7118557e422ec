package xenstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Where servers and kernels offer the store.
const (
	DefaultSocket = "/var/run/xenstored/socket" // of a server in this domain: the control domain's callers
	DefaultDevice = "/dev/xen/xenbus"           // of a Linux kernel that is connected to the store
)

// Dial connects to a Unix socket of a server, or opens the device of a kernel ([DefaultDevice]). An empty path is the environment
// variable XENSTORED_PATH, which libxenstore reads too, or else the first that works of [DefaultSocket] and [DefaultDevice]. Through a
// device one request is under way at a time, whatever cfg says.
func Dial(ctx context.Context, path string, cfg *Config) (*Client, error) {
	if path == "" {
		path = os.Getenv("XENSTORED_PATH")
	}
	paths := []string{path}
	if path == "" {
		paths = []string{DefaultSocket, DefaultDevice}
	}
	rw, err := dialFirst(ctx, paths)
	if err != nil {
		return nil, fmt.Errorf("xenstore: connect to the store: %w", err)
	}
	if _, ok := rw.(*device); ok {
		cfg = forDevice(cfg)
	}
	return NewClient(rw, cfg), nil
}

// dialFirst connects to the first path that works.
func dialFirst(ctx context.Context, paths []string) (io.ReadWriteCloser, error) {
	var errs []error
	for _, path := range paths {
		rw, err := dial(ctx, path)
		if err == nil {
			return rw, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// forDevice returns a client's configuration for a kernel's device. Linux since 4.11 keeps a request in the file's buffer
// until its thread has written it to the ring, and does not keep the next request out of that buffer meanwhile: with two under way, one
// may be sent with the other's payload (xenbus_dev_request_and_reply in xenbus_xs.c). So there is one at a time.
func forDevice(cfg *Config) *Config {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	c.MaxOutstanding = 1
	return &c
}

func dial(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeDevice != 0 {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return &device{f}, nil
	}
	return dialSocket(ctx, path)
}

// longestWait is where the time between two tries at a busy server ends.
const longestWait = 50 * time.Millisecond

// dialSocket connects to a server's socket. C's servers let one client at a time wait to be accepted; another one is told EAGAIN, and there
// is nothing to wait for but time.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for wait := time.Millisecond; ; wait = min(2*wait, longestWait) {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil || !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// device is a kernel's device. It takes at most one message with each write and drops what follows (xenbus_file_write).
type device struct{ io.ReadWriteCloser }

// Write writes messages, which p has whole, one by one.
func (d *device) Write(p []byte) (int, error) {
	done := 0
	for rest := p; len(rest) >= HeaderSize; rest = p[done:] {
		size := HeaderSize + int(DecodeHeader(rest).Len)
		if size > len(rest) {
			return done, fmt.Errorf("xenstore: message of %d bytes cut off after %d", size, len(rest))
		}
		n, err := d.ReadWriteCloser.Write(rest[:size])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
