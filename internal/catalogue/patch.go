package catalogue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The directories of patches, and the file of what they proved, below the module's root.
const (
	home        = "internal/catalogue/testdata"
	defencesDir = home + "/defences"
	bugsDir     = home + "/bugs"
)

// Patch takes a defence away or plants a bug.
type Patch struct {
	Name    string // of its file, without ".patch"
	Row     string // the row's id, or
	Bug     string // the bug's name
	Package string // of the test that must fail: ./xen/vchan
	Test    string
	Removes string // for people: what is not there any more
	Sum     string // of the patch's text

	files []filePatch
}

// filePatch is what is changed in one file.
type filePatch struct {
	path  string // below the module's root
	hunks []hunk
}

// hunk is lines that stand in a file, and what is to stand there.
type hunk struct {
	line int // in the patch, of its "@@"
	old  []string
	new  []string
}

// Path returns the patch's file below the module's root.
func (p *Patch) Path() string {
	if p.Bug != "" {
		return bugsDir + "/" + p.Name + ".patch"
	}
	return defencesDir + "/" + p.Name + ".patch"
}

// ReadPatches returns the patches of the module below root: those of rows first, each kind by name.
func ReadPatches(root fs.FS) ([]*Patch, error) {
	var patches []*Patch
	var errs []error
	byName := func(a, b *Patch) int { return strings.Compare(a.Name, b.Name) }
	for _, dir := range []string{defencesDir, bugsDir} {
		entries, err := fs.ReadDir(root, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var kind []*Patch
		for _, e := range entries {
			p, err := readPatch(root, path.Join(dir, e.Name()))
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", path.Join(dir, e.Name()), err))
				continue
			}
			kind = append(kind, p)
		}
		slices.SortFunc(kind, byName)
		patches = append(patches, kind...)
	}
	return patches, errors.Join(errs...)
}

func readPatch(root fs.FS, file string) (*Patch, error) {
	name, ok := strings.CutSuffix(path.Base(file), ".patch")
	if !ok {
		return nil, errors.New("only files that end in .patch belong here")
	}
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return nil, err
	}
	p, err := ParsePatch(name, string(text))
	if err != nil {
		return nil, err
	}
	if p.Path() != file {
		return nil, fmt.Errorf("belongs to %s", p.Path())
	}
	return p, nil
}

// lineError says what is wrong with a line of a patch.
func lineError(n int, format string, args ...any) error {
	return fmt.Errorf("line %d: %w", n, fmt.Errorf(format, args...))
}

