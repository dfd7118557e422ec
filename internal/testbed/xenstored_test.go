package testbed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

// daemon is `hvkit xenstored --dom0`, in the place of the C daemon.
type daemon struct {
	life *testing.T
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

// startStore starts the daemon and waits until it serves. It is killed at the end of life, a test that t is in, if it runs then.
func startStore(t, life *testing.T, d *testbed.Domain, args ...string) *daemon {
	t.Helper()
	serves := make(chan struct{})
	s := &daemon{life: life, d: d, out: &marker{text: "Xenstore is at", seen: func() { close(serves) }}, over: make(chan error, 1)}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	life.Cleanup(s.stop)
	go func() {
		always := []string{"xenstored", "--dom0", "-v", "--pid-file=/run/xenstored.pid", "--history=" + historyDir}
		s.over <- d.Client.Run(ctx, &guest.Cmd{Path: storeProgram, Args: append(always, args...), Stdout: s.out, Stderr: s.out})
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

const (
	stateFile  = "/run/xenstored/state"
	historyDir = "/tmp/history.git"
)

// replace ends the daemon and starts another one with its state. Programs with a connection to the socket lose it.
func (s *daemon) replace(t *testing.T) *daemon {
	t.Helper()
	start := time.Now()
	in(t, s.d, "busybox", "sh", "-c", "kill $(cat /run/xenstored.pid)")
	select {
	case err := <-s.over:
		require.NoError(t, err, s.out)
	case <-time.After(time.Minute):
		t.Fatalf("the daemon does not end\n%s", s.out)
	}
	next := startStore(t, s.life, s.d, "--state="+stateFile, "--restore="+stateFile)
	t.Logf("%6.2f s  another daemon", time.Since(start).Seconds())
	in(t, s.d, "busybox", "sh", "-c", "kill $(cat /run/xenconsoled.pid)") // it does not come back by itself
	in(t, s.d, "xenconsoled", "--pid-file=/run/xenconsoled.pid")
	return next
}

// reload has the daemon begin again in place. A program that watches by the socket does not notice.
func (s *daemon) reload(t *testing.T) {
	t.Helper()
	pid := in(t, s.d, "busybox", "cat", "/run/xenstored.pid")
	seen := &marker{text: "/reloaded", seen: func() {}}
	watched := make(chan error, 1)
	go func() {
		watched <- s.d.Client.Run(t.Context(), &guest.Cmd{
			Path: "xenstore-watch", Args: []string{"-n", "2", "/reloaded"}, Stdout: seen, Stderr: seen,
		})
	}()
	require.Eventually(t, func() bool { return strings.Contains(seen.String(), "/reloaded") }, time.Minute, 10*time.Millisecond)
	before := in(t, s.d, "xenstore-ls", "-f")
	in(t, s.d, "busybox", "sh", "-c", "kill -HUP $(cat /run/xenstored.pid)")
	require.Eventually(t, func() bool { return strings.Count(s.out.String(), "Xenstore is at") == 2 }, time.Minute, 10*time.Millisecond, s.out)
	require.Equal(t, pid, in(t, s.d, "busybox", "cat", "/run/xenstored.pid"))
	require.Equal(t, before, in(t, s.d, "xenstore-ls", "-f"))
	in(t, s.d, "xenstore-write", "/reloaded", "yes")
	select {
	case err := <-watched:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("the watch of before does not fire")
	}
	in(t, s.d, "xenstore-rm", "/reloaded")
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
	s := startStore(t, t, d, "--state="+stateFile)
	defer func() { t.Logf("the daemon said:\n%s", s.out) }()
	in(t, d, "xen-init-dom0")
	in(t, d, "xenconsoled", "--pid-file=/run/xenconsoled.pid")
	require.Contains(t, in(t, d, "xenstore-ls", "-f"), `/local/domain/0/control/feature-poweroff = "1"`, "what the kernel writes on its ring")
	require.Contains(t, in(t, d, "xl", "info"), "xen_version            : 4.17")
	for _, kind := range []string{"pv", "pvh"} {
		if !t.Run(kind, func(t *testing.T) { s = lifeOfGuest(t, h, s, kind) }) {
			return
		}
	}
	t.Run("history", func(t *testing.T) { lookAtHistory(t, s) })
}

// lookAtHistory looks with git at what the toolstack did, and has a store begin with the last commit.
func lookAtHistory(t *testing.T, s *daemon) {
	want := in(t, s.d, "xenstore-ls", "-f", "-p")
	in(t, s.d, "busybox", "sh", "-c", "kill $(cat /run/xenstored.pid)")
	require.NoError(t, <-s.over, s.out)
	dir := t.TempDir()
	r, w := io.Pipe()
	untar := exec.Command("tar", "x", "-C", dir)
	untar.Stdin = r
	require.NoError(t, untar.Start())
	cmd := &guest.Cmd{Path: "busybox", Args: []string{"tar", "c", "-C", historyDir, "."}, Stdout: w}
	require.NoError(t, errors.Join(s.d.Client.Run(t.Context(), cmd), w.Close(), untar.Wait()))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		args := []string{"xenstored", "--socket=/tmp/again", "--restore-from=" + historyDir + "@HEAD"}
		_ = s.d.Client.Run(ctx, &guest.Cmd{Path: storeProgram, Args: args}) // it ends with ctx
	}()
	require.Eventually(t, func() bool {
		out, err := s.d.Output(t.Context(), "busybox", "env", "XENSTORED_PATH=/tmp/again", "xenstore-ls", "-f", "-p")
		return err == nil && strings.TrimSpace(out) == strings.TrimSpace(want)
	}, time.Minute, 100*time.Millisecond)

	git, err := exec.LookPath("git")
	if err != nil {
		t.Log("git is not installed: the history is not looked at from outside")
		return
	}
	out, err := exec.Command(git, "-c", "safe.directory=*", "-C", dir, "log", "--format=%h %s").CombinedOutput()
	require.NoError(t, err, "%s", out)
	lines := strings.Split(string(out), "\n")
	t.Logf("%d commits, such as\n%s", len(lines)-1, strings.Join(lines[:min(len(lines), 40)], "\n"))
	require.Contains(t, string(out), "transaction")
	require.Regexp(t, "domain [1-9].*: transaction, /local/domain/[1-9][0-9]*/control/shutdown", string(out), "a guest heeds its order")
	require.Contains(t, string(out), "the store goes on")
}

// stateOf returns the flags that xl list has for a domain.
func stateOf(t *testing.T, d *testbed.Domain, name string) string {
	t.Helper()
	f := strings.Fields(in(t, d, "xl", "list", name))
	return f[len(f)-2]
}

// lifeOfGuest has xl do with a guest what it can. Its kernel takes part by its own ring: it learns from the store that it is to suspend and
// to shut down, and says there that it does.
func lifeOfGuest(t *testing.T, h *testbed.Host, s *daemon, kind string) *daemon {
	t.Helper()
	d := h.Dom0()
	start := time.Now()
	g, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: kind})
	require.NoError(t, err)
	defer g.Destroy(context.WithoutCancel(t.Context()))
	t.Logf("%6.2f s  create a %s guest, until its agent answers", time.Since(start).Seconds(), kind)
	in(t, d, "xl", "pause", g.Name())
	require.Contains(t, stateOf(t, d, g.Name()), "p")
	in(t, d, "xl", "unpause", g.Name())
	require.NotContains(t, stateOf(t, d, g.Name()), "p")
	require.Contains(t, in(t, d, "xenstore-ls", "-f"), fmt.Sprintf("/local/domain/%d/name = %q", g.ID(), g.Name()))

	s = s.replace(t)
	s.reload(t)
	require.Contains(t, in(t, d, "xenstore-ls", "-f"), fmt.Sprintf("/local/domain/%d/name = %q", g.ID(), g.Name()))
	require.NotContains(t, stateOf(t, d, g.Name()), "p")

	image := "/tmp/" + g.Name()
	in(t, d, "xl", "save", g.Name(), image)
	in(t, d, "xl", "restore", image)
	in(t, d, "busybox", "rm", image)
	in(t, d, "xl", "reboot", g.Name()) // which destroys it: its image has no program to power off with
	require.Eventually(t, func() bool {
		_, err := d.Output(t.Context(), "xl", "domid", g.Name())
		return err != nil
	}, time.Minute, 100*time.Millisecond, "the guest's kernel is told by its ring")
	requireNoGuest(t, d)

	start = time.Now()
	g, err = h.Create(t.Context(), &testbed.DomainConfig{Kind: kind})
	require.NoError(t, err)
	t.Logf("%6.2f s  create another one", time.Since(start).Seconds())
	require.NoError(t, g.Destroy(t.Context()))
	requireNoGuest(t, d)
	return s
}

var guestNodes = regexp.MustCompile(`(?m)^/(local/domain/[1-9]|local/domain/0/backend/[^/]+/[1-9]|vm/|libxl/).*$`)

// requireNoGuest waits until nothing of a guest is left in the store.
func requireNoGuest(t *testing.T, d *testbed.Domain) {
	t.Helper()
	var left []string
	require.Eventually(t, func() bool {
		out, err := d.Output(t.Context(), "xenstore-ls", "-f")
		left = guestNodes.FindAllString(out, -1)
		return err == nil && left == nil
	}, time.Minute, 100*time.Millisecond, "%v", &left)
}
