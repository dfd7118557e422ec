package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullDisk is a standard output that takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// Output that could not be written is a failure, whichever command it was, and ends what would go on for ever.
func TestOutputThatCannotBeWritten(t *testing.T) {
	startStore(t)
	for _, command := range []string{
		"doctor", "doctor --json", "xenstore read /tool", "xenstore read --raw /tool/x", "xenstore read --json /tool", "xenstore ls /",
		"xenstore ls --json /", "xenstore tree /", "xenstore tree -pf /", "xenstore chmod /tool", "xenstore watch -n 1 /tool",
		"xenstore watch /tool", "xenstore watch --json /tool",
	} {
		ok(t, "xenstore", "write", "/tool/x", "y")
		var errs bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		require.Equal(t, exitFailure, run(ctx, strings.Fields(command), &streams{nil, fullDisk{}, &errs}), command)
		cancel()
		require.Regexp(t, "^hvkit: [a-z ]+: write the output: no space left on device\n$", errs.String(), command)
	}
}

// A timeout of 0 is none, in every command that has one.
func TestNoTimeout(t *testing.T) {
	startStore(t)
	require.Equal(t, "\n", ok(t, "xenstore", "read", "--timeout", "0", "/tool"))
	require.Equal(t, "/tool\n", ok(t, "xenstore", "watch", "--timeout", "0", "-n", "1", "/tool"))
}

// A demo that is told to end while it makes its file ends.
func TestDemoIsInterruptedWhileItMakesItsFile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := &demo{cmd: &demoCmd{Size: 1 << 40}, crew: &crew{dir: t.TempDir()}, out: new(bytes.Buffer)}
	require.ErrorIs(t, d.prepareFile(ctx), ctx.Err())
	d = &demo{cmd: &demoCmd{File: "no/such"}, crew: &crew{dir: t.TempDir()}, out: new(bytes.Buffer)}
	require.ErrorIs(t, d.prepareFile(t.Context()), fs.ErrNotExist)
}
