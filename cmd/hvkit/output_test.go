package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullDisk is a standard output that takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// Output that could not be written is a failure, whichever command it was.
func TestOutputThatCannotBeWritten(t *testing.T) {
	var errs bytes.Buffer
	require.Equal(t, exitFailure, run(t.Context(), []string{"doctor"}, &streams{nil, fullDisk{}, &errs}))
	require.Equal(t, "hvkit: doctor: write the output: no space left on device\n", errs.String())
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