// ParsePatch reads a patch. name is that of its file without ".patch".
func ParsePatch(name, text string) (*Patch, error) {
	if strings.Contains(text, "\r") {
		return nil, errors.New("lines end in carriage returns")
	}
	sum := sha256.Sum256([]byte(text))
	p := &Patch{Name: name, Sum: hex.EncodeToString(sum[:6])}
	lines := strings.Split(text, "\n")
	n, err := p.parseHeader(lines)
	if err == nil {
		err = p.parseFiles(lines, n)
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// parseHeader reads up to the empty line after the header, and returns the index of the line after it.
func (p *Patch) parseHeader(lines []string) (int, error) {
	fields := map[string]*string{"Row": &p.Row, "Bug": &p.Bug, "Test": new(string), "Removes": &p.Removes}
	var last *string
	for i, line := range lines {
		if strings.TrimSpace(line) == "" {
			pkg, test, ok := strings.Cut(*fields["Test"], " ")
			if !ok {
				return 0, fmt.Errorf("the header needs \"Test: ./package TestName\", and has %q", *fields["Test"])
			}
			p.Package, p.Test = pkg, strings.TrimSpace(test)
			return i + 1, nil
		}
		if line[0] == ' ' || line[0] == '\t' {
			if last == nil {
				return 0, lineError(i+1, "goes on with no line of the header")
			}
			*last += " " + strings.TrimSpace(line)
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		field := fields[key]
		if !ok || field == nil {
			return 0, lineError(i+1, "%q is no line of a header: it has Row or Bug, Test, and Removes, and ends with an empty line", line)
		}
		if *field != "" {
			return 0, lineError(i+1, "a second %q", key)
		}
		*field, last = strings.TrimSpace(value), field
	}
	return 0, errors.New("nothing follows the header")
}

// parseFiles reads the changes from line n, counted from 0, on.
func (p *Patch) parseFiles(lines []string, n int) error {
	for ; n < len(lines); n++ {
		line := lines[n]
		var hunks *[]hunk
		if len(p.files) > 0 {
			hunks = &p.files[len(p.files)-1].hunks
		}
		switch {
		case strings.HasPrefix(line, "--- "):
			p.files = append(p.files, filePatch{path: strings.TrimPrefix(line, "--- ")})
			continue
		case line == "@@" && hunks != nil:
			*hunks = append(*hunks, hunk{line: n + 1})
			continue
		case strings.HasPrefix(line, "@@"):
			return lineError(n+1, "%q: a hunk begins with @@ alone, below the name of its file", line)
		case line == "" && (hunks == nil || len(*hunks) == 0):
			continue
		case hunks == nil || len(*hunks) == 0:
			return lineError(n+1, "%q is in no hunk", line)
		}
		h := &(*hunks)[len(*hunks)-1]
		if line == "" {
			if endsHere(lines[n:]) {
				continue
			}
			line = " "
		}
		switch line[0] {
		case ' ':
			h.old, h.new = append(h.old, line[1:]), append(h.new, line[1:])
		case '-':
			h.old = append(h.old, line[1:])
		case '+':
			h.new = append(h.new, line[1:])
		default:
			return lineError(n+1, "%q: a line of a hunk begins with a space, a minus or a plus", line)
		}
	}
	return nil
}

// endsHere reports whether only empty lines follow before the hunk ends.
func endsHere(lines []string) bool {
	for _, line := range lines {
		if line != "" {
			return line == "@@" || strings.HasPrefix(line, "--- ")
		}
	}
	return true
}

var (
	bugForm     = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	packageForm = regexp.MustCompile(`^\.(/[a-z0-9_]+)*$`)
	nameForm    = regexp.MustCompile(`^Test[A-Z0-9][A-Za-z0-9_]*$`)
)

// check returns what is wrong with a patch that could be read.
func (p *Patch) check() error {
	switch {
	case (p.Row == "") == (p.Bug == ""):
		return errors.New("the header needs either Row or Bug")
	case p.Removes == "":
		return errors.New("the header needs Removes")
	case !packageForm.MatchString(p.Package):
		return fmt.Errorf("%q is not how the go command is told of a package of this module (./xen/vchan)", p.Package)
	case !nameForm.MatchString(p.Test):
		return fmt.Errorf("%q is no test", p.Test)
	case p.Bug != "" && !bugForm.MatchString(p.Bug):
		return fmt.Errorf("%q: a bug's name is lower-case words with dashes between", p.Bug)
	case p.Bug != "" && p.Name != p.Bug:
		return fmt.Errorf("the bug %s belongs into %s.patch", p.Bug, p.Bug)
	case p.Row != "" && !idForm.MatchString(p.Row):
		return fmt.Errorf("%q is no id of a row", p.Row)
	case p.Row != "" && p.Name != p.Row && !strings.HasPrefix(p.Name, p.Row+"."):
		return fmt.Errorf("a patch of row %s is called %s.patch or %s.words.patch", p.Row, p.Row, p.Row)
	case p.Row != "" && !strings.HasPrefix(p.Test, TestPrefix(p.Row)):
		return fmt.Errorf("the tests of row %s begin with %s, not %s", p.Row, TestPrefix(p.Row), p.Test)
	case len(p.files) == 0:
		return errors.New("it changes no file (\"--- path\")")
	}
	seen := make(map[string]bool)
	for _, f := range p.files {
		if seen[f.path] {
			return fmt.Errorf("%s: twice", f.path)
		}
		seen[f.path] = true
		if err := f.check(); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return nil
}

func (f *filePatch) check() error {
	switch {
	case !fs.ValidPath(f.path) || !strings.HasSuffix(f.path, ".go"):
		return errors.New("a patch names Go files of the module by their path below its root")
	case strings.HasSuffix(f.path, "_test.go"):
		return errors.New("a patch changes what is tested, not the tests")
	case len(f.hunks) == 0:
		return errors.New("no hunk (\"@@\")")
	}
	for _, h := range f.hunks {
		switch {
		case len(h.old) == 0:
			return lineError(h.line, "the hunk has no old text to be found by")
		case slices.Equal(h.old, h.new):
			return lineError(h.line, "the hunk changes nothing")
		}
	}
	return nil
}

// Apply returns the files that the patch changes, by their paths, with their new text. Nothing is written.
func (p *Patch) Apply(root fs.FS) (map[string]string, error) {
	changed := make(map[string]string)
	for _, f := range p.files {
		text, err := fs.ReadFile(root, f.path)
		if err != nil {
			return nil, err
		}
		if changed[f.path], err = f.apply(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return changed, nil
}

// apply makes the file's new text. Hunks are looked for in the old text, in any order.
func (f *filePatch) apply(text string) (string, error) {
	lines := strings.Split(text, "\n")
	at := make(map[int]hunk) // by where they begin
	taken := make([]bool, len(lines))
	for _, h := range f.hunks {
		found := occurrences(lines, h.old)
		switch {
		case len(found) == 0:
			return "", lineError(h.line, "the old text does not occur: %q", nearest(lines, h.old))
		case len(found) > 1:
			return "", lineError(h.line, "the old text occurs %d times, first at lines %d and %d: give more of it",
				len(found), found[0]+1, found[1]+1)
		}
		at[found[0]] = h
		for i := found[0]; i < found[0]+len(h.old); i++ {
			if taken[i] {
				return "", lineError(h.line, "overlaps another hunk at line %d of the file", i+1)
			}
			taken[i] = true
		}
	}
	var out []string
	for i := 0; i < len(lines); {
		h, ok := at[i]
		if !ok {
			out = append(out, lines[i])
			i++
			continue
		}
		out = append(out, h.new...)
		i += len(h.old)
	}
	return strings.Join(out, "\n"), nil
}

// occurrences returns where in lines the old lines stand.
func occurrences(lines, old []string) []int {
	var found []int
	for i := 0; i+len(old) <= len(lines); i++ {
		if slices.Equal(lines[i:i+len(old)], old) {
			found = append(found, i)
		}
	}
	return found
}

// nearest returns the line by which old departs from where it comes furthest, to say what is wrong with a patch that does not fit.
func nearest(lines, old []string) string {
	best := 0
	for i := range lines {
		n := 0
		for n < len(old)-1 && i+n < len(lines) && lines[i+n] == old[n] {
			n++
		}
		best = max(best, n)
	}
	return old[best]
}
