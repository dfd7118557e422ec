package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDemo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, randomBytes(t, 1<<20+1), 0o600))
	var r demoReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "demo", "--file", file, "--measure", "300ms", "--json")), &r))
	require.EqualValues(t, 1<<20+1, r.Bytes)
	require.True(t, r.ToServer.Equal && r.ToClient.Equal)
	require.Equal(t, r.Bytes, r.ToServer.Bytes)
	require.Equal(t, r.Bytes, r.ToClient.Bytes)
	require.Regexp(t, "^Read: .*, Write: ", r.Kill.Error)
	require.GreaterOrEqual(t, r.Kill.Bytes, int64(killAfter))
	require.Empty(t, r.Leaks)
	require.NotNil(t, r.Leaks)
	require.Positive(t, r.RoundTrip.N)
	require.Positive(t, r.StoreReads)
	require.Positive(t, r.StoreWrites)
}

func TestDemoTable(t *testing.T) {
	out := ok(t, "demo", "--size", "1M", "--ring", "4K", "--measure", "10ms")
	require.Equal(t, 2, strings.Count(out, "SHA-256 is the same"), out)
	require.Regexp(t, `left behind +nothing\n`, out)
	for _, line := range strings.Split(out, "\n") {
		require.LessOrEqual(t, len([]rune(line)), 80, line)
	}
}

// The workers die with their parent, also when that is killed.
func TestDemoKilled(t *testing.T) {
	p := spawn(t, "demo", "--size", "1M", "--measure", "1h")
	p.out.await(t, "mapped its pages")
	var workers []int
	for _, word := range strings.Split(p.out.String(), "(process ")[1:] {
		pid, err := strconv.Atoi(word[:strings.IndexByte(word, ')')])
		require.NoError(t, err)
		workers = append(workers, pid)
	}
	require.Len(t, workers, 2)
	require.NoError(t, p.cmd.Process.Kill())
	<-p.done
	for _, pid := range workers {
		require.Eventually(t, func() bool { return !alive(pid) }, patient, time.Millisecond)
	}
	removeDemoDir(t)
}

// alive reports whether a process runs; one that nobody has reaped yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// removeDemoDir removes what a demo that was killed could not.
func removeDemoDir(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "hvkit-[0-9]*"))
	require.NoError(t, err)
	require.Len(t, dirs, 1)
	require.NoError(t, os.RemoveAll(dirs[0]))
}

func TestDemoInterrupted(t *testing.T) {
	p := spawn(t, "demo", "--size", "1M", "--measure", "1h")
	p.out.await(t, "both ways at once")
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 130, p.wait(t))
	require.Empty(t, p.errs.String())
}

// A demo that is interrupted while it makes its file ends, and leaves nothing of the file (which TestMain looks for).
func TestDemoInterruptedEarly(t *testing.T) {
	p := spawn(t, "demo", "--size", "1024G")
	require.Eventually(t, func() bool {
		files, _ := filepath.Glob(filepath.Join(os.TempDir(), "hvkit-[0-9]*", "random"))
		return len(files) == 1
	}, patient, time.Millisecond)
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 130, p.wait(t))
	require.Empty(t, p.errs.String())
}

func TestBench(t *testing.T) {
	var r benchReport
	require.NoError(t, json.Unmarshal([]byte(ok(t, "bench", "--time", "10ms", "--json")), &r))
	require.Len(t, r.Stream, 4)
	require.Len(t, r.Ping, 2)
	require.Len(t, r.Xenstore, 8)
	for _, f := range r.Stream {
		require.Positive(t, f.BytesPerSecond)
	}
	for _, f := range r.Xenstore {
		require.Positive(t, f.PerSecond, f.Operation)
	}
	out := ok(t, "bench", "--time", "1ms", "--only", "xenstore")
	require.Contains(t, out, "write until watch event")
	require.NotContains(t, out, "vchan,")
	require.Contains(t, out, "on another machine")
}
