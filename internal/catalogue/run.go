package catalogue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// testLimit is what go test gives the test of a patch.
const testLimit = "60s"

// runLimit bounds a run with everything that is built for it.
const runLimit = 10 * time.Minute

// Outcome is what became of a patch's test.
type Outcome struct {
	Caught bool
	How    string        // "failed", "panicked", "ran into the time limit"; or why it was not caught
	Runs   int           // for a bug: after how many runs it was found
	Took   time.Duration // with building
	Output string        // of the test
}

// Check applies a patch to the module in the directory root and runs its test. An error says that nothing was proved: the patch does not
// apply, what it makes does not compile or pass go vet, or its test did not run.
func (p *Patch) Check(ctx context.Context, root string) (Outcome, error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "hvkit-catalogue-")
	if err != nil {
		return Outcome{}, err
	}
	defer os.RemoveAll(dir)
	overlay, err := p.overlay(root, dir)
	if err != nil {
		return Outcome{}, err
	}
	r, err := goTest(ctx, root, p.Package, []string{p.Test}, "-overlay="+overlay)
	if err != nil {
		return Outcome{}, err
	}
	o, err := p.judge(r)
	o.Took = time.Since(began)
	return o, err
}

// overlay writes the patched files, and what tells go where they belong, into dir. It returns the latter's name.
func (p *Patch) overlay(root, dir string) (string, error) {
	changed, err := p.Apply(os.DirFS(root))
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for path, text := range changed {
		file := filepath.Join(dir, fmt.Sprintf("%d-%s", len(replace), filepath.Base(path)))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(path))] = file
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, text, 0o600)
}

// foundAfter is the line by which an explorer's test says how long it took.
var foundAfter = regexp.MustCompile(`found after ([0-9]+) runs`)

// judge says what a run means for the patch.
func (p *Patch) judge(r *result) (Outcome, error) {
	if r.build != "" {
		return Outcome{}, fmt.Errorf("what the patch makes does not build:\n%s", r.build)
	}
	o := Outcome{Output: r.output[p.Test]}
	switch action := r.action[p.Test]; {
	case action == "":
		return o, fmt.Errorf("%s has no %s that runs here:\n%s", p.Package, p.Test, r.rest)
	case action == "skip":
		return o, fmt.Errorf("%s skipped itself:\n%s", p.Test, o.Output)
	case action == "pass" && r.failed:
		o.How = "the test passed, and only its package failed afterwards"
	case action == "pass":
		o.How = "the test passed"
	case strings.Contains(o.Output, "panic: test timed out after"):
		o.Caught, o.How = true, "ran into the time limit"
	case action == "run" && !r.failed:
		return o, fmt.Errorf("%s neither passed nor failed:\n%s", p.Test, o.Output)
	case strings.Contains(o.Output, "panic: "), strings.Contains(o.Output, "fatal error: "):
		o.Caught, o.How = true, "panicked"
	default:
		o.Caught, o.How = true, "failed"
	}
	if o.Caught && p.Bug != "" {
		m := foundAfter.FindStringSubmatch(o.Output)
		if m == nil {
			return o, fmt.Errorf("%s failed, but did not say \"found after N runs\":\n%s", p.Test, o.Output)
		}
		var err error
		if o.Runs, err = strconv.Atoi(m[1]); err != nil {
			return o, err
		}
	}
	return o, nil
}

// CheckUnpatched runs the tests of patches as the tree is, and returns an error if one does not pass: a test that always fails catches
// nothing.
func CheckUnpatched(ctx context.Context, root string, patches []*Patch) error {
	tests := make(map[string][]string)
	for _, p := range patches {
		if !slices.Contains(tests[p.Package], p.Test) {
			tests[p.Package] = append(tests[p.Package], p.Test)
		}
	}
	var errs []error
	for _, pkg := range slices.Sorted(maps.Keys(tests)) {
		r, err := goTest(ctx, root, pkg, tests[pkg])
		if err != nil {
			return err
		}
		if r.build != "" {
			errs = append(errs, fmt.Errorf("%s does not build:\n%s", pkg, r.build))
			continue
		}
		for _, test := range tests[pkg] {
			if action := r.action[test]; action != "pass" {
				errs = append(errs, fmt.Errorf("%s of %s, without a patch: %q:\n%s%s", test, pkg, action, r.output[test], r.rest))
			}
		}
		if r.failed {
			errs = append(errs, fmt.Errorf("the tests of %s fail without a patch:\n%s", pkg, r.rest))
		}
	}
	return errors.Join(errs...)
}

// result is what go test -json said of one package.
type result struct {
	action map[string]string // by test: the last of "run", "pass", "fail", "skip"
	output map[string]string // by test, its subtests' too
	rest   string            // output of no test
	build  string            // what the compiler or go vet said, if it did not build
	failed bool              // the package as a whole
}

// event is one line of go test -json.
type event struct {
	Action, Test, Output, FailedBuild string
}

// goTest runs tests of a package.
func goTest(ctx context.Context, root, pkg string, tests []string, flags ...string) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	args := append([]string{"test", "-json", "-count=1", "-timeout=" + testLimit}, flags...)
	args = append(args, "-run", "^("+strings.Join(tests, "|")+")$", pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "RAPID_NOFAILFILE=1") // failures are wanted here, and the tree stays as it is
	cmd.WaitDelay = 5 * time.Second
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("go %s: %w", strings.Join(args, " "), context.Cause(ctx))
	}
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return nil, err
	}
	r, parseErr := parseEvents(&out)
	switch {
	case parseErr != nil:
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), parseErr, problems.Bytes())
	case err != nil && !r.failed && r.build == "":
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, problems.Bytes())
	}
	return r, nil
}

// parseEvents reads what go test -json writes.
func parseEvents(in io.Reader) (*result, error) {
	r := &result{action: make(map[string]string), output: make(map[string]string)}
	var build strings.Builder
	failedBuild := false
	for d := json.NewDecoder(in); ; {
		var e event
		err := d.Decode(&e)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		top, _, sub := strings.Cut(e.Test, "/")
		switch e.Action {
		case "build-output":
			build.WriteString(e.Output)
		case "build-fail":
			failedBuild = true
		case "output":
			if top == "" {
				r.rest += e.Output
			} else {
				r.output[top] += e.Output
			}
		case "run", "pass", "fail", "skip":
			if e.Test == "" {
				r.failed = r.failed || e.Action == "fail"
				failedBuild = failedBuild || e.FailedBuild != ""
			} else if !sub {
				r.action[top] = e.Action
			}
		}
	}
	if failedBuild {
		r.build = build.String()
		if r.build == "" {
			r.build = "no word of why"
		}
	}
	return r, nil
}
