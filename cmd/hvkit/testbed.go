package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
)

type testbedCmd struct {
	Run     testbedRunCmd     `cmd:"" help:"Run a package's tests inside a domain."`
	Matrix  testbedMatrixCmd  `cmd:"" help:"Run everything in every kind of domain, and write what came of it."`
	Shell   testbedShellCmd   `cmd:"" help:"Have a shell, or run a command, inside a domain."`
	Console testbedConsoleCmd `cmd:"" help:"Print what a host's or a domain's console says while it boots."`
	Fetch   testbedFetchCmd   `cmd:"" help:"Fill the cache, so that nothing is fetched later."`
	Clean   testbedCleanCmd   `cmd:"" help:"Remove the cache."`
}

// Help has the examples.
func (*testbedCmd) Help() string {
	return `It boots real Xen under QEMU's software CPU: a control domain (dom0) and, if asked, a domain above it. Packages are fetched with
apt-get and unpacked into a cache, never installed; no root is needed. A host that has booted is kept as a snapshot, so the next one is
there in a second. Run it inside this module: the guests' init, and the tests, are built from source.`
}

// testbedHost are the flags of what boots a host.
type testbedHost struct {
	Arch  string `enum:"amd64,arm64" default:"amd64" help:"The host's architecture (${enum})."`
	Fresh bool   `help:"Boot, even if there is a snapshot."`
}

// boot boots a host. Its console goes to w.
func (f *testbedHost) boot(ctx context.Context, s *streams, console io.Writer) (*testbed.Host, error) {
	r := testbed.Find("xen-" + f.Arch)
	return testbed.Boot(ctx, r, &testbed.Config{Log: s.err, Console: console, Fresh: f.Fresh})
}

// domain returns the domain of that kind, which it creates unless it is dom0.
func domain(ctx context.Context, h *testbed.Host, kind string) (*testbed.Domain, error) {
	if kind == "dom0" {
		return h.Dom0(), nil
	}
	return h.Create(ctx, &testbed.DomainConfig{Kind: kind})
}

type testbedRunCmd struct {
	testbedHost
	In      string   `default:"dom0" enum:"dom0,pv,pvh" help:"Where they run (${enum})."`
	Package string   `arg:"" help:"Package, as the go command takes it."`
	Flags   []string `arg:"" optional:"" passthrough:"" help:"Flags of the test binary, after --."`
}

// Help has the examples.
func (*testbedRunCmd) Help() string {
	return `Examples:

    hvkit testbed run ./shm
    hvkit testbed run --in pvh ./xen/xenstore -- -test.run TestRealServer -test.v
    hvkit testbed run --arch arm64 ./xen/hypercall`
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
	h, err := c.boot(ctx, s, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	d, err := domain(ctx, h, c.In)
	if err != nil {
		return err
	}
	err = d.RunBinary(ctx, bin, &guest.Cmd{Args: afterDashes(c.Flags), Stdout: s.out, Stderr: s.err})
	if e, ok := errors.AsType[*guest.ExitError](err); ok {
		fmt.Fprintf(s.err, "FAIL %s in %s: %s%s\n", c.Package, d.Name(), ended(e), h.Evidence())
		return errSilent
	}
	return err
}

// ended says how a program ended, without its path in the guest.
func ended(e *guest.ExitError) string {
	if e.Signal != "" {
		return e.Signal
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// afterDashes drops the -- that the parser leaves.
func afterDashes(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

type testbedShellCmd struct {
	testbedHost
	Domain  string   `arg:"" optional:"" default:"dom0" help:"Where: dom0, pv or pvh."`
	Command []string `arg:"" optional:"" passthrough:"" help:"Command in place of the shell, after --."`
}

// Help has the examples.
func (*testbedShellCmd) Help() string {
	return `Examples:

    hvkit testbed shell
    hvkit testbed shell pv -- busybox ls /dev/xen`
}

// Run boots, and runs the shell until it ends.
func (c *testbedShellCmd) Run(ctx context.Context, s *streams) error {
	if c.Domain != "dom0" && c.Domain != "pv" && c.Domain != "pvh" {
		c.Domain, c.Command = "dom0", append([]string{c.Domain}, afterDashes(c.Command)...) // "shell -- xl list"
	}
	h, err := c.boot(ctx, s, nil)
	if err != nil {
		return err
	}
	defer h.Close()
	d, err := domain(ctx, h, c.Domain)
	if err != nil {
		return err
	}
	words := afterDashes(c.Command)
	if len(words) == 0 {
		words = []string{"busybox", "sh"}
	}
	cmd := &guest.Cmd{Path: words[0], Args: words[1:], Env: []string{"PS1=" + d.Name() + ":\\w# "}, Stdout: s.out, Stderr: s.err}
	if in, ok := s.in.(*os.File); ok {
		if rows, cols, ok := terminal.Size(in); ok {
			restore, err := terminal.Raw(in)
			if err != nil {
				return err
			}
			defer func() { _ = restore() }()
			cmd.Terminal = &guest.Size{Rows: rows, Cols: cols}
		}
	}
	cmd.Stdin = s.in
	err = d.Client.Run(ctx, cmd)
	if e, ok := errors.AsType[*guest.ExitError](err); ok {
		fmt.Fprintf(s.err, "hvkit: testbed shell: %s: %s\n", words[0], ended(e))
		return errSilent
	}
	return err
}

type testbedConsoleCmd struct {
	testbedHost
	Domain string `arg:"" optional:"" default:"dom0" enum:"dom0,pv,pvh" help:"Whose (${enum}); dom0's is Xen's, too."`
}

// Help has the examples.
func (*testbedConsoleCmd) Help() string {
	return `Examples:

    hvkit testbed console
    hvkit testbed console pvh`
}

// Run boots a host, and a domain, and prints what the console says.
func (c *testbedConsoleCmd) Run(ctx context.Context, s *streams) error {
	c.Fresh = c.Fresh || c.Domain == "dom0" // a snapshot has nothing to say
	var console io.Writer
	if c.Domain == "dom0" {
		console = s.out
	}
	h, err := c.boot(ctx, s, console)
	if err != nil {
		return err
	}
	defer h.Close()
	d, err := domain(ctx, h, c.Domain)
	if err != nil {
		return err
	}
	if c.Domain != "dom0" {
		fmt.Fprint(s.out, d.Console())
	}
	return nil
}

type testbedFetchCmd struct {
	Arch []string `enum:"amd64,arm64" default:"amd64,arm64" help:"Hosts' architectures (${enum})."`
}

// Help has the examples.
func (*testbedFetchCmd) Help() string {
	return `Examples:

    hvkit testbed fetch
    hvkit testbed fetch --arch amd64`
}

// Run fetches.
func (c *testbedFetchCmd) Run(ctx context.Context, s *streams) error {
	cache, err := testbed.OpenCache()
	if err != nil {
		return err
	}
	for _, arch := range c.Arch {
		if err := cache.Fetch(ctx, testbed.Find("xen-"+arch), s.err); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "%s has what hosts of %s need\n", cache.Dir(), strings.Join(c.Arch, " and "))
	return nil
}

type testbedCleanCmd struct{}

// Help has the examples.
func (*testbedCleanCmd) Help() string {
	return `Examples:

    hvkit testbed clean`
}

// Run removes the cache.
func (*testbedCleanCmd) Run(s *streams) error {
	cache, err := testbed.OpenCache()
	if err != nil {
		return err
	}
	if err := cache.Clean(); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "removed %s\n", cache.Dir())
	return nil
}
