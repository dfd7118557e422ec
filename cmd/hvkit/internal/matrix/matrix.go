// Package matrix turns what the testbed's tests came to into a table for a page: suites down, kinds of domains across.
package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Begin and End are the lines of a page between which the table is.
const (
	Begin = "<!-- made by hvkit testbed matrix -->"
	End   = "<!-- end of what it made -->"
)

// Result is a test.
type Result struct {
	Name    string // with its parents': TestAMD64/dom0/Grants/TestLinuxConformance/...
	Action  string // pass, fail or skip; "" where it did not end
	Seconds float64
	Notes   []string // what it wrote after "version: "
}

// event is one of those that go test -json writes.
type event struct {
	Action  string
	Test    string
	Output  string
	Elapsed float64
}

// Read reads what go test -json writes. progress is told of each test of the upper three levels that ends.
func Read(r io.Reader, progress func(line string)) ([]*Result, error) {
	var all []*Result
	byName := make(map[string]*Result)
	for dec := json.NewDecoder(r); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return all, err
		}
		if e.Test == "" {
			continue
		}
		t := byName[e.Test]
		if t == nil {
			t = &Result{Name: e.Test}
			byName[e.Test], all = t, append(all, t)
		}
		switch e.Action {
		case "output":
			if _, note, ok := strings.Cut(e.Output, "version: "); ok {
				t.Notes = append(t.Notes, strings.TrimSpace(note))
			}
		case "pass", "fail", "skip":
			t.Action, t.Seconds = e.Action, e.Elapsed
			if strings.Count(e.Test, "/") < 3 {
				progress(fmt.Sprintf("%-4s  %s  %.0f s", e.Action, e.Test, e.Elapsed))
			}
		}
	}
}

// Failed returns how many tests failed or did not end, leaving out those whose subtests did.
func Failed(all []*Result) int {
	c := new(count)
	for _, r := range leaves(all) {
		c.add(r)
	}
	return c.failed
}

// leaves are the tests that have no subtests.
func leaves(all []*Result) []*Result {
	parent := make(map[string]bool)
	for _, r := range all {
		for i, c := range r.Name {
			if c == '/' {
				parent[r.Name[:i]] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(r *Result) bool { return parent[r.Name] })
}

// count is what tests came to.
type count struct{ passed, failed, skipped int }

func (c *count) add(r *Result) {
	switch r.Action {
	case "pass":
		c.passed++
	case "skip":
		c.skipped++
	default:
		c.failed++
	}
}

func (c *count) String() string {
	if c == nil {
		return ""
	}
	s := fmt.Sprint(c.passed)
	if c.failed > 0 {
		s += fmt.Sprintf(", **%d failed**", c.failed)
	}
	if c.skipped > 0 {
		s += fmt.Sprintf(", %d skipped", c.skipped)
	}
	return s
}

// hosts are the tests of suites, and what their hosts are called.
var hosts = []struct{ test, name string }{{"TestAMD64", "x86-64"}, {"TestARM64", "arm64"}}

// place says which column and which row of the table a test counts in. Tests that are not of a suite have none.
func place(name string) (column, row string, ok bool) {
	parts := strings.Split(name, "/")
	for _, h := range hosts {
		if parts[0] == h.test && len(parts) > 2 {
			return h.name + " " + parts[1], parts[2], true
		}
	}
	return "", "", false
}

// Table is the table, and a list of the tests that are not of a suite.
func Table(all []*Result, now time.Time, long bool) []byte {
	var columns, rows, others []string
	cells, rest := make(map[[2]string]*count), make(map[string]*count)
	note := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, r := range leaves(all) {
		column, row, ok := place(r.Name)
		if !ok {
			top := strings.Join(strings.SplitN(r.Name, "/", 3)[:min(2, 1+strings.Count(r.Name, "/"))], ", ")
			note(&others, top)
			if rest[top] == nil {
				rest[top] = new(count)
			}
			rest[top].add(r)
			continue
		}
		note(&columns, column)
		note(&rows, row)
		at := [2]string{column, row}
		if cells[at] == nil {
			cells[at] = new(count)
		}
		cells[at].add(r)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "On %s", now.UTC().Format(time.DateOnly))
	for _, r := range all {
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "; %s", n)
		}
	}
	if long {
		b.WriteString("; with the long flags")
	}
	b.WriteString(". The figures are tests that passed.\n\n")
	if len(rows) > 0 {
		fmt.Fprintf(&b, "| suite | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, row := range rows {
			fmt.Fprintf(&b, "| %s |", row)
			for _, column := range columns {
				fmt.Fprintf(&b, " %v |", cells[[2]string{column, row}])
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	if len(others) > 0 {
		b.WriteString("| beside the suites | |\n|---|---|\n")
		for _, name := range others {
			fmt.Fprintf(&b, "| %s | %v |\n", name, rest[name])
		}
		b.WriteString("\n")
	}
	return b.Bytes()
}
