package catalogue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// recordFile holds what the last runs proved.
const recordFile = home + "/caught.txt"

const recordHead = `# Which version of each patch was caught, by which test; for a planted bug also after how many runs it was found.
# Written by "go run ./internal/catalogue/check -all -write".
`

// Record is what was proved of patches, by their paths.
type Record map[string]Proof

// Proof is that a test failed with a patch.
type Proof struct {
	Sum  string // of the patch's text then
	Test string
	Runs int // 0 but for a bug
}

// ReadRecord returns what is recorded in the module below root.
func ReadRecord(root fs.FS) (Record, error) {
	text, err := fs.ReadFile(root, recordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return nil, err
	}
	r := make(Record)
	for i, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s: %w", recordFile, lineError(i+1, "%d fields, not 4", len(fields)))
		}
		runs, err := strconv.Atoi(fields[3])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", recordFile, lineError(i+1, "%w", err))
		}
		r[home+"/"+fields[0]] = Proof{Sum: fields[1], Test: fields[2], Runs: runs}
	}
	return r, nil
}

// Write writes the record into the module in the directory root.
func (r Record) Write(root string) error {
	var lines []string
	for path, p := range r {
		lines = append(lines, fmt.Sprintf("%s %s %s %d\n", strings.TrimPrefix(path, home+"/"), p.Sum, p.Test, p.Runs))
	}
	slices.Sort(lines)
	return os.WriteFile(filepath.Join(root, filepath.FromSlash(recordFile)), []byte(recordHead+strings.Join(lines, "")), 0o644)
}

// Note records what became of a patch.
func (r Record) Note(p *Patch, o Outcome) {
	if !o.Caught {
		delete(r, p.Path())
		return
	}
	r[p.Path()] = Proof{Sum: p.Sum, Test: p.Test, Runs: o.Runs}
}

// Proved reports whether the patch, as it is today, was caught by the test that it names.
func (r Record) Proved(p *Patch) bool {
	proof, ok := r[p.Path()]
	return ok && proof.Sum == p.Sum && proof.Test == p.Test
}

// Prune forgets patches that are gone.
func (r Record) Prune(patches []*Patch) {
	there := make(map[string]bool)
	for _, p := range patches {
		there[p.Path()] = true
	}
	for path := range r {
		if !there[path] {
			delete(r, path)
		}
	}
}
