package simtest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
)

// Serve lets other processes join the host until the test ends, and returns the socket's path. The host was made with HostConfig.Shared.
// cfg may be nil; then processes may join as new domains (ServeConfig.Open).
func Serve(t testing.TB, h *sim.Host, cfg *sim.ServeConfig) (socket string) {
	t.Helper()
	if cfg == nil {
		cfg = &sim.ServeConfig{Open: true}
	}
	dir, err := os.MkdirTemp("", "hvkit") // t.TempDir may be longer than a socket's path can be
	if err != nil {
		t.Fatalf("simtest: %v", err)
	}
	socket = filepath.Join(dir, "host")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatalf("simtest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("simtest: %v", err)
		}
		os.RemoveAll(dir)
	})
	return socket
}

// Join joins the host that Serve serves, as a new domain. All that goes between it and the host goes through the socket, as if it were in
// a process of its own. It is closed when the test ends.
func Join(t testing.TB, socket, name string) *xen.Domain {
	t.Helper()
	d, err := xen.Join(context.Background(), socket, "", name, nil)
	if err != nil {
		t.Fatalf("simtest: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("simtest: close domain %q: %v", name, err)
		}
	})
	return d
}
