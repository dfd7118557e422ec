// Fuzzall runs every fuzz target of the module for a while, one after the other:
//
//	go run ./internal/catalogue/fuzzall -time 1m
//	go run ./internal/catalogue/fuzzall -time 10s -run 'Hostile|Stream'
//
// An input that fails stays in the package's testdata/fuzz, where go test finds it from then on; it is to be committed with the fix.
// Fuzzall prints a line for each target and exits with status 1 if one failed.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"github.com/hvkit/hvkit/internal/catalogue"
)

// buildLimit is what a target may take beside its time, for building and for the inputs that are known.
const buildLimit = 10 * time.Minute

// minimizeLimit is how long an input that reaches something new is made smaller. By default that is a minute, in which nothing is tried.
const minimizeLimit = "2s"

func main() {
	each := flag.Duration("time", time.Minute, "how long each target is run")
	only := flag.String("run", "", "only the targets whose package and name (./shm FuzzX) match this regular expression")
	list := flag.Bool("list", false, "only list the targets")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *each, *only, *list); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, each time.Duration, only string, list bool) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := catalogue.Root()
	if err != nil {
		return err
	}
	targets, err := catalogue.ReadFuzzTargets(os.DirFS(root))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range targets {
		name := f.Package() + " " + f.Name
		here, err := build.Default.MatchFile(filepath.Join(root, filepath.FromSlash(f.Dir)), f.File)
		if err != nil {
			return err
		}
		if !here || !match.MatchString(name) {
			continue
		}
		if list {
			fmt.Println(name)
			continue
		}
		began := time.Now()
		err = fuzz(ctx, root, f, each)
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		verdict := "ok"
		if err != nil {
			verdict = "FAILED"
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		fmt.Printf("%-50s %6.1fs  %s\n", name, time.Since(began).Seconds(), verdict)
	}
	return errors.Join(errs...)
}

// fuzz runs one target.
func fuzz(ctx context.Context, root string, f catalogue.Func, each time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, each+buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-fuzz=^"+f.Name+"$", "-fuzztime="+each.String(),
		"-fuzzminimizetime="+minimizeLimit, f.Package())
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go ends the fuzzer's processes
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	return nil
}
