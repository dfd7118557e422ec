package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGoldenFilesAnswerTheList sees, without a compiler, that the files were made from the list as it is.
func TestGoldenFilesAnswerTheList(t *testing.T) {
	for _, target := range targets {
		text, err := os.ReadFile(filepath.Join("..", "..", "testdata", "layout-"+target.abi+".txt"))
		require.NoError(t, err)
		lines, exprs := target.questions()
		var got []line
		answers := 0
		for l := range strings.Lines(string(text)) {
			if strings.HasPrefix(l, "#") {
				continue
			}
			l = strings.TrimSuffix(l, "\n")
			want := lines[len(got)]
			require.True(t, strings.HasPrefix(l, want.text+" "), "%q begins with %q", l, want.text)
			require.Len(t, strings.Fields(l[len(want.text):]), want.answers)
			got = append(got, want)
			answers += want.answers
		}
		require.Equal(t, lines, got)
		require.Len(t, exprs, answers)
	}
}

func TestQuestionsAreTheArchitectures(t *testing.T) {
	has := map[string]map[string]bool{}
	for _, target := range targets {
		lines, _ := target.questions()
		has[target.abi] = map[string]bool{}
		for _, l := range lines {
			require.False(t, has[target.abi][l.text] && strings.HasPrefix(l.text, "const"), "%s is asked twice", l.text)
			has[target.abi][l.text] = true
		}
	}
	for _, only := range []string{"  evtchn_upcall_mask", "struct xen_hvm_evtchn_upcall_vector", "const HVM_PARAM_CALLBACK_TYPE_VECTOR"} {
		require.True(t, has["x86_64"][only])
		require.True(t, has["x86_32"][only])
		require.False(t, has["arm64"][only])
	}
	require.True(t, has["arm64"]["const HVM_PARAM_CALLBACK_TYPE_PPI"])
	require.False(t, has["x86_64"]["const HVM_PARAM_CALLBACK_TYPE_PPI"])
}

func TestCompareNamesTheFirstDifference(t *testing.T) {
	file := filepath.Join(t.TempDir(), "layout.txt")
	require.NoError(t, os.WriteFile(file, []byte("a 1\nb 2\n"), 0o644))
	require.NoError(t, compare(file, []byte("a 1\nb 2\n")))
	require.ErrorContains(t, compare(file, []byte("a 1\nb 3\n")), `layout.txt:2 has "b 2", the compiler says "b 3"`)
	require.ErrorContains(t, compare(file, []byte("a 1\nb 2\nc 3\n")), `:3 has "", the compiler says "c 3"`)
	require.ErrorContains(t, compare(file, []byte("a 1\nb 2")), "has 3 lines, the compiler says 2")
	require.ErrorIs(t, compare(file+"x", nil), os.ErrNotExist)
}

func TestMissingHeadersAndCompilersAreNamed(t *testing.T) {
	_, err := linkHeaders(t.TempDir(), t.TempDir())
	require.ErrorContains(t, err, "apt-get install libxen-dev")
	_, err = target{compilers: []string{"hvkit-no-such-compiler -m32"}}.compiler()
	require.ErrorContains(t, err, "no compiler (hvkit-no-such-compiler -m32)")
}

func TestProgram(t *testing.T) {
	source := program([]string{"sizeof(int)"})
	require.True(t, bytes.Contains(source, []byte("#include <xen/grant_table.h>\n")))
	require.True(t, bytes.Contains(source, []byte("\t(int64_t)(sizeof(int)),\n")))
}
