package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line. Each command is in the file of its name.
type cli struct {
	Demo      demoCmd      `cmd:"" help:"Have two domains, in two processes, move a file through vchan, and kill one of them."`
	Host      hostCmd      `cmd:"" help:"Serve a simulated Xen host that other processes join."`
	Vchan     vchanCmd     `cmd:"" help:"Move bytes between domains."`
	Xenstore  xenstoreCmd  `cmd:"" help:"Read and change Xenstore."`
	Xenstored xenstoredCmd `cmd:"" help:"Serve a Xenstore on a Unix socket."`
	Bench     benchCmd     `cmd:"" help:"Measure vchan and Xenstore between two processes."`
	Doctor    doctorCmd    `cmd:"" help:"Say what this machine offers, and how to mend what is missing."`
	Testbed   testbedCmd   `cmd:"" help:"Run tests inside real Xen, under QEMU."`

	Worker workerCmd `cmd:"" hidden:"" help:"Be a domain of the demo or the benchmark."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := interruptible(context.Background())
	defer stop()
	os.Exit(run(ctx, os.Args[1:], &streams{os.Stdin, os.Stdout, os.Stderr}))
}

// interruptible returns a context that the first SIGINT or SIGTERM ends. The second one kills the process, as if there were no handler.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(&interrupt{s})
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// exited is what the parser's exit panics with, so that it ends run and not the process.
type exited int

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, s *streams) (code int) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			code = int(r)
		default:
			panic(r)
		}
	}()
	out := &output{Writer: s.out}
	s = &streams{s.in, out, s.err}
	var c cli
	parser := kong.Must(&c,
		kong.Name("hvkit"),
		kong.Description("Xen's interfaces between domains, in Go: a simulated host, Xenstore and vchan.\n\n"+
			"Run 'hvkit demo' first. 'hvkit <command> --help' has examples."),
		kong.Vars{"version": version(), "hostsocket": defaultHostSocket()},
		kong.Writers(s.out, s.err),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	parsed, err := parser.Parse(conventional(args))
	if err != nil {
		return failUsage(s.err, err)
	}
	name := commandName(parsed.Command())
	err = parsed.Run()
	if unwritten := out.err(); unwritten != nil { // an error of the command's own is that one, or a consequence
		err = unwritten
	}
	if err != nil {
		return fail(ctx, s.err, name, err)
	}
	return exitOK
}

// conventional lets -exec be written with one dash, as by other tools that run commands.
func conventional(args []string) []string {
	out := make([]string, 0, len(args))
	for i, a := range args {
		if a == "--" {
			return append(out, args[i:]...)
		}
		if a == "-exec" || strings.HasPrefix(a, "-exec=") {
			a = "-" + a
		}
		out = append(out, a)
	}
	return out
}

// commandName cuts the arguments off kong's name of a command: "vchan dial <remote> <port>" is "vchan dial".
func commandName(s string) string {
	name, _, _ := strings.Cut(s, " <")
	return name
}

// version returns the module's version as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "hvkit (unknown version)"
	}
	return fmt.Sprintf("hvkit %s %s", info.Main.Version, info.GoVersion)
}

// failUsage says what is wrong with the command line.
func failUsage(w io.Writer, err error) int {
	help := "hvkit --help"
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if name := commandName(parse.Context.Command()); name != "" {
			help = "hvkit " + name + " --help"
		}
	}
	fmt.Fprintf(w, "hvkit: %s (see %s)\n", oneLine(err), help)
	return exitUsage
}
