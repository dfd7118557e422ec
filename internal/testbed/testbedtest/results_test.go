package testbedtest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/hvkit/hvkit/internal/selfexec"
	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/stretchr/testify/require"
)

// inside is what a test binary with -test.v=test2json writes. Byte 0x16 marks lines of package testing.
const inside = "\x16=== RUN   TestA\n" +
	"hello from A\n" +
	"\x16=== RUN   TestA/x\n" +
	"    a_test.go:5: in x\n" +
	"\x16=== RUN   TestA/x/deep\n" +
	"\x16--- PASS: TestA/x/deep (0.00s)\n" +
	"\x16=== NAME  TestA/x\n" +
	"\x16--- PASS: TestA/x (0.00s)\n" +
	"\x16=== NAME  TestA\n" +
	"\x16--- PASS: TestA (0.01s)\n" +
	"\x16=== NAME  \n" +
	"\x16=== RUN   TestB\n" +
	"\x16=== RUN   TestB/no/test\n" +
	"\x16--- PASS: TestB/no/test (0.00s)\n" +
	"\x16=== NAME  TestB\n" +
	"    b_test.go:7: no device\n" +
	"\x16--- SKIP: TestB (0.00s)\n" +
	"\x16=== NAME  \n" +
	"\x16=== RUN   TestC\n"

// The ends of TestC, and of the binary.
const (
	passed = "    c_test.go:9: fine\n\x16--- PASS: TestC (0.00s)\n\x16=== NAME  \n\x16PASS\n"
	failed = "    c_test.go:9: broken\n\x16--- FAIL: TestC (0.00s)\n\x16=== NAME  \n\x16FAIL\n"
)

func parse(t *testing.T, text string) *run {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("test2json is the go command's: ", err)
	}
	r := newRun()
	w, done := toEvents(t.Context(), r)
	_, err := io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, <-done)
	return r
}

func TestResults(t *testing.T) {
	r := parse(t, inside+failed)
	require.Len(t, r.top.sub, 3)
	a := r.tests["TestA"]
	require.Equal(t, "pass", a.action)
	require.Equal(t, "hello from A\n", a.output.String())
	require.Len(t, a.sub, 1)
	require.Equal(t, "x", a.sub[0].name)
	require.Equal(t, "deep", a.sub[0].sub[0].name)
	require.Equal(t, "pass", a.sub[0].sub[0].action)
	require.Equal(t, "skip", r.tests["TestB"].action)
	require.Equal(t, "fail", r.tests["TestC"].action)
	require.Contains(t, r.tests["TestC"].output.String(), "broken")
}

// asReporter in the environment has the test binary report results, some of which fail.
const asReporter = "HVKIT_TEST_AS_REPORTER"

func TestReporter(t *testing.T) {
	var err error
	text := inside + passed
	switch os.Getenv(asReporter) {
	case "pass":
	case "fail":
		text = inside + failed
		err = errors.New("exit status 1")
	case "crash":
		text = inside + "panic: no memory\n"
		err = errors.New("exit status 2")
	case "early":
		text = "cannot execute\n"
		err = errors.New("exit status 126")
	case "nothing":
		text = "PASS\n"
	default:
		t.Skip("it is what TestReport starts")
	}
	parse(t, text).report(t, err)
}

// What fails, is skipped or does not end inside does so outside.
func TestReport(t *testing.T) {
	for mode, want := range map[string][]string{
		"pass": {"--- PASS: TestReporter/TestA/x/deep", "hello from A", "--- SKIP: TestReporter/TestB", "no device",
			"--- PASS: TestReporter/TestB/no/test", "--- PASS: TestReporter/TestC"},
		"fail":    {"--- FAIL: TestReporter/TestC", "broken", "--- PASS: TestReporter/TestA"},
		"crash":   {"--- FAIL: TestReporter/TestC", "did not end inside", "no memory"},
		"early":   {"--- FAIL: TestReporter", "exit status 126", "cannot execute"},
		"nothing": {"--- FAIL: TestReporter", "no test ran inside"},
	} {
		cmd, err := selfexec.Command(t.Context(), "-test.run=^TestReporter$", "-test.v")
		require.NoError(t, err)
		cmd.Env = append(os.Environ(), asReporter+"="+mode)
		out, err := cmd.CombinedOutput()
		require.Equal(t, mode == "pass", err == nil, "%s: %v\n%s", mode, err, out)
		for _, w := range want {
			require.Contains(t, string(out), w, mode)
		}
	}
}

func TestNeed(t *testing.T) {
	for value, want := range map[string]string{"": "--- SKIP", "1": "--- PASS", "require": "--- PASS", "yes": "--- FAIL"} {
		cmd, err := selfexec.Command(t.Context(), "-test.run=^TestNeeder$", "-test.v")
		require.NoError(t, err)
		cmd.Env = append(os.Environ(), Env+"="+value, asReporter+"=need")
		out, _ := cmd.CombinedOutput()
		require.Contains(t, string(out), want, value)
	}
}

func TestNeeder(t *testing.T) {
	if os.Getenv(asReporter) != "need" {
		t.Skip("it is what TestNeed starts")
	}
	Need(t)
}

// Where packages cannot be had a test is skipped, or fails if none may be.
func TestHostThatCannotBe(t *testing.T) {
	for value, want := range map[string]string{"1": "--- SKIP", "require": "--- FAIL"} {
		cmd, err := selfexec.Command(t.Context(), "-test.run=^TestHoster$", "-test.v")
		require.NoError(t, err)
		cmd.Env = append(os.Environ(), Env+"="+value, asReporter+"=host", "PATH="+t.TempDir(), testbed.EnvCache+"="+t.TempDir())
		out, _ := cmd.CombinedOutput()
		require.Contains(t, string(out), want, value)
		require.Contains(t, string(out), "apt-get")
	}
}

func TestHoster(t *testing.T) {
	if os.Getenv(asReporter) != "host" {
		t.Skip("it is what TestHostThatCannotBe starts")
	}
	Host(t, testbed.XenAMD64)
}
