package catalogue

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const goodPatch = `Row: V-07
Test: ./xen/vchan TestV07_X
Removes: the look at the index,
  once more

--- a.go
@@
 one
-two
+2

 three
@@
-seven

--- b/c.go
@@
 a
+b
+

`

func TestParsePatch(t *testing.T) {
	p, err := ParsePatch("V-07.again", goodPatch)
	require.NoError(t, err)
	require.Equal(t, "V-07", p.Row)
	require.Equal(t, "./xen/vchan", p.Package)
	require.Equal(t, "TestV07_X", p.Test)
	require.Equal(t, "the look at the index, once more", p.Removes)
	require.Equal(t, defencesDir+"/V-07.again.patch", p.Path())
	require.Equal(t, []filePatch{
		{"a.go", []hunk{
			{7, []string{"one", "two", "", "three"}, []string{"one", "2", "", "three"}},
			{13, []string{"seven"}, nil},
		}},
		{"b/c.go", []hunk{{17, []string{"a"}, []string{"a", "b", ""}}}},
	}, p.files)
	got, err := p.Apply(fstest.MapFS{
		"a.go":   {Data: []byte("zero\none\ntwo\n\nthree\nfour\ntwo\nseven\n")},
		"b/c.go": {Data: []byte("a")},
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a.go": "zero\none\n2\n\nthree\nfour\ntwo\n", "b/c.go": "a\nb\n"}, got)

	bug, err := ParsePatch("lost-wakeup", strings.Replace(smallPatch, "Row: V-07", "Bug: lost-wakeup", 1))
	require.NoError(t, err)
	require.Equal(t, bugsDir+"/lost-wakeup.patch", bug.Path())
}

func TestBadPatches(t *testing.T) {
	change := func(old, with string) string { return strings.Replace(smallPatch, old, with, 1) }
	for _, c := range []struct{ name, text, wrong string }{
		{"V-07", smallPatch, ""},
		{"V-07", "", "Test: ./package TestName"},
		{"V-07", "Row: V-07\nTest: ./x TestV07_X\nRemoves: it", "nothing follows"},
		{"V-07", "Row: V-07\nTest: ./x TestV07_X\nRemoves: it\n\n", "changes no file"},
		{"V-07", change("Row: V-07\n", ""), "either Row or Bug"},
		{"V-07", change("Row: V-07\n", "Row: V-07\nBug: x\n"), "either Row or Bug"},
		{"V-07", change("Row: V-07\n", "Row: V-07\nRow: V-08\n"), "line 2: a second"},
		{"V-07", change("Row: V-07\n", "Row: V-7\n"), "no id"},
		{"V-07", change("Row: V-07\n", " Row: V-07\n"), "line 1: goes on with no line"},
		{"V-07", change("Row: V-07\n", "Row: V-07\nSource: x\n"), "line 2"},
		{"V-07", change("Row: V-07\n", "Row: V-07\nno field\n"), "line 2"},
		{"V-07", change("Removes: it\n", ""), "needs Removes"},
		{"V-07", change("Test: ./x TestV07_X\n", ""), "needs \"Test:"},
		{"V-07", change("./x TestV07_X", "TestV07_X"), "needs \"Test:"},
		{"V-07", change("./x TestV07_X", "x TestV07_X"), "is not how"},
		{"V-07", change("./x TestV07_X", "./x/... TestV07_X"), "is not how"},
		{"V-07", change("./x TestV07_X", "./x TestV07_X/sub"), "is no test"},
		{"V-07", change("./x TestV07_X", "./x TestV08_X"), "begin with TestV07_"},
		{"V-07", change("./x TestV07_X", "./x TestV07X"), "begin with TestV07_"},
		{"V-08", smallPatch, "called V-07.patch"},
		{"V-07x", smallPatch, "called V-07.patch"},
		{"other", change("Row: V-07", "Bug: lost-wakeup"), "belongs into lost-wakeup.patch"},
		{"Lost", change("Row: V-07", "Bug: Lost"), "lower-case"},
		{"V-07", change("--- x/a.go", "--- ../a.go"), "below its root"},
		{"V-07", change("--- x/a.go", "--- /x/a.go"), "below its root"},
		{"V-07", change("--- x/a.go", "--- x/a.txt"), "below its root"},
		{"V-07", change("--- x/a.go", "--- x/a_test.go"), "not the tests"},
		{"V-07", change("--- x/a.go\n", ""), "line 5: \"@@\""},
		{"V-07", change("@@\n", ""), "in no hunk"},
		{"V-07", change("@@\n", "@@ -1,2 +1,2 @@\n"), "@@ alone"},
		{"V-07", change("@@\n", "@@\n@@\n"), "no old text"},
		{"V-07", change("-var", "var"), "begins with a space"},
		{"V-07", change("-var", "\tvar"), "begins with a space"},
		{"V-07", change("-var a = 1\n", ""), "no old text"},
		{"V-07", change("+var a = 2", "+var a = 1"), "changes nothing"},
		{"V-07", change("+var a = 2\n", "+var a = 2\n--- x/b.go\n"), "no hunk"},
		{"V-07", change("+var a = 2\n", "+var a = 2\n--- x/a.go\n@@\n-x\n"), "twice"},
		{"V-07", strings.ReplaceAll(smallPatch, "\n", "\r\n"), "carriage returns"},
	} {
		_, err := ParsePatch(c.name, c.text)
		if c.wrong == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.wrong, "%s:\n%s", c.name, c.text)
	}
}

func TestPatchesThatDoNotFit(t *testing.T) {
	for _, c := range []struct{ source, hunks, wrong string }{
		{"a\nb\nc\n", "@@\n a\n-b\n", ""},
		{"a\nb\nc\n", "@@\n-c\n@@\n-a\n", ""},
		{"a\nb\nc\n", "@@\n a\n-x\n", `does not occur: "x"`},
		{"ab\n", "@@\n-a\n", "does not occur"}, // lines are whole
		{"a\nb\na\n", "@@\n-a\n", "occurs 2 times, first at lines 1 and 3"},
		{"a\na\na\n", "@@\n a\n-a\n", "occurs 2 times"},
		{"a\nb\nc\n", "@@\n a\n-b\n@@\n b\n-c\n", "line 9: overlaps another hunk at line 2"},
		{"a\n", "@@\n a\n-b\n c\n-d\n", `"b"`},
		{"", "@@\n-a\n", "does not occur"},
	} {
		p, err := ParsePatch("V-07", "Row: V-07\nTest: ./x TestV07_X\nRemoves: it\n\n--- a.go\n"+c.hunks)
		require.NoError(t, err)
		_, err = p.Apply(fstest.MapFS{"a.go": {Data: []byte(c.source)}})
		if c.wrong == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.wrong)
		require.ErrorContains(t, err, "a.go: line")
	}
}
