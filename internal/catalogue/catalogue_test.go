package catalogue

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func load(t *testing.T) (*Catalogue, string) {
	t.Helper()
	root, err := Root()
	require.NoError(t, err)
	c, err := Load(os.DirFS(root))
	require.NoError(t, err)
	return c, root
}

// report fails the test with each thing that is wrong on a line of its own.
func report(t *testing.T, wrong []string) {
	t.Helper()
	for _, w := range wrong {
		t.Error(w)
	}
}

// Every row has a test or a reason, every test of a row has a defence to take away or a reason, and no test is named after nothing.
func TestEveryRowIsAnswered(t *testing.T) {
	c, _ := load(t)
	report(t, c.CheckRows())
}

// Every patch fits today's source and names a test that there is.
func TestEveryPatchApplies(t *testing.T) {
	c, root := load(t)
	report(t, c.CheckPatches(os.DirFS(root)))
}

// Every patch was caught, as it is today.
func TestEveryPatchWasCaught(t *testing.T) {
	c, _ := load(t)
	report(t, c.CheckRecord())
}

// The pages are what the rows, the tests and the record make.
func TestPages(t *testing.T) {
	c, root := load(t)
	report(t, c.CheckPages(os.DirFS(root)))
}

// What a catalogue can have wrong is found.
func TestChecksCanFail(t *testing.T) {
	for _, c := range []struct {
		what       string
		rows       []Row
		tests      []string
		patches    []string // ids of rows
		noTestYet  []string
		noPatchYet []string
		wrong      string // "" for nothing
	}{
		{what: "whole", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01_X"}, patches: []string{"V-01"}},
		{what: "two tests", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01_X", "TestV01_Y"}, patches: []string{"V-01"}},
		{what: "reason for no test", rows: []Row{{ID: "V-01", Attack: "x", NoTest: "r"}}},
		{what: "reason for no patch", rows: []Row{{ID: "V-01", Attack: "x", NoPatch: "r"}}, tests: []string{"TestV01_X"}},
		{what: "waiting", rows: []Row{{ID: "V-01", Attack: "x"}}, noTestYet: []string{"V-01"}},
		{what: "waiting, test without the underscore", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01X"},
			noTestYet: []string{"V-01"}},
		{what: "other tests", tests: []string{"TestX", "TestE2E_X", "TestUTF8_X"}},
		{what: "twice", rows: []Row{{ID: "V-01", Attack: "x", NoTest: "r"}, {ID: "V-01", Attack: "y", NoTest: "r"}}, wrong: "twice"},
		{what: "id", rows: []Row{{ID: "V1", Attack: "x", NoTest: "r"}}, wrong: "of the form"},
		{what: "bar", rows: []Row{{ID: "V-01", Attack: "x|y", NoTest: "r"}}, wrong: "fit a table"},
		{what: "no test", rows: []Row{{ID: "V-01", Attack: "x"}}, wrong: "no test is called TestV01_"},
		{what: "no underscore", rows: []Row{{ID: "V-01", Attack: "x", NoTest: "r"}}, tests: []string{"TestV01X"}, wrong: "begins with TestV01_"},
		{what: "stale reason", rows: []Row{{ID: "V-01", Attack: "x", NoTest: "r"}}, tests: []string{"TestV01_X"}, patches: []string{"V-01"},
			wrong: "a reason why it has none"},
		{what: "stale reason for no patch", rows: []Row{{ID: "V-01", Attack: "x", NoPatch: "r"}}, tests: []string{"TestV01_X"},
			patches: []string{"V-01"}, wrong: "has the patch"},
		{what: "no patch", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01_X"}, wrong: "neither a patch"},
		{what: "unknown row", tests: []string{"TestV02_X"}, wrong: "which is no row"},
		{what: "need not wait for a test", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01_X"}, patches: []string{"V-01"},
			noTestYet: []string{"V-01"}, wrong: "take it off the list of rows without one"},
		{what: "need not wait, has a reason", rows: []Row{{ID: "V-01", Attack: "x", NoTest: "r"}}, noTestYet: []string{"V-01"},
			wrong: "take it off the list of rows without one"},
		{what: "need not wait for a patch", rows: []Row{{ID: "V-01", Attack: "x"}}, tests: []string{"TestV01_X"}, patches: []string{"V-01"},
			noPatchYet: []string{"V-01"}, wrong: "does not wait for a patch"},
		{what: "nothing waits", noTestYet: []string{"V-09"}, wrong: "is no row"},
	} {
		cat := &Catalogue{Sections: []Section{{"x", c.rows}}, withoutTest: c.noTestYet, withoutPatch: c.noPatchYet}
		for _, name := range c.tests {
			cat.Tests = append(cat.Tests, Func{Name: name, Dir: "x", File: "x_test.go"})
		}
		for _, id := range c.patches {
			cat.Patches = append(cat.Patches, &Patch{Name: id, Row: id})
		}
		got := cat.CheckRows()
		if c.wrong == "" {
			require.Empty(t, got, c.what)
			continue
		}
		require.Len(t, got, 1, c.what)
		require.Contains(t, got[0], c.wrong, c.what)
	}
}

const smallPatch = "Row: V-07\nTest: ./x TestV07_X\nRemoves: it\n\n--- x/a.go\n@@\n-var a = 1\n+var a = 2\n"

// smallModule is a module with one row's test, and a patch.
func smallModule() fstest.MapFS {
	return fstest.MapFS{
		"go.mod":                        {Data: []byte("module " + module + "\n")},
		"x/a.go":                        {Data: []byte("package x\n\nvar a = 1\n")},
		"x/a_test.go":                   {Data: []byte("package x\n\nfunc TestV07_X(t *testing.T) {}\n")},
		defencesDir + "/V-07.patch":     {Data: []byte(smallPatch)},
		"x/testdata/b_test.go":          {Data: []byte("package b\n\nfunc TestV08_X(t *testing.T) {}\n")},
		"other/go.mod":                  {Data: []byte("module other\n")},
		"other/c_test.go":               {Data: []byte("package c\n\nfunc TestV09_X(t *testing.T) {}\n")},
		"_hidden/d_test.go":             {Data: []byte("package d\n\nfunc TestV10_X(t *testing.T) {}\n")},
		"y/e_test.go":                   {Data: []byte("package y\n\nfunc TestMain(m *testing.M) {}\n\nfunc FuzzX(f *testing.F) {}\n")},
		"y/f_windows_test.go":           {Data: []byte("package y\n\nfunc TestV11_X(t *testing.T) {}\n\nfunc Testing() {}\n")},
		"y/g.go":                        {Data: []byte("package y\n\nfunc TestNot() {}\n")},
		"internal/catalogue/unrelated.": {Data: []byte("x")},
	}
}

func TestReadTests(t *testing.T) {
	tests, err := ReadTests(smallModule())
	require.NoError(t, err)
	require.Equal(t, []Func{{"TestV07_X", "x", "a_test.go"}, {"TestV11_X", "y", "f_windows_test.go"}}, tests)
	require.Equal(t, "x/a_test.go", tests[0].Path())
	require.Equal(t, "./x", tests[0].Package())
	fuzz, err := ReadFuzzTargets(smallModule())
	require.NoError(t, err)
	require.Equal(t, []Func{{"FuzzX", "y", "e_test.go"}}, fuzz)
	broken := fstest.MapFS{"z_test.go": {Data: []byte("pakage z\n")}}
	_, err = ReadTests(broken)
	require.ErrorContains(t, err, "z_test.go")
}

func TestCheckPatchesCanFail(t *testing.T) {
	loadFrom := func(m fstest.MapFS) *Catalogue {
		c, err := Load(m)
		require.NoError(t, err)
		c.Sections = []Section{{"x", []Row{{ID: "V-07", Attack: "x"}}}}
		return c
	}
	m := smallModule()
	require.Empty(t, loadFrom(m).CheckPatches(m))
	require.Len(t, loadFrom(m).CheckRecord(), 1)

	for wrong, change := range map[string]func(m fstest.MapFS){
		"does not occur": func(m fstest.MapFS) { m["x/a.go"].Data = []byte("package x\n") },
		"not exist":      func(m fstest.MapFS) { delete(m, "x/a.go") },
		"not Go": func(m fstest.MapFS) {
			m[defencesDir+"/V-07.patch"].Data = []byte(strings.Replace(smallPatch, "+var a = 2", "+var a =", 1))
		},
		"./x has no TestV07_X": func(m fstest.MapFS) { delete(m, "x/a_test.go") },
		"V-08 is no row": func(m fstest.MapFS) {
			delete(m, defencesDir+"/V-07.patch")
			m["x/b_test.go"] = &fstest.MapFile{Data: []byte("package x\n\nfunc TestV08_X(t *testing.T) {}\n")}
			m[defencesDir+"/V-08.patch"] = &fstest.MapFile{Data: []byte(strings.NewReplacer("V-07", "V-08", "V07", "V08").Replace(smallPatch))}
		},
	} {
		m := smallModule()
		change(m)
		got := loadFrom(m).CheckPatches(m)
		require.Len(t, got, 1, wrong)
		require.Contains(t, got[0], wrong)
	}

	for wrong, change := range map[string]func(m fstest.MapFS){
		"belongs to":      func(m fstest.MapFS) { m[bugsDir+"/V-07.patch"] = m[defencesDir+"/V-07.patch"] },
		"end in .patch":   func(m fstest.MapFS) { m[defencesDir+"/README"] = &fstest.MapFile{} },
		"nothing follows": func(m fstest.MapFS) { m[defencesDir+"/V-07.patch"].Data = []byte("Row: V-07") },
		"V-07.patch: line 6:": func(m fstest.MapFS) {
			m[defencesDir+"/V-07.patch"].Data = []byte(strings.Replace(smallPatch, "@@", "@@ -1", 1))
		},
	} {
		m := smallModule()
		change(m)
		_, err := Load(m)
		require.ErrorContains(t, err, wrong)
	}
}

func TestRecord(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(root+"/"+home, 0o755))
	p, err := ParsePatch("V-07", smallPatch)
	require.NoError(t, err)
	bug, err := ParsePatch("lost-wakeup", strings.NewReplacer("Row: V-07", "Bug: lost-wakeup").Replace(smallPatch))
	require.NoError(t, err)
	r, err := ReadRecord(os.DirFS(root))
	require.NoError(t, err)
	require.False(t, r.Proved(p))
	r.Note(p, Outcome{Caught: true, How: "failed"})
	r.Note(bug, Outcome{Caught: true, Runs: 17})
	require.NoError(t, r.Write(root))
	again, err := ReadRecord(os.DirFS(root))
	require.NoError(t, err)
	require.Equal(t, r, again)
	require.True(t, again.Proved(p))
	require.Equal(t, 17, again[bug.Path()].Runs)

	c := &Catalogue{Patches: []*Patch{p, bug}, Record: again}
	require.Empty(t, c.CheckRecord())
	require.Empty(t, c.Unproved())
	require.Contains(t, c.BugTable(), "| 17 |")
	changed, err := ParsePatch("V-07", strings.Replace(smallPatch, "a = 2", "a = 3", 1))
	require.NoError(t, err)
	require.False(t, again.Proved(changed), "a patch that was changed is proved anew")
	again.Prune([]*Patch{bug})
	require.Len(t, again, 1)
	again.Note(bug, Outcome{How: "the test passed"})
	require.Empty(t, again)
	c.Patches = nil
	c.Record = r
	require.Len(t, c.CheckRecord(), 2)

	for _, bad := range []string{"defences/V-07.patch 12 TestV07_X\n", "defences/V-07.patch 12 TestV07_X many\n"} {
		require.NoError(t, os.WriteFile(root+"/"+recordFile, []byte(bad), 0o600))
		_, err := ReadRecord(os.DirFS(root))
		require.ErrorContains(t, err, "line 1")
	}
}

func TestPagesCanFail(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.CopyFS(root, smallModule()))
	require.NoError(t, os.Mkdir(root+"/docs", 0o755))
	c, err := Load(os.DirFS(root))
	require.NoError(t, err)
	c.Sections = []Section{{"x", []Row{{ID: "V-07", Attack: "does x"}, {ID: "V-08", Attack: "does y", NoTest: "y is harmless"}}}}
	require.Len(t, c.CheckPages(os.DirFS(root)), 1, "no page yet")
	require.NoError(t, c.WritePages(root))
	require.Empty(t, c.CheckPages(os.DirFS(root)))
	page, err := os.ReadFile(root + "/" + pageFile)
	require.NoError(t, err)
	require.Contains(t, string(page), "| V-07 | does x |  | [TestV07_X](../x/a_test.go) | "+
		"[it](../internal/catalogue/testdata/defences/V-07.patch) | not yet |\n| V-08 | does y |  | none: y is harmless |  |  |\n")
	c.Record.Note(c.Patches[0], Outcome{Caught: true})
	require.Len(t, c.CheckPages(os.DirFS(root)), 1, "another answer")
	require.NoError(t, c.WritePages(root))

	exploration := root + "/" + explorationFile
	require.NoError(t, os.WriteFile(exploration, []byte("# Exploration\n"), 0o600))
	require.Len(t, c.CheckPages(os.DirFS(root)), 1)
	require.ErrorContains(t, c.WritePages(root), "no place for the table")
	require.NoError(t, os.WriteFile(exploration, []byte("before\n"+bugsBegin+bugsEnd+"after\n"), 0o600))
	require.Len(t, c.CheckPages(os.DirFS(root)), 1)
	require.NoError(t, c.WritePages(root))
	require.Empty(t, c.CheckPages(os.DirFS(root)))
	text, err := os.ReadFile(exploration)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(text), "before\n"+bugsBegin+"\n| bug |"), string(text))
	require.True(t, strings.HasSuffix(string(text), "\n"+bugsEnd+"after\n"), string(text))
}

// The parts are all patches, each once, and a number beyond goes around.
func TestParts(t *testing.T) {
	c := &Catalogue{}
	for i := range 11 {
		c.Patches = append(c.Patches, &Patch{Name: fmt.Sprint(i)})
	}
	for n := uint64(1); n <= 12; n++ {
		var all []*Patch
		for k := range n {
			part := c.Part(k, n)
			require.Equal(t, part, c.Part(k+7*n, n))
			all = append(all, part...)
		}
		require.ElementsMatch(t, c.Patches, all)
	}
	require.Empty(t, slices.DeleteFunc(c.Part(3, 4), func(p *Patch) bool { return p.Name == "3" || p.Name == "7" }))
}
