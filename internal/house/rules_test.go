package house

import (
	"fmt"
	"go/ast"
	"go/doc"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// maxColumns is how many characters a line may have. A tab is one.
const maxColumns = 140

// badNames are names that say nothing about what is inside.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "misc"}

func TestUnsafeIsInFilesThatSayIt(t *testing.T) { report(t, checkUnsafe(readModule(t))) }
func TestNoCgo(t *testing.T)                    { report(t, checkCgo(readModule(t))) }
func TestNames(t *testing.T)                    { report(t, checkNames(readModule(t))) }
func TestPackageComments(t *testing.T)          { report(t, checkPackageComments(readModule(t))) }
func TestExamples(t *testing.T)                 { report(t, checkExamples(readModule(t))) }
func TestNoSleepingAndNoSkipping(t *testing.T)  { report(t, checkWaits(readModule(t))) }
func TestLeaksAreCounted(t *testing.T)          { report(t, checkLeaks(readModule(t))) }
func TestLines(t *testing.T)                    { report(t, checkLines(readModule(t))) }

// report fails the test with each thing that is wrong on a line of its own.
func report(t *testing.T, wrong []string) {
	t.Helper()
	for _, w := range wrong {
		t.Error(w)
	}
}

func checkUnsafe(files []*source) []string {
	return each(files, func(s *source) string {
		if slices.Contains(s.imports(), "unsafe") && !strings.Contains(s.name, "unsafe") {
			return "imports unsafe, and its name does not contain unsafe"
		}
		return ""
	})
}

func checkCgo(files []*source) []string {
	return each(files, func(s *source) string {
		if slices.Contains(s.imports(), "C") {
			return "uses cgo"
		}
		return ""
	})
}

func checkNames(files []*source) []string {
	return each(files, func(s *source) string {
		stem := strings.TrimSuffix(s.name, ".go")
		for _, suffix := range []string{"_test", "_amd64", "_arm64", "_linux", "_other", "_unsafe"} {
			stem = strings.TrimSuffix(stem, suffix)
		}
		for _, name := range append(strings.Split(s.dir, "/"), s.file.Name.Name, stem) {
			if slices.Contains(badNames, name) {
				return fmt.Sprintf("the name %q says nothing about what is inside", name)
			}
		}
		return ""
	})
}

// checkPackageComments wants one comment on the package clause in each package, in the form that godoc expects.
func checkPackageComments(files []*source) []string {
	return eachPackage(files, func(dir string, files []*source) string {
		for _, s := range files {
			if s.file.Doc == nil {
				continue
			}
			text := s.file.Doc.Text()
			if s.file.Name.Name == "main" || strings.HasPrefix(text, "Package "+s.file.Name.Name+" ") {
				return ""
			}
		}
		return "has no package comment (\"// Package " + path.Base(dir) + " ...\")"
	})
}

// checkExamples wants a runnable example, one with an Output comment, in each package that users import.
func checkExamples(files []*source) []string {
	return eachPackage(files, func(dir string, files []*source) string {
		if !isPublic(dir, files) {
			return ""
		}
		var tests []*ast.File
		for _, s := range files {
			if s.isTest() {
				tests = append(tests, s.file)
			}
		}
		for _, e := range doc.Examples(tests...) {
			if e.Output != "" || e.EmptyOutput {
				return ""
			}
		}
		return "has no Example with an Output comment"
	})
}

// isPublic reports whether users of the module import the package: it is neither internal, nor a command, nor a package of tests.
func isPublic(dir string, files []*source) bool {
	if isTestPackage(dir) || slices.Contains(strings.Split(dir, "/"), "internal") || matchesAny(dir, []string{"cmd/...", "examples/..."}) {
		return false
	}
	return slices.ContainsFunc(files, func(s *source) bool { return !s.isTest() && s.file.Name.Name != "main" })
}

// checkWaits wants no test, and no package of tests, that sleeps in place of waiting for something, or skips without saying why.
func checkWaits(files []*source) []string {
	var wrong []string
	for _, s := range files {
		if !s.isTest() && !isTestPackage(s.dir) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			on, _ := sel.X.(*ast.Ident)
			switch {
			case on != nil && on.Name == "time" && sel.Sel.Name == "Sleep":
				wrong = append(wrong, s.line(n)+": sleeps; poll with a deadline, or use testing/synctest")
			case sel.Sel.Name == "SkipNow", sel.Sel.Name == "Skip" && len(call.Args) == 0 && on != nil && len(on.Name) == 1:
				wrong = append(wrong, s.line(n)+": skips without saying why")
			}
			return true
		})
	}
	return wrong
}

// checkLeaks wants each package of tests to count the goroutines and descriptors that they leave. The testbed's hosts stay until its tests
// have ended.
func checkLeaks(files []*source) []string {
	return eachPackage(files, func(dir string, files []*source) string {
		tests := slices.DeleteFunc(slices.Clone(files), func(s *source) bool { return !s.isTest() })
		counts := func(s *source) bool { return slices.Contains(s.imports(), module+"/internal/leaktest") }
		if len(tests) == 0 || dir == "internal/leaktest" || dir == "internal/testbed" || slices.ContainsFunc(tests, counts) {
			return ""
		}
		return "does not count what its tests leave behind (leaktest.Main)"
	})
}

