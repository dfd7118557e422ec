package catalogue

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const module = "github.com/hvkit/hvkit"

// Root returns the module's root directory: the working directory, or one above it.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+module+"\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the module " + module)
		}
		dir = parent
	}
}
