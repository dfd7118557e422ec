package clayout

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var sample = Generator{
	Prefix: "x", Targets: []Target{X86_64, ARM64},
	List: List{
		Structures: []Structure{
			{Name: "struct s", Members: []string{"a", "x86:b"}},
			{Name: "struct only", Only: "x86"},
		},
		Constants: [][]Constant{Prefixed("C_", "ONE"), OnlyOn("arm", Prefixed("C_", "TWO"))},
	},
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	require.ErrorIs(t, sample.Answers(dir), os.ErrNotExist)
	good := "# made\nstruct s 8\n  a 0 4\n  b 4 4\nstruct only 1\nconst C_ONE 1\n"
	write(t, dir, "x-x86_64.txt", good)
	write(t, dir, "x-arm64.txt", "struct s 8\n  a 0 4\nconst C_ONE 1\nconst C_TWO 2\n")
	require.NoError(t, sample.Answers(dir))
	write(t, dir, "x-arm64.txt", "struct s 8\n  a 0 4\nconst C_ONE 1\n")
	require.ErrorContains(t, sample.Answers(dir), `does not answer "const C_TWO"`)
	write(t, dir, "x-x86_64.txt", good+"const C_TWO 2\n")
	require.ErrorContains(t, sample.Answers(dir), "what is not asked")
	write(t, dir, "x-x86_64.txt", "struct s 8 9\n")
	require.ErrorContains(t, sample.Answers(dir), `has "struct s 8 9"`)
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "g", "# made\nstruct s 8\n  a 0 4\nconst sizeof(int) 4\nconst MINUS -1\n")
	g, err := Read(filepath.Join(dir, "g"))
	require.NoError(t, err)
	require.Equal(t, map[string]int64{"sizeof(int)": 4, "MINUS": -1}, g.Consts)
	require.Equal(t, map[string]*Layout{"s": {Size: 8, Members: map[string]Span{"a": {0, 4}}}}, g.Structs)
	for _, bad := range []string{"  a 0 4\n", "struct s\n", "const C\n", "\n", "x 1\n"} {
		write(t, dir, "g", "# made\n"+bad)
		_, err := Read(filepath.Join(dir, "g"))
		require.ErrorContains(t, err, "g:2: ", bad)
	}
}

func TestCompareNamesTheFirstDifference(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "layout.txt")
	write(t, dir, "layout.txt", "a 1\nb 2\n")
	require.NoError(t, compare(file, []byte("a 1\nb 2\n")))
	require.ErrorContains(t, compare(file, []byte("a 1\nb 3\n")), `layout.txt:2 has "b 2", the compiler says "b 3"`)
	require.ErrorContains(t, compare(file, []byte("a 1\nb 2\nc 3\n")), `:3 has "", the compiler says "c 3"`)
	require.ErrorContains(t, compare(file, []byte("a 1\nb 2")), "has 3 lines, the compiler says 2")
	require.ErrorIs(t, compare(file+"x", nil), os.ErrNotExist)
}

func TestMissingCompilersAreNamed(t *testing.T) {
	_, err := Target{Compilers: []string{"hvkit-no-such-compiler -m32"}}.compiler()
	require.ErrorContains(t, err, "no compiler (hvkit-no-such-compiler -m32)")
}

func TestProgram(t *testing.T) {
	g := Generator{Source: "#include <xen/grant_table.h>\n"}
	source := string(g.program([]string{"sizeof(int)"}))
	require.Contains(t, source, "#include <xen/grant_table.h>\n")
	require.Contains(t, source, "\t(int64_t)(sizeof(int)),\n")
}
