package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/matrix"
)

type testbedMatrixCmd struct {
	Only string `default:"." help:"Which tests of internal/testbed, as go test takes it."`
	Long bool   `help:"Give suites that can be larger the flags for it: 256 MiB each way, ten kills of each kind."`
	Page string `default:"docs/interop.md" type:"path" help:"The page whose table is written; - prints it instead."`
}

// Help has the examples.
func (*testbedMatrixCmd) Help() string {
	return `Everything that real Xen is tried with runs, in every kind of domain, and what came of it is written into the page. It fails
where a test does. With both architectures it takes a quarter of an hour, with --long an hour or more.

Examples:

    hvkit testbed matrix
    hvkit testbed matrix --only '^TestARM64$' --page -
    hvkit testbed matrix --long`
}

// Run runs the tests.
func (c *testbedMatrixCmd) Run(ctx context.Context, s *streams) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout=0", "-run="+c.Only, "./internal/testbed")
	cmd.Env = append(os.Environ(), "HVKIT_TESTBED=require")
	if c.Long {
		cmd.Env = append(cmd.Env, "HVKIT_LONG=1")
	}
	cmd.Stderr = s.err
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	results, err := matrix.Read(out, func(line string) { fmt.Fprintln(s.err, line) })
	_, _ = io.Copy(io.Discard, out)
	if err := errors.Join(err, cmd.Wait()); err != nil && len(results) == 0 {
		return fmt.Errorf("testbed matrix: %w", err)
	}
	table := matrix.Table(results, time.Now(), c.Long)
	if c.Page == "-" {
		if _, err := s.out.Write(table); err != nil {
			return err
		}
	} else if err := c.write(table); err != nil {
		return err
	}
	if failed := matrix.Failed(results); failed > 0 {
		return fmt.Errorf("testbed matrix: %d tests failed", failed)
	}
	return nil
}

// write puts the table into the page, in place of the one that is there.
func (c *testbedMatrixCmd) write(table []byte) error {
	page, err := os.ReadFile(c.Page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(page, []byte(matrix.Begin))
	_, after, ok2 := bytes.Cut(rest, []byte(matrix.End))
	if !ok || !ok2 {
		return fmt.Errorf("testbed matrix: %s has no place for the table: a line %q and a line %q", c.Page, matrix.Begin, matrix.End)
	}
	page = slices.Concat(before, []byte(matrix.Begin+"\n\n"), table, []byte(matrix.End), after)
	return os.WriteFile(c.Page, page, 0o644)
}
