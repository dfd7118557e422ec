package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/history"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// daemon runs the command until end.
func daemon(t *testing.T, args ...string) (end func()) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "xs")
	pid := filepath.Join(dir, "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	over := make(chan int)
	var out strings.Builder
	go func() {
		args := append([]string{"xenstored", "--socket", path, "--pid-file", pid}, args...)
		over <- run(ctx, args, &streams{strings.NewReader(""), &out, &out})
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(pid); return err == nil }, 30*time.Second, time.Millisecond)
	t.Setenv("XENSTORED_PATH", path)
	return func() {
		cancel(&interrupt{syscall.SIGTERM})
		require.Equal(t, exitOK, <-over, &out)
	}
}

func valueOf(st *xenstored.State, path string) string {
	for _, n := range st.Nodes {
		if n.Path == path {
			return string(n.Value)
		}
	}
	return "there is no " + path
}

// TestXenstoredHistory: what was done to the store is in the history, and a store begins with any point of it.
func TestXenstoredHistory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "xs.git")
	end := daemon(t, "--history", dir)
	ok(t, "xenstore", "write", "/a", "1")
	ok(t, "xenstore", "write", "/a", "2", "/b", "3")
	ok(t, "xenstore", "rm", "/a")
	end()
	st, err := history.Read(dir, "HEAD~1")
	require.NoError(t, err)
	require.Equal(t, "2", valueOf(st, "/a"))

	end = daemon(t, "--restore-from", dir+"@HEAD~1", "--history", dir)
	require.Equal(t, "2\n3\n", ok(t, "xenstore", "read", "/a")+ok(t, "xenstore", "read", "/b"))
	end()
	st, err = history.Read(dir, "HEAD")
	require.NoError(t, err)
	require.Equal(t, "2", valueOf(st, "/a"), "the history goes on with what the store began with")

	for _, args := range [][]string{
		{"--restore-from", dir}, {"--restore-from", dir + "@nothing"}, {"--restore-from", dir + "@HEAD", "--restore", "x"}, {"--restore", "x"},
	} {
		var out strings.Builder
		args := append([]string{"xenstored", "--socket", filepath.Join(t.TempDir(), "xs")}, args...)
		require.NotEqual(t, exitOK, run(t.Context(), args, &streams{strings.NewReader(""), &out, &out}))
		require.NotEmpty(t, out.String())
	}
}

func TestStateFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "state")
	s := xenstored.New(nil)
	defer s.Close()
	st := &stateFile{Store: s.Snapshot().State(), Listeners: []int{3, 4}}
	require.NoError(t, st.write(name))
	back, err := readState(name)
	require.NoError(t, err)
	require.Equal(t, st.Listeners, back.Listeners)
	require.Len(t, back.Store.Nodes, len(st.Store.Nodes))
	end := daemon(t, "--restore", name)
	require.Equal(t, "tool\n", ok(t, "xenstore", "ls"))
	end()
	for _, text := range []string{"", "{}", "[]"} {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		_, err := readState(name)
		require.Error(t, err)
	}
	require.Error(t, errors.Join(st.write(filepath.Join(name, "x"))))
}
