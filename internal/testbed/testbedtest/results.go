package testbedtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// event is one of those that test2json writes.
type event struct {
	Action string
	Test   string
	Output string
}

// result is a test that ran inside.
type result struct {
	name   string // its own, without its parents'
	run    bool   // it began; a name with a slash in it has parents that are no tests
	action string // pass, fail or skip; "" where it did not end
	output strings.Builder
	sub    []*result
}

// run is what is known of the tests of a package.
type run struct {
	top   result // the package
	tests map[string]*result
}

func newRun() *run { return &run{tests: make(map[string]*result)} }

// test returns the result of that name, which it makes, with its parents.
func (r *run) test(name string) *result {
	if name == "" {
		return &r.top
	}
	if t := r.tests[name]; t != nil {
		return t
	}
	i := strings.LastIndexByte(name, '/')
	parent := r.test(name[:max(i, 0)])
	t := &result{name: name[i+1:]}
	parent.sub = append(parent.sub, t)
	r.tests[name] = t
	return t
}

// add takes an event.
func (r *run) add(e *event) {
	t := r.test(e.Test)
	switch e.Action {
	case "run":
		t.run = true
	case "output":
		// What testing says of a test's beginning and end is said here again.
		if s := strings.TrimLeft(e.Output, " "); !strings.HasPrefix(s, "=== ") && !strings.HasPrefix(s, "--- ") {
			t.output.WriteString(e.Output)
		}
	case "pass", "fail", "skip":
		t.action = e.Action
	}
}

// toEvents returns where the output of a test binary goes, on its way through test2json to r. The channel has a value when all is there.
func toEvents(ctx context.Context, r *run) (io.WriteCloser, <-chan error) {
	done := make(chan error, 1)
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		done <- err
		return nopCloser{}, done
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		done <- err
		return nopCloser{}, done
	}
	go func() {
		dec := json.NewDecoder(out)
		for {
			var e event
			err := dec.Decode(&e)
			if err == nil {
				r.add(&e)
				continue
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			_, _ = io.Copy(io.Discard, out)
			if werr := cmd.Wait(); werr != nil {
				err = errors.Join(err, fmt.Errorf("test2json: %w: %s", werr, errs.Bytes()))
			}
			done <- err
			return
		}
	}()
	return in, done
}

// nopCloser drops what is written.
type nopCloser struct{}

func (nopCloser) Write(p []byte) (int, error) { return len(p), nil }
func (nopCloser) Close() error                { return nil }

// report makes a subtest of t of each test. err is how the binary ended: a failure, unless a test that failed explains it.
func (r *run) report(t *testing.T, err error) {
	t.Helper()
	for _, s := range r.top.sub {
		s.report(t)
	}
	if err != nil && !t.Failed() {
		t.Errorf("%v\n%s", err, r.top.output.String())
	}
	if err == nil && len(r.top.sub) == 0 {
		t.Errorf("no test ran inside\n%s", r.top.output.String())
	}
}

func (s *result) report(t *testing.T) {
	t.Helper()
	t.Run(s.name, func(t *testing.T) {
		for _, sub := range s.sub {
			sub.report(t)
		}
		out := strings.TrimRight(s.output.String(), "\n")
		switch {
		case !s.run:
		case s.action == "pass":
			if out != "" {
				t.Log("\n" + out)
			}
		case s.action == "skip":
			t.Skip("inside: " + strings.TrimSpace(out))
		case s.action == "fail":
			t.Errorf("failed inside\n%s", out)
		default:
			t.Errorf("did not end inside\n%s", out)
		}
	})
}
