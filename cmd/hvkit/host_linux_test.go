package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHostEvents(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "h.sock")
	var out, errs text
	ctx, cancel := context.WithCancelCause(context.Background())
	code := make(chan int, 1)
	args := []string{"host", "--socket", socket, "--closed", "--make", "made", "--json"}
	go func() { code <- run(ctx, args, &streams{nil, &out, &errs}) }()
	out.await(t, `"token":"`)
	var token hostEvent
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		require.NoError(t, json.Unmarshal([]byte(line), &token))
		if token.Event == "token" {
			break
		}
	}
	t.Setenv("HVKIT_HOST", socket)
	_, stderr, failed := hvkit(t, "", "xenstore", "--domain", "stranger", "read", "name")
	require.Equal(t, exitFailure, failed)
	require.Contains(t, stderr, "the host takes only processes with the token of a domain")
	require.Equal(t, "made\n", ok(t, "xenstore", "--token", token.Token, "read", "name"))
	out.await(t, `"event":"left"`)
	require.Contains(t, ok(t, "xenstore", "ls", "/local"), "domain") // as domain 0, beside the socket
	cancel(&interrupt{os.Interrupt})
	require.Equal(t, exitOK, <-code, errs.String())
	require.Contains(t, out.String(), `"event":"ended"`)
	require.NoFileExists(t, socket)
	require.NoFileExists(t, storeSocket(socket))
}

func TestHostTwice(t *testing.T) {
	socket, _ := startHost(t)
	_, stderr, code := hvkit(t, "", "host", "--socket", socket)
	require.Equal(t, exitFailure, code)
	require.Equal(t, "hvkit: host: "+socket+" is served by another process already\n", stderr)
}

// A host that was killed leaves its sockets, and the next one takes their place.
func TestHostAfterKill(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "h.sock")
	first := spawn(t, "host", "--socket", socket)
	first.out.await(t, "^C ends it.")
	first.cmd.Process.Kill()
	<-first.done
	require.FileExists(t, socket)
	second := spawn(t, "host", "--socket", socket)
	second.out.await(t, "^C ends it.")
	require.NoError(t, second.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitOK, second.wait(t), second.errs.String())
	require.Contains(t, second.out.String(), "nothing is left behind")
}

func TestHostAtAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, stderr, code := hvkit(t, "", "host", "--socket", path)
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "is there and no socket")
	require.FileExists(t, path)
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 200))
	_, stderr, _ = hvkit(t, "", "host", "--socket", long)
	require.Contains(t, stderr, "the path of a Unix socket has at most 107 bytes")
}
