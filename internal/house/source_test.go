// Package house holds the rules of the house that a program can check, as tests: who may import whom, where unsafe may stand, what
// every package has. They read the source only, so they need no network and no compiler.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/hvkit/hvkit"

// source is one Go file of the module.
type source struct {
	dir  string // of the module's root, with slashes; "" is the root itself
	name string
	text string
	file *ast.File
	fset *token.FileSet
}

func (s *source) path() string { return path.Join(s.dir, s.name) }

func (s *source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// line returns where n is, for people.
func (s *source) line(n ast.Node) string {
	return s.path() + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// imports returns the paths that the file imports.
func (s *source) imports() []string {
	var paths []string
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// parse makes a source of a file's text.
func parse(name, text string) (*source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	return &source{dir: dir, name: path.Base(name), text: text, file: f, fset: fset}, nil
}

// readModule parses every Go file of the module.
func readModule(t *testing.T) []*source {
	t.Helper()
	root := moduleRoot(t)
	var files []*source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && p != root && !inModule(p) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		s, err := parse(filepath.ToSlash(rel), string(text))
		if err == nil {
			files = append(files, s)
		}
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, files)
	return files
}

// inModule reports whether go reads the directory as a part of the module: it is none of those that go leaves out, and no module of
// its own.
func inModule(dir string) bool {
	base := filepath.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err != nil
}

// moduleRoot is the directory of go.mod.
func moduleRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(mod), "module "+module+"\n")
	return root
}

// packages returns the directories that hold Go files, sorted, with their files.
func packages(files []*source) (dirs []string, in map[string][]*source) {
	in = make(map[string][]*source)
	for _, s := range files {
		if in[s.dir] == nil {
			dirs = append(dirs, s.dir)
		}
		in[s.dir] = append(in[s.dir], s)
	}
	slices.Sort(dirs)
	return dirs, in
}
