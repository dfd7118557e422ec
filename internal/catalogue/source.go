package catalogue

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// Func is a test or fuzz target of the module.
type Func struct {
	Name string
	Dir  string // its package's directory below the module's root, with slashes; "." is the root
	File string // the file's name in Dir
}

// Path returns the file's path below the module's root.
func (f Func) Path() string { return path.Join(f.Dir, f.File) }

// Package returns the package as the go command is told of it in the module's root.
func (f Func) Package() string {
	if f.Dir == "." {
		return "."
	}
	return "./" + f.Dir
}

// ReadTests returns the tests of the module below root, by the order of their files, and in each as they stand there. It only parses:
// what does not compile on this platform is found as well.
func ReadTests(root fs.FS) ([]Func, error) { return readFuncs(root, "Test") }

// ReadFuzzTargets does the same for fuzz targets.
func ReadFuzzTargets(root fs.FS) ([]Func, error) { return readFuncs(root, "Fuzz") }

func readFuncs(root fs.FS, prefix string) ([]Func, error) {
	var found []Func
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if p != "." && !inModule(root, p) {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(p, "_test.go"):
			return nil
		}
		names, err := funcsOf(root, p, prefix)
		for _, name := range names {
			found = append(found, Func{Name: name, Dir: path.Dir(p), File: path.Base(p)})
		}
		return err
	})
	return found, err
}

// inModule reports whether go reads the directory as a part of the module.
func inModule(root fs.FS, dir string) bool {
	base := path.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return false
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err != nil
}

// funcsOf returns the functions of a file whose names begin with prefix and go on as go test wants it.
func funcsOf(root fs.FS, name, prefix string) ([]string, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parsing: %w", err)
	}
	var names []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || fn.Name.Name == "TestMain" {
			continue
		}
		rest, ok := strings.CutPrefix(fn.Name.Name, prefix)
		if ok && (rest == "" || rest[0] < 'a' || rest[0] > 'z') {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}
