package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
)

type testbedCmd struct {
	Run testbedRunCmd `cmd:"" help:"Run a package's tests inside a domain of a real Xen host."`
}

// testbedHost are the flags of what boots a host.
type testbedHost struct {
	Arch    string `enum:"amd64,arm64" default:"amd64" help:"The host's architecture."`
	Console bool   `help:"Print what the host's console says."`
}

func (f *testbedHost) boot(ctx context.Context, s *streams) (*testbed.Host, error) {
	r := testbed.Find("xen-" + f.Arch)
	if r == nil {
		return nil, usagef("there is no Xen host for %s", f.Arch)
	}
	cfg := &testbed.Config{Log: s.err}
	if f.Console {
		cfg.Console = s.err
	}
	return testbed.Boot(ctx, r, cfg)
}

type testbedRunCmd struct {
	testbedHost
	Package string   `arg:"" help:"Package whose tests are run, as the go command takes it."`
	Flags   []string `arg:"" optional:"" passthrough:"" help:"Flags of the test binary, after --."`
}

// Run builds, boots, runs.
func (c *testbedRunCmd) Run(ctx context.Context, s *streams) error {
	dir, err := os.MkdirTemp("", "hvkit-testbed-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin, err := testbed.BuildTest(ctx, c.Package, c.Arch, dir)
	if err != nil {
		return err
	}
	h, err := c.boot(ctx, s)
	if err != nil {
		return err
	}
	defer h.Close()
	flags := c.Flags
	if len(flags) > 0 && flags[0] == "--" {
		flags = flags[1:]
	}
	err = h.Dom0().RunBinary(ctx, bin, &guest.Cmd{Args: flags, Stdout: s.out, Stderr: s.err})
	if e, ok := errors.AsType[*guest.ExitError](err); ok {
		fmt.Fprintf(s.err, "FAIL %s %s: %v\n", c.Package, strings.Join(flags, " "), e)
		return errSilent
	}
	return err
}
