package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/leaktest"
	"github.com/hvkit/hvkit/internal/selfexec"
)

// asCommand in the environment has the test binary be hvkit: tests, and the demo in them, start processes of it.
const asCommand = "HVKIT_TEST_AS_COMMAND"

// patient is how long a test waits for what should happen soon.
const patient = 30 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	for _, name := range []string{"HVKIT_HOST", "HVKIT_DOMAIN", "HVKIT_TOKEN", "XENSTORED_PATH"} {
		os.Unsetenv(name)
	}
	dir, err := os.MkdirTemp("", "hvkit-test-")
	if err != nil {
		panic(err)
	}
	os.Setenv(asCommand, "1")
	os.Setenv("XDG_RUNTIME_DIR", dir)
	os.Setenv("TMPDIR", dir)
	code := leaktest.Run(m)
	left, err := os.ReadDir(dir)
	if code == 0 && (err != nil || len(left) > 0) {
		println("the tests left files in", dir)
		code = 1
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// text is an output that a test looks at while it is written.
type text struct {
	mu sync.Mutex
	// +checklocks:mu
	b bytes.Buffer
}

func (o *text) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *text) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until the output has a text.
func (o *text) await(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(o.String(), want) }, patient, time.Millisecond,
		"the output never had %q", want)
}

// hvkit runs a command in this process.
func hvkit(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs text
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	code = run(ctx, args, &streams{strings.NewReader(stdin), &out, &errs})
	return out.String(), errs.String(), code
}

// ok is hvkit for a command that must work, and say nothing on standard error.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := hvkit(t, "", args...)
	require.Equal(t, exitOK, code, stderr)
	require.Empty(t, stderr)
	return stdout
}

// process is a command in a process of its own.
type process struct {
	cmd         *exec.Cmd
	out, errs   text
	in          io.WriteCloser
	done        chan struct{}
	description string
}

// spawn starts a command in a process of its own.
func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	cmd, err := selfexec.Command(context.Background(), args...)
	require.NoError(t, err)
	p := &process{cmd: cmd, done: make(chan struct{}), description: strings.Join(args, " ")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// wait waits for the end of the process, and returns its exit code.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patient):
		p.cmd.Process.Signal(syscall.SIGQUIT) // which has it print its goroutines
		select {
		case <-p.done:
		case <-time.After(time.Second):
		}
		require.Fail(t, "hvkit "+p.description+" does not end", p.errs.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// commandsOf returns the full names of the commands that people see.
func commandsOf(t *testing.T) []string {
	parser, err := kong.New(&cli{}, kong.Vars{"version": "", "hostsocket": ""})
	require.NoError(t, err)
	var names []string
	for _, leaf := range parser.Model.Leaves(true) {
		names = append(names, commandName(strings.TrimPrefix(leaf.FullPath(), parser.Model.Name+" ")))
	}
	return names
}

func TestHelpHasExamples(t *testing.T) {
	commands := commandsOf(t)
	require.Len(t, commands, 22)
	for _, name := range commands {
		help := ok(t, append(strings.Fields(name), "--help")...)
		_, examples, found := strings.Cut(help, "Examples:")
		require.True(t, found, name)
		require.Contains(t, examples, "hvkit "+name, name)
		require.NotContains(t, help, "${", name)
	}
	require.NotContains(t, ok(t, "--help"), "worker")
	require.Contains(t, ok(t, "--version"), "hvkit")
}

func TestUsageErrors(t *testing.T) {
	for _, args := range []string{
		"", "nonsense", "host --nonsense", "vchan", "vchan dial one", "vchan listen", "vchan listen --ring many 5000", "demo --file /nowhere",
		"vchan listen --at-eof later 5000", "vchan listen --count 2 5000", "vchan proxy tcp:1.2.3.4:5 unix:/x", "vchan proxy vchan:a:b unix:/x",
		"vchan proxy vchan:a vchan:b", "xenstore", "xenstore read", "xenstore write /a", "xenstore chmod /a q1", "xenstored --quota nonsense=1",
		"bench --only nonsense", "doctor too much",
	} {
		t.Run(args, func(t *testing.T) {
			stdout, stderr, code := hvkit(t, "", strings.Fields(args)...)
			require.Equal(t, exitUsage, code, stderr)
			require.Empty(t, stdout)
			require.True(t, strings.HasPrefix(stderr, "hvkit: "), stderr)
			require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		})
	}
}

func TestNobodyThere(t *testing.T) {
	for _, args := range []string{
		"vchan dial --host /nowhere/host.sock server 5000", "vchan listen --host /nowhere/host.sock 5000",
		"xenstore --host /nowhere/host.sock ls",
		"xenstore --socket /nowhere/xs read /a", "xenstore --host /nowhere/host.sock --domain a read name",
	} {
		_, stderr, code := hvkit(t, "", strings.Fields(args)...)
		require.Equal(t, exitNobody, code, stderr)
		require.Contains(t, stderr, "/nowhere/")
		require.Contains(t, stderr, "hvkit host")
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
}

func TestFailureLine(t *testing.T) {
	require.Equal(t, "hvkit: xenstore read /a: gone", failureLine("xenstore read", errors.New("xenstore: read /a: gone")))
	require.Equal(t, "hvkit: vchan dial a:1: gone", failureLine("vchan dial", errors.New("dial a:1: gone")))
	require.Equal(t, "hvkit: host: one; two ?[31m", failureLine("host", errors.Join(errors.New("one"), errors.New("two \x1b[31m"))))
}

func TestExitCodes(t *testing.T) {
	ctx := context.Background()
	for err, want := range map[error]int{
		fs.ErrNotExist: exitFailure, errors.ErrUnsupported: exitUnsupported, usagef("x"): exitUsage,
		&nobodyError{"x", fs.ErrNotExist}: exitNobody,
	} {
		require.Equal(t, want, fail(ctx, io.Discard, "x", err))
	}
	interrupted, cancel := context.WithCancelCause(ctx)
	cancel(&interrupt{os.Interrupt})
	var said bytes.Buffer
	require.Equal(t, 130, fail(interrupted, &said, "x", context.Canceled))
	require.Empty(t, said.String())
}

func TestConventionalExec(t *testing.T) {
	got := conventional([]string{"-exec", "-exec2", "-exec=a", "--", "-exec"})
	require.Equal(t, []string{"--exec", "-exec2", "--exec=a", "--", "-exec"}, got)
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]byteSize{"0": 0, "4096": 4096, "64k": 64 << 10, "64KiB": 64 << 10, "1MB": 1 << 20, " 2G ": 2 << 30} {
		var got byteSize
		require.NoError(t, got.UnmarshalText([]byte(in)))
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "K", "-1", "1X", "1.5M", "99999999T", "B"} {
		require.Error(t, new(byteSize).UnmarshalText([]byte(in)), in)
	}
}
