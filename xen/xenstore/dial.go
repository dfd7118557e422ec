package xenstore

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
)

// Where servers and kernels offer the store.
const (
	DefaultSocket = "/var/run/xenstored/socket" // of a server in this domain: the control domain's callers
	DefaultDevice = "/dev/xen/xenbus"           // of a Linux kernel that is connected to the store
)

// Dial connects to a Unix socket of a server, or opens the device of a kernel ([DefaultDevice]). An empty path is the environment
// variable XENSTORED_PATH, which libxenstore reads too, or else [DefaultSocket].
func Dial(ctx context.Context, path string, cfg *Config) (*Client, error) {
	if path == "" {
		path = os.Getenv("XENSTORED_PATH")
	}
	if path == "" {
		path = DefaultSocket
	}
	rw, err := dial(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("xenstore: connect to the store: %w", err)
	}
	return NewClient(rw, cfg), nil
}

func dial(ctx context.Context, path string) (io.ReadWriteCloser, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeDevice != 0 {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return &device{f}, nil
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
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
