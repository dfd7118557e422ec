package catalogue

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What go test -json says decides; only a test that ran and failed is a catch.
func TestJudge(t *testing.T) {
	row := &Patch{Row: "V-07", Package: "./x", Test: "TestV07_X"}
	bug := &Patch{Bug: "lost-wakeup", Package: "./x", Test: "TestV07_X"}
	const run = `{"Action":"start","Package":"x"}{"Action":"run","Package":"x","Test":"TestV07_X"}`
	const fail = `{"Action":"fail","Package":"x","Test":"TestV07_X"}{"Action":"fail","Package":"x"}`
	const found = `{"Action":"output","Package":"x","Test":"TestV07_X","Output":"    x.go:1: found after 12 runs\n"}`
	for _, c := range []struct {
		what   string
		patch  *Patch
		events string
		how    string // of a catch or a miss; "" where nothing is proved
		caught bool
		err    string
		runs   int
	}{
		{"failed", row, run + fail, "failed", true, "", 0},
		{"a subtest failed", row, run + `{"Action":"fail","Package":"x","Test":"TestV07_X/a"}` + fail, "failed", true, "", 0},
		{"panicked", row, run + `{"Action":"output","Package":"x","Test":"TestV07_X","Output":"panic: x\n"}{"Action":"fail","Package":"x"}`,
			"panicked", true, "", 0},
		{"hung", row, run + `{"Action":"output","Package":"x","Test":"TestV07_X","Output":"panic: test timed out after 60s\n"}` +
			`{"Action":"fail","Package":"x"}`, "ran into the time limit", true, "", 0},
		{"hung in a subtest", row, run + `{"Action":"run","Package":"x","Test":"TestV07_X/a"}` +
			`{"Action":"output","Package":"x","Test":"TestV07_X/a","Output":"panic: test timed out after 60s\n"}` +
			`{"Action":"fail","Package":"x"}`, "ran into the time limit", true, "", 0},
		{"exited", row, run + `{"Action":"fail","Package":"x"}`, "failed", true, "", 0},
		{"passed", row, run + `{"Action":"pass","Package":"x","Test":"TestV07_X"}{"Action":"pass","Package":"x"}`,
			"the test passed", false, "", 0},
		{"passed, and then TestMain failed", row, run + `{"Action":"pass","Package":"x","Test":"TestV07_X"}{"Action":"fail","Package":"x"}`,
			"the test passed, and only its package failed afterwards", false, "", 0},
		{"skipped", row, run + `{"Action":"skip","Package":"x","Test":"TestV07_X"}{"Action":"pass","Package":"x"}`, "", false, "skipped", 0},
		{"no such test", row, `{"Action":"output","Package":"x","Output":"testing: warning: no tests to run\n"}{"Action":"pass","Package":"x"}`,
			"", false, "no TestV07_X that runs", 0},
		{"another test failed", row, strings.ReplaceAll(run+fail, "V07_X", "V07_XY"), "", false, "no TestV07_X that runs", 0},
		{"TestMain failed before", row, `{"Action":"start","Package":"x"}{"Action":"fail","Package":"x"}`, "", false, "no TestV07_X", 0},
		{"does not build", row, `{"ImportPath":"x","Action":"build-output","Output":"undefined: y\n"}{"ImportPath":"x","Action":"build-fail"}` +
			`{"Action":"fail","Package":"x","FailedBuild":"x"}`, "", false, "undefined: y", 0},
		{"does not build, says no more", row, `{"Action":"fail","Package":"x","FailedBuild":"x"}`, "", false, "does not build", 0},
		{"bug found", bug, run + found + fail, "failed", true, "", 12},
		{"bug found by what does not count", bug, run + fail, "", false, "found after N runs", 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			r, err := parseEvents(strings.NewReader(c.events))
			require.NoError(t, err)
			o, err := c.patch.judge(r)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.caught, o.Caught)
			require.Equal(t, c.how, o.How)
			require.Equal(t, c.runs, o.Runs)
		})
	}
	_, err := parseEvents(strings.NewReader("flag provided but not defined"))
	require.Error(t, err)
}

// A module of one file goes through the go command itself.
func TestCheck(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil || os.Getenv("HVKIT_EMULATOR") != "" {
		t.Skip("needs a go command that builds what runs here")
	}
	t.Setenv("GOFLAGS", "")
	root := t.TempDir()
	const source = "package x\n\nfunc limit() int {\n\treturn 1\n}\n\nvar _ = limit\n"
	const tests = "package x\n\nimport \"testing\"\n\nfunc TestV07_X(t *testing.T) {\n\tif limit() != 1 {\n\t\tt.Fatal(limit())\n\t}\n}\n"
	for name, text := range map[string]string{"go.mod": "module x\n\ngo 1.26\n", "x.go": source, "x_test.go": tests} {
		require.NoError(t, os.WriteFile(root+"/"+name, []byte(text), 0o600))
	}
	check := func(with string) (Outcome, error) {
		p, err := ParsePatch("V-07", "Row: V-07\nTest: . TestV07_X\nRemoves: it\n\n--- x.go\n@@\n-\treturn 1\n"+with)
		require.NoError(t, err)
		require.NoError(t, CheckUnpatched(t.Context(), root, []*Patch{p}))
		return p.Check(t.Context(), root)
	}
	o, err := check("+\treturn 2\n")
	require.NoError(t, err)
	require.True(t, o.Caught)
	require.Equal(t, "failed", o.How)
	o, err = check("+\treturn 2 - 1\n")
	require.NoError(t, err)
	require.False(t, o.Caught)
	_, err = check("+\treturn \"\"\n")
	require.ErrorContains(t, err, "does not build")
	left, err := os.ReadFile(root + "/x.go")
	require.NoError(t, err)
	require.Equal(t, source, string(left), "the tree is as it was")

	p, err := ParsePatch("V-08", "Row: V-08\nTest: . TestV08_X\nRemoves: it\n\n--- x.go\n@@\n-\treturn 1\n+\treturn 2\n")
	require.NoError(t, err)
	require.ErrorContains(t, CheckUnpatched(t.Context(), root, []*Patch{p}), "TestV08_X")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Check(ctx, root)
	require.ErrorIs(t, err, context.Canceled)
}
