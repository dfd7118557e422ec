package testbed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hvkit/hvkit/internal/selfexec"
	"github.com/stretchr/testify/require"
)

// asParent in the environment has the test binary start a process as it starts QEMU, tell its number, and wait.
const asParent = "HVKIT_TEST_AS_PARENT"

func TestParent(t *testing.T) {
	if os.Getenv(asParent) == "" {
		t.Skip("it is what TestEmulatorDiesWithItsParent starts")
	}
	p, err := (&emulator{words: []string{"sleep"}}).start(context.Background(), []string{"1000"}, nil)
	require.NoError(t, err)
	fmt.Printf("\npid %d\n", p.cmd.Process.Pid)
	<-p.done
}

// gone waits until a process has ended. Who has no parent any more may stay a zombie where nobody waits for it.
func gone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, after, _ := strings.Cut(string(text), ") ")
		return err != nil || strings.HasPrefix(after, "Z")
	}, 20*time.Second, time.Millisecond)
}

func TestEmulatorDiesWithItsParent(t *testing.T) {
	cmd, err := selfexec.Command(t.Context(), "-test.run=^TestParent$")
	require.NoError(t, err)
	cmd.Env = append(os.Environ(), asParent+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	pid := 0
	for sc := bufio.NewScanner(out); pid == 0 && sc.Scan(); {
		if n, ok := strings.CutPrefix(sc.Text(), "pid "); ok {
			pid, err = strconv.Atoi(n)
			require.NoError(t, err)
		}
	}
	require.NotZero(t, pid)
	require.NoError(t, syscall.Kill(pid, 0))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	gone(t, pid)
}

func TestEmulatorEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := (&emulator{words: []string{"sleep"}}).start(ctx, []string{"1000"}, nil)
	require.NoError(t, err)
	cancel()
	<-p.done
	require.Error(t, p.err)
	p.kill() // again
	gone(t, p.cmd.Process.Pid)

	_, err = (&emulator{words: []string{"/no/such/program"}}).start(t.Context(), nil, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// What QEMU is given beside its arguments: sockets, from descriptor 3 on, and the environment. What it says is kept.
func TestEmulatorIsGivenSockets(t *testing.T) {
	ours, theirs, err := socketPairs(2)
	require.NoError(t, err)
	e := &emulator{words: []string{"sh", "-c", "echo $WORD >&3; cat <&4; exit 3"}, env: []string{"WORD=hello"}}
	p, err := e.start(t.Context(), nil, theirs)
	require.NoError(t, err)
	closeAll(theirs)
	text, err := bufio.NewReader(ours[0]).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", text)
	_, err = io.WriteString(ours[1], "last words")
	require.NoError(t, err)
	require.NoError(t, ours[1].Close())
	<-p.done
	require.ErrorContains(t, p.err, "exit status 3")
	require.Equal(t, "last words", p.stderr.String())
	require.NoError(t, ours[0].Close())
}

// One process at a time changes a part of the cache.
func TestCacheLock(t *testing.T) {
	t.Setenv(EnvCache, t.TempDir())
	c, err := OpenCache()
	require.NoError(t, err)
	unlock, err := c.lock(t.Context(), "x")
	require.NoError(t, err)
	other, err := c.lock(t.Context(), "y")
	require.NoError(t, err)
	other()
	ctx, cancel := context.WithCancelCause(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := c.lock(ctx, "x")
		waited <- err
	}()
	why := errors.New("no longer wanted")
	cancel(why)
	require.ErrorIs(t, <-waited, why)
	unlock()
	unlock, err = c.lock(t.Context(), "x")
	require.NoError(t, err)
	unlock()
	require.NoError(t, c.Clean())
	require.NoDirExists(t, c.Dir())
}

// Without a way to get packages it is said what is missing, and how to mend it.
func TestMissing(t *testing.T) {
	t.Setenv(EnvCache, t.TempDir())
	t.Setenv("PATH", t.TempDir())
	c, err := OpenCache()
	require.NoError(t, err)
	_, err = Boot(t.Context(), XenAMD64, &Config{Cache: c})
	var m *MissingError
	require.ErrorAs(t, err, &m)
	require.ErrorContains(t, err, "apt-get")
	_, err = c.findEmulator(t.Context(), "qemu-system-x86_64", io.Discard)
	require.ErrorAs(t, err, &m)
	require.ErrorContains(t, err, "apt-get install qemu-system-x86")
	left, err := os.ReadDir(c.Dir())
	require.NoError(t, err)
	for _, e := range left {
		require.Contains(t, e.Name(), ".lock")
	}
}
