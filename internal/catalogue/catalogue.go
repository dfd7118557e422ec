package catalogue

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Catalogue is everything that is known of the module's rows.
type Catalogue struct {
	Sections []Section
	Tests    []Func
	Patches  []*Patch
	Record   Record

	withoutTest, withoutPatch []string // rows that wait
}

// Load reads the module below root.
func Load(root fs.FS) (*Catalogue, error) {
	c := &Catalogue{Sections: Sections(), withoutTest: withoutTestYet, withoutPatch: withoutPatchYet}
	var err error
	if c.Tests, err = ReadTests(root); err != nil {
		return nil, err
	}
	if c.Patches, err = ReadPatches(root); err != nil {
		return nil, err
	}
	c.Record, err = ReadRecord(root)
	return c, err
}

// testsOf returns the row's tests.
func (c *Catalogue) testsOf(id string) []Func {
	var tests []Func
	for _, t := range c.Tests {
		if strings.HasPrefix(t.Name, TestPrefix(id)) {
			tests = append(tests, t)
		}
	}
	return tests
}

// PatchesOf returns the patches of the row with that id, or of the planted bug with that name.
func (c *Catalogue) PatchesOf(name string) []*Patch {
	return c.patchesThat(func(p *Patch) bool { return name != "" && (p.Row == name || p.Bug == name) })
}

// Unproved returns the patches that were not caught as they are today.
func (c *Catalogue) Unproved() []*Patch {
	return c.patchesThat(func(p *Patch) bool { return !c.Record.Proved(p) })
}

// Part returns every n-th patch from the k-th on, counted around: the n parts, for n successive k, are all patches.
func (c *Catalogue) Part(k, n uint64) []*Patch {
	i := uint64(0)
	return c.patchesThat(func(*Patch) bool {
		i++
		return (i-1)%n == k%n
	})
}

func (c *Catalogue) patchesThat(match func(*Patch) bool) []*Patch {
	var patches []*Patch
	for _, p := range c.Patches {
		if match(p) {
			patches = append(patches, p)
		}
	}
	return patches
}

// rows returns the rows of all sections, by their ids.
func (c *Catalogue) rows() map[string]Row {
	rows := make(map[string]Row)
	for _, s := range c.Sections {
		for _, r := range s.Rows {
			rows[r.ID] = r
		}
	}
	return rows
}

// CheckRows returns what is wrong with the rows themselves and with the tests and patches that they have, or lack.
func (c *Catalogue) CheckRows() []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	seen := make(map[string]bool)
	for _, s := range c.Sections {
		for _, r := range s.Rows {
			if seen[r.ID] {
				complain("%s: twice", r.ID)
			}
			seen[r.ID] = true
			if !idForm.MatchString(r.ID) || r.Attack == "" || strings.ContainsAny(r.Attack+r.Source+r.NoTest+r.NoPatch, "|\n") {
				complain("%s: a row has an id of the form V-07 and words that fit a table", r.ID)
			}
			wrong = append(wrong, c.checkRow(r)...)
		}
	}
	for _, id := range slices.Concat(c.withoutTest, c.withoutPatch) {
		if !seen[id] {
			complain("%s waits for a test or a patch, and is no row", id)
		}
	}
	return append(wrong, c.checkTests(seen)...)
}

// checkRow returns what is wrong with one row.
func (c *Catalogue) checkRow(r Row) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, r.ID+": "+fmt.Sprintf(format, args...)) }
	tests, patches := c.testsOf(r.ID), c.PatchesOf(r.ID)
	if slices.Contains(c.withoutTest, r.ID) {
		switch {
		case len(tests) > 0:
			complain("has the test %s: take it off the list of rows without one", tests[0].Name)
		case r.NoTest != "":
			complain("has a reason for having no test: take it off the list of rows without one")
		}
		return wrong
	}
	switch {
	case len(tests) == 0 && r.NoTest == "":
		complain("no test is called %s..., and no reason is given", TestPrefix(r.ID))
	case len(tests) > 0 && r.NoTest != "":
		complain("has the test %s, and a reason why it has none", tests[0].Name)
	}
	waits := slices.Contains(c.withoutPatch, r.ID)
	switch {
	case len(patches) > 0 && r.NoPatch != "":
		complain("has the patch %s, and a reason why it has none", patches[0].Name)
	case waits && (len(patches) > 0 || r.NoPatch != "" || len(tests) == 0):
		complain("does not wait for a patch: take it off the list of rows without one")
	case len(tests) > 0 && len(patches) == 0 && r.NoPatch == "" && !waits:
		complain("has a test, but neither a patch that takes the defence away nor a reason why there is none to take away")
	}
	return wrong
}

// checkTests returns the tests that are named after no row, or not quite after one.
func (c *Catalogue) checkTests(rows map[string]bool) []string {
	var wrong []string
	for _, t := range c.Tests {
		id, wellFormed := rowOf(t.Name)
		switch {
		case id == "":
		case wellFormed && !rows[id]:
			wrong = append(wrong, fmt.Sprintf("%s: %s is named after %s, which is no row", t.Path(), t.Name, id))
		case !wellFormed && rows[id] && !slices.Contains(c.withoutTest, id):
			wrong = append(wrong, fmt.Sprintf("%s: %s: a test of %s begins with %s", t.Path(), t.Name, id, TestPrefix(id)))
		}
	}
	return wrong
}

// CheckPatches returns which patches do not fit the source below root, or name a row or test that is not there.
func (c *Catalogue) CheckPatches(root fs.FS) []string {
	rows := c.rows()
	var wrong []string
	for _, p := range c.Patches {
		complain := func(format string, args ...any) { wrong = append(wrong, p.Path()+": "+fmt.Sprintf(format, args...)) }
		if _, ok := rows[p.Row]; !ok && p.Bug == "" {
			complain("%s is no row", p.Row)
		}
		if !slices.ContainsFunc(c.Tests, func(f Func) bool { return f.Name == p.Test && f.Package() == p.Package }) {
			complain("%s has no %s", p.Package, p.Test)
		}
		changed, err := p.Apply(root)
		if err != nil {
			complain("%v", err)
			continue
		}
		for _, file := range slices.Sorted(maps.Keys(changed)) {
			if _, err := parser.ParseFile(token.NewFileSet(), file, changed[file], parser.SkipObjectResolution); err != nil {
				complain("what it makes is not Go: %v", err)
			}
		}
	}
	return wrong
}

// CheckRecord returns the patches that were not caught as they are today, and those that the record speaks of and that are gone.
func (c *Catalogue) CheckRecord() []string {
	var wrong []string
	there := make(map[string]bool)
	for _, p := range c.Patches {
		there[p.Path()] = true
		if !c.Record.Proved(p) {
			wrong = append(wrong, p.Path()+": was not caught since it was changed: run \"go run ./internal/catalogue/check -new -write\"")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(c.Record)) {
		if !there[path] {
			wrong = append(wrong, path+": is gone, but stands in "+recordFile)
		}
	}
	return wrong
}