// checkLines wants lines that fit a screen, and no notes of work that is not done.
func checkLines(files []*source) []string {
	var wrong []string
	unfinished := []string{"TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK"}
	for _, s := range files {
		for i, line := range strings.Split(s.text, "\n") {
			if n := utf8.RuneCountInString(line); n > maxColumns {
				wrong = append(wrong, fmt.Sprintf("%s:%d: %d characters; %d are enough", s.path(), i+1, n, maxColumns))
			}
			for _, note := range unfinished {
				if strings.Contains(line, note) {
					wrong = append(wrong, fmt.Sprintf("%s:%d: %s", s.path(), i+1, note))
				}
			}
		}
	}
	return wrong
}

// each returns what check finds wrong with files.
func each(files []*source, check func(*source) string) []string {
	var wrong []string
	for _, s := range files {
		if reason := check(s); reason != "" {
			wrong = append(wrong, s.path()+": "+reason)
		}
	}
	return wrong
}

// eachPackage returns what check finds wrong with packages.
func eachPackage(files []*source, check func(dir string, files []*source) string) []string {
	var wrong []string
	dirs, in := packages(files)
	for _, dir := range dirs {
		if reason := check(dir, in[dir]); reason != "" {
			wrong = append(wrong, "package "+path.Join(module, dir)+": "+reason)
		}
	}
	return wrong
}

func TestRulesCanFail(t *testing.T) {
	long := "// " + strings.Repeat("x", maxColumns)
	for _, c := range []struct {
		check      func([]*source) []string
		file, text string
		wrong      int
	}{
		{checkUnsafe, "shm/page.go", "package shm\nimport \"unsafe\"\n", 1},
		{checkUnsafe, "shm/page_unsafe.go", "package shm\nimport \"unsafe\"\n", 0},
		{checkUnsafe, "shm/page_test.go", "package shm\nimport _ \"unsafe\"\n", 1},
		{checkCgo, "shm/page.go", "package shm\nimport \"C\"\n", 1},
		{checkNames, "xen/util/x.go", "package util\n", 1},
		{checkNames, "xen/x.go", "package common\n", 1},
		{checkNames, "xen/helpers_linux.go", "package xen\n", 1},
		{checkNames, "xen/domain.go", "package xen\n", 0},
		{checkNames, "xen/common_fields.go", "package xen\n", 0},
		{checkPackageComments, "xen/x.go", "package xen\n", 1},
		{checkPackageComments, "xen/x.go", "// Package xen is.\npackage xen\n", 0},
		{checkPackageComments, "xen/x.go", "// Some words.\npackage xen\n", 1},
		{checkExamples, "xen/x.go", "package xen\n", 1},
		{checkExamples, "internal/x/x.go", "package x\n", 0},
		{checkExamples, "xen/xentest/x.go", "package xentest\n", 0},
		{checkExamples, "tool/x.go", "package main\n", 0},
		{checkWaits, "xen/x_test.go", "package xen\nfunc f() { time.Sleep(1) }\n", 1},
		{checkWaits, "xen/x.go", "package xen\nfunc f() { time.Sleep(1) }\n", 0},
		{checkWaits, "xen/xentest/x.go", "package xentest\nfunc f() { time.Sleep(1) }\n", 1},
		{checkWaits, "xen/x_test.go", "package xen\nfunc f() { t.Skip() }\n", 1},
		{checkWaits, "xen/x_test.go", "package xen\nfunc f() { t.SkipNow() }\n", 1},
		{checkWaits, "xen/x_test.go", "package xen\nfunc f() { t.Skip(\"needs /dev/xen\") }\n", 0},
		{checkLeaks, "xen/x_test.go", "package xen\n", 1},
		{checkLeaks, "xen/x_test.go", "package xen\nimport \"" + module + "/internal/leaktest\"\n", 0},
		{checkLeaks, "xen/x.go", "package xen\n", 0},
		{checkLines, "xen/x.go", "package xen\n" + long + "\n", 1},
		{checkLines, "xen/x.go", "package xen\n// TO" + "DO: think\n", 1},
		{checkLines, "xen/x.go", "package xen\n", 0},
	} {
		s, err := parse(c.file, c.text)
		require.NoError(t, err)
		require.Len(t, c.check([]*source{s}), c.wrong, "%s:\n%s", c.file, c.text)
	}
	public, err := parse("xen/x.go", "package xen\n")
	require.NoError(t, err)
	example, err := parse("xen/example_test.go", "package xen_test\nfunc Example() {\n\t// Output: x\n}\n")
	require.NoError(t, err)
	require.Empty(t, checkExamples([]*source{public, example}))
	silent, err := parse("xen/example_test.go", "package xen_test\nfunc Example() {\n}\n")
	require.NoError(t, err)
	require.Len(t, checkExamples([]*source{public, silent}), 1, "an example that is not run")
}
