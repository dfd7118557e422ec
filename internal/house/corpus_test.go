package house

import (
	"errors"
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each fuzz target has a committed corpus, which plain "go test" runs through it; and no corpus is left of a target that is gone.
func TestFuzzTargetsHaveACorpus(t *testing.T) {
	root := os.DirFS(moduleRoot(t))
	dirs, in := packages(readModule(t))
	for _, dir := range dirs {
		fuzz := path.Join(dir, "testdata", "fuzz")
		targets := make(map[string]bool)
		for _, s := range in[dir] {
			for _, name := range fuzzTargets(s) {
				targets[name] = true
				if entries, err := fs.ReadDir(root, path.Join(fuzz, name)); err != nil || len(entries) == 0 {
					t.Errorf("%s has no corpus in %s", name, path.Join(fuzz, name))
				}
			}
		}
		corpora, err := fs.ReadDir(root, fuzz)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, c := range corpora {
			if !targets[c.Name()] {
				t.Errorf("%s is the corpus of no fuzz target", path.Join(fuzz, c.Name()))
			}
		}
	}
}

func fuzzTargets(s *source) []string {
	var names []string
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && s.isTest() && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

// direct are the modules that this one asks for by itself. One more is a decision, not a side effect.
var direct = map[string]bool{
	"golang.org/x/sys": true, "golang.org/x/net": true, "github.com/alecthomas/kong": true, "github.com/stretchr/testify": true,
	"github.com/google/go-cmp": true, "pgregory.net/rapid": true, "github.com/anishathalye/porcupine": true,
	// The testbed's.
	"github.com/u-root/u-root": true, "github.com/digitalocean/go-qemu": true,
	// The Xenstore server's history, a package of the command's own.
	"github.com/go-git/go-git/v5": true, "github.com/go-git/go-billy/v5": true,
}

func TestDependencies(t *testing.T) {
	mod, err := fs.ReadFile(os.DirFS(moduleRoot(t)), "go.mod")
	require.NoError(t, err)
	report(t, checkDependencies(string(mod)))
	require.Len(t, checkDependencies("require (\n\texample.org/big v1.0.0\n)\nrequire example.org/b v1\nreplace a => ../a\n"), 3)
}

func checkDependencies(mod string) []string {
	var wrong []string
	block := false
	for line := range strings.Lines(mod) {
		line = strings.TrimSpace(line)
		one, alone := strings.CutPrefix(line, "require ")
		switch {
		case line == "require (":
			block = true
			continue
		case line == ")":
			block = false
		case strings.HasPrefix(line, "replace"), strings.HasPrefix(line, "exclude"):
			wrong = append(wrong, line+": users of the module would not get it")
		}
		fields := strings.Fields(one)
		if (!alone && !block) || len(fields) < 2 || strings.HasSuffix(line, "// indirect") || direct[fields[0]] {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("go.mod asks for %s", fields[0]))
	}
	return wrong
}
