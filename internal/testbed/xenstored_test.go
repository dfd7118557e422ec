package testbed_test

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

// daemon is `hvkit xenstored --dom0`, in the place of the C daemon.
type daemon struct {
	t    *testing.T
	d    *testbed.Domain
	out  *marker
	over chan error
	stop context.CancelFunc
}

const storeProgram = "/usr/sbin/hvkit"

// putStore builds the command, without C, and copies it into the control domain.
func putStore(t *testing.T, d *testbed.Domain) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hvkit")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "github.com/hvkit/hvkit/cmd/hvkit")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+d.Arch())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, d.PutFile(t.Context(), storeProgram, file))
}

// startStore starts the daemon and waits until it serves.
func startStore(t *testing.T, d *testbed.Domain, args ...string) *daemon {
	t.Helper()
	serves := make(chan struct{})
	s := &daemon{t: t, d: d, out: &marker{text: "Xenstore is at", seen: func() { close(serves) }}, over: make(chan error, 1)}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	t.Cleanup(s.stop)
	go func() {
		s.over <- d.Client.Run(ctx, &guest.Cmd{
			Path: storeProgram, Args: append([]string{"xenstored", "--dom0", "-v", "--pid-file=/run/xenstored.pid"}, args...),
			Stdout: s.out, Stderr: s.out,
		})
	}()
	select {
	case <-serves:
	case err := <-s.over:
		t.Fatalf("the daemon has ended: %v\n%s", err, s.out)
	case <-time.After(time.Minute):
		t.Fatalf("the daemon does not serve\n%s", s.out)
	}
	return s
}

// in runs a program in a domain and returns what it wrote.
func in(t *testing.T, d *testbed.Domain, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	start := time.Now()
	err := d.Client.Run(ctx, &guest.Cmd{Path: path, Args: args, Stdout: &out, Stderr: &out})
	require.NoError(t, err, "%s %q: %s", path, args, out.String())
	t.Logf("%6.2f s  %s %q", time.Since(start).Seconds(), path, args)
	return out.String()
}

// TestXenstoredInDom0 has our daemon be the Xenstore of a real Xen host from its boot on.
func TestXenstoredInDom0(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64Bare)
	d := h.Dom0()
	putStore(t, d)
	s := startStore(t, d)
	defer func() { t.Logf("the daemon said:\n%s", s.out) }()
	in(t, d, "xen-init-dom0")
	in(t, d, "xenconsoled", "--pid-file=/run/xenconsoled.pid")
	t.Log(in(t, d, "xenstore-ls", "-f", "-p"))
	t.Log(in(t, d, "xl", "info"))
	t.Log(in(t, d, "xl", "list"))
}
