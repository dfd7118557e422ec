//go:build linux

package main

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/leaktest"
	"github.com/hvkit/hvkit/internal/selfexec"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

// asEcho in the environment has the test binary be the program.
const asEcho = "HVKIT_TEST_AS_ECHO"

func TestMain(m *testing.M) {
	if os.Getenv(asEcho) != "" {
		main()
		return
	}
	leaktest.Main(m)
}

func TestReadmeHasTheProgram(t *testing.T) {
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```go\n"+string(program)+"```\n")
}

func TestEcho(t *testing.T) {
	host := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, host, nil)
	program, err := selfexec.Command(context.Background())
	require.NoError(t, err)
	program.Env = append(os.Environ(), asEcho+"=1", xen.EnvHost+"="+socket, xen.EnvDomain+"=server")
	program.Stderr = t.Output()
	require.NoError(t, program.Start())
	t.Cleanup(func() {
		program.Process.Kill()
		program.Wait()
	})

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client, err := xen.Join(ctx, socket, "", "client", nil)
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool { // until the program has joined
		_, err := client.Lookup(ctx, "server")
		return err == nil
	}, 30*time.Second, time.Millisecond)
	conn, err := vchan.Dial(ctx, client, "server", "echo", nil)
	require.NoError(t, err)
	defer conn.Close()
	for _, word := range []string{"hello", "again"} {
		_, err = io.WriteString(conn, word)
		require.NoError(t, err)
		answer := make([]byte, len(word))
		_, err = io.ReadFull(conn, answer)
		require.NoError(t, err)
		require.Equal(t, word, string(answer))
	}
}
