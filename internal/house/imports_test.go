package house

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// room is a package, or a tree of packages where the pattern ends in /..., and what it may import of this module outside tests. The
// patterns of imports are of the same form. A package that stands here imports nothing else from outside the standard library than
// golang.org/x/sys: that keeps what a driver's user compiles small.
//
// The order is from the bottom up, and arrows point down: a room imports rooms above its own line only (a tree also itself).
type room struct {
	pattern string
	imports []string
}

var rooms = []room{
	{"internal/door", nil},
	{"shm", []string{"internal/door"}},
	{"internal/spin", nil},
	{"internal/nowait", nil},
	{"internal/selfexec", nil},
	{"internal/catalogue/...", nil},
	{"internal/clayout", nil},

	// The portable device interfaces that all drivers meet.
	{"", nil},

	// Xen: the interface.
	{"internal/xendev", []string{"shm", "internal/door", "internal/clayout"}},
	{"xen/hypercall", []string{"shm", "internal/door", "internal/clayout", "internal/xendev"}},
	{"xen/grant", []string{"shm", "internal/door", "internal/xendev", "xen/hypercall"}},
	{"xen/evtchn", []string{"shm", "internal/door", "internal/xendev", "xen/hypercall"}},
	{"xen/xenstore", []string{"shm", "internal/nowait", "internal/spin", "xen/hypercall"}},
	{"xen/xenstored", []string{"shm", "internal/nowait", "xen/hypercall", "xen/xenstore"}},
	{"internal/gfn", []string{"xen/hypercall"}},
	{"internal/attach", []string{"shm", "internal/door", "internal/gfn", "xen/hypercall"}},
	{"xen", []string{"shm", "internal/attach", "internal/xendev", "xen/hypercall", "xen/grant", "xen/evtchn", "xen/xenstore"}},

	// Xen: the protocols.
	{"xen/ring", []string{"shm"}},
	{"xen/netif", []string{"shm", "xen/hypercall", "xen/ring"}},
	{"xen/blkif", []string{"shm", "xen/hypercall", "xen/ring"}},
	{"xen/conif", []string{"shm", "xen/hypercall", "xen/ring"}},
	{"xen/xenbus", []string{"shm", "xen", "xen/hypercall", "xen/grant", "xen/evtchn", "xen/xenstore"}},
	{"xen/vchan", []string{"shm", "internal/spin", "xen", "xen/hypercall", "xen/grant", "xen/evtchn", "xen/xenstore"}},

	// Other machines.
	{"arm", []string{"shm", "internal/door"}},
	{"kvm", []string{"shm", "internal/door", "arm"}},
	{"virtio/...", []string{"", "shm"}},
	{"solo5", []string{"shm"}},
	{"solo5/guest", []string{"", "shm", "solo5"}},
	{"solo5/hvt", []string{"", "shm", "internal/door", "solo5", "kvm", "arm"}},

	// Xen's drivers, and those that work over several transports.
	{"netfront", []string{"", "shm", "xen/..."}},
	{"netback", []string{"", "shm", "xen/..."}},
	{"blkfront", []string{"", "shm", "xen/..."}},
	{"blkback", []string{"", "shm", "xen/..."}},
	{"console", []string{"", "shm", "xen/...", "virtio/..."}},
	{"entropy", []string{"", "shm", "xen/...", "virtio/..."}},

	// The simulator.
	{"sim", []string{"shm", "internal/door", "internal/gfn", "internal/attach", "xen", "xen/hypercall", "xen/grant", "xen/evtchn",
		"xen/xenstore", "xen/xenstored"}},
	{"sim/explore", []string{"shm", "xen/hypercall"}},
}

// openRooms are packages of their own, with dependencies of their own, that no room imports.
var openRooms = []string{"cmd/...", "examples/...", "unikernel/...", "internal/house", "internal/testbed/...", "internal/jail/..."}

// heavyRooms are what only the command imports outside tests, because of what they bring along.
var heavyRooms = []string{"internal/testbed/...", "internal/jail/..."}

// userRooms are what may import sim outside tests.
var userRooms = []string{"sim/...", "cmd/...", "examples/...", "internal/testbed/..."}

// testLibraries are what tests, and packages that hold tests for others to run, may import beside what their room may.
var testLibraries = []string{
	"github.com/stretchr/testify/require", "github.com/google/go-cmp/cmp", "github.com/google/go-cmp/cmp/cmpopts", "pgregory.net/rapid",
	"golang.org/x/net/nettest", "github.com/anishathalye/porcupine",
}

func TestImportGraph(t *testing.T) {
	report(t, checkImports(readModule(t)))
}

func TestArrowsPointDown(t *testing.T) {
	report(t, checkArrows(rooms))
}

// checkImports returns what is wrong with the imports of files.
func checkImports(files []*source) []string {
	var wrong []string
	for _, s := range files {
		for _, p := range s.imports() {
			if reason := refuse(s, p); reason != "" {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: %s", s.path(), p, reason))
			}
		}
	}
	return wrong
}

// refuse says why s must not import p, or "".
func refuse(s *source, p string) string {
	inside, ok := strings.CutPrefix(p+"/", module+"/")
	inside = strings.TrimSuffix(inside, "/")
	switch {
	case ok && s.isTest():
		return "" // tests may go through the whole module
	case ok:
		return refuseInside(s.dir, inside)
	case !strings.Contains(strings.Split(p, "/")[0], ".") || strings.HasPrefix(p, "golang.org/x/sys/"):
		return "" // standard library, x/sys
	case s.isTest() || isTestPackage(s.dir):
		if slices.Contains(testLibraries, p) || matchesAny(s.dir, openRooms) {
			return ""
		}
		return "tests use the libraries of testLibraries only"
	case matchesAny(s.dir, openRooms):
		return ""
	}
	return "it keeps to the standard library and golang.org/x/sys"
}

// refuseInside says why the package dir must not import the package to of this module, or "".
func refuseInside(dir, to string) string {
	if matches(to, "sim/...") && !matchesAny(dir, userRooms) {
		return "only commands, tests and examples use the simulator"
	}
	if matchesAny(to, heavyRooms) && !matchesAny(dir, heavyRooms) && !matches(dir, "cmd/...") && !isTestPackage(dir) {
		return "only the command and tests use it"
	}
	if isTestPackage(dir) || matchesAny(dir, openRooms) {
		return ""
	}
	if isTestPackage(to) {
		return "only tests use test packages"
	}
	r, ok := roomOf(dir)
	if !ok {
		return "package " + dir + " is in no room: give it one in the table of rooms"
	}
	tree := strings.HasSuffix(r.pattern, "/...") && matches(to, r.pattern)
	own := parent(to) == parent(dir) && to != parent(to) // an internal package of its own
	if tree || own || matchesAny(to, r.imports) {
		return ""
	}
	return fmt.Sprintf("its room may import %q", r.imports)
}

// checkArrows returns the arrows of the table that point up or nowhere.
func checkArrows(rooms []room) []string {
	var wrong []string
	for i, r := range rooms {
		for _, to := range r.imports {
			if !slices.ContainsFunc(rooms[:i], func(below room) bool { return below.pattern == to || matches(below.pattern, to) }) {
				wrong = append(wrong, fmt.Sprintf("%s may import %s, which is no room below it", r.pattern, to))
			}
		}
	}
	return wrong
}

// roomOf returns the room of a package. A package under internal/ of another one is in that one's room.
func roomOf(dir string) (room, bool) {
	for _, r := range rooms {
		if matches(parent(dir), r.pattern) {
			return r, true
		}
	}
	return room{}, false
}

// parent cuts internal packages of a package off: xen/hypercall/internal/x belongs to xen/hypercall. Those of the module stay.
func parent(dir string) string {
	owner, _, _ := strings.Cut(dir, "/internal/")
	return owner
}

// isTestPackage reports whether the package holds tests for others to run, as xen/grant/granttest does.
func isTestPackage(dir string) bool { return dir != "" && strings.HasSuffix(path.Base(dir), "test") }

func matchesAny(dir string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(dir, p) })
}

// matches reports whether the package is of the pattern: itself, or with /... itself and all below.
func matches(dir, pattern string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == tree || strings.HasPrefix(dir, tree+"/")
	}
	return dir == pattern
}

func TestImportRulesCanFail(t *testing.T) {
	for _, c := range []struct {
		file, imports string
		wrong         string // "" where the import is allowed
	}{
		{"shm/x.go", "fmt", ""},
		{"shm/x.go", "golang.org/x/sys/unix", ""},
		{"shm/x.go", module + "/internal/door", ""},
		{"shm/x.go", module + "/xen/hypercall", "its room may import"},
		{"shm/x.go", "golang.org/x/net/nettest", "standard library"},
		{"shm/x_test.go", "golang.org/x/net/nettest", ""},
		{"shm/x_test.go", module + "/sim", ""},
		{"shm/x_test.go", "example.org/assert", "testLibraries"},
		{"netfront/x.go", "github.com/stretchr/testify/require", "standard library"},
		{"netfront/x.go", module + "/xen/ring", ""},
		{"netfront/x.go", module, ""},
		{"netfront/x.go", module + "/netback", "its room may import"},
		{"xen/x.go", module + "/internal/attach", ""},
		{"xen/x.go", module + "/sim", "only commands, tests and examples"},
		{"xen/x.go", module + "/sim/explore", "only commands, tests and examples"},
		{"xen/x.go", module + "/xen/vchan", "its room may import"},
		{"xen/x.go", module + "/xen/grant/granttest", "only tests"},
		{"xen/grant/granttest/x.go", "github.com/stretchr/testify/require", ""},
		{"xen/grant/granttest/x.go", module + "/xen/grant", ""},
		{"xen/grant/granttest/x.go", module + "/sim", "only commands, tests and examples"},
		{"xen/hypercall/internal/layoutgen/x.go", module + "/shm", ""},
		{"xen/hypercall/internal/layoutgen/x.go", module + "/xen/grant", "its room may import"},
		{"xen/hypercall/x.go", module + "/xen/hypercall/internal/abi", ""},
		{"virtio/net/x.go", module + "/virtio", ""},
		{"virtio/x.go", module + "/xen", "its room may import"},
		{"sim/x.go", module + "/internal/attach", ""},
		{"sim/x.go", module + "/xen/vchan", "its room may import"},
		{"cmd/hvkit/x.go", "github.com/alecthomas/kong", ""},
		{"cmd/hvkit/x.go", module + "/sim", ""},
		{"examples/echo/x.go", module + "/sim", ""},
		{"examples/echo/x.go", module + "/internal/testbed", "only the command and tests"},
		{"sim/x.go", module + "/internal/testbed", "only the command and tests"},
		{"sim/x_test.go", module + "/internal/testbed", ""},
		{"cmd/hvkit/x.go", module + "/internal/testbed", ""},
		{"internal/testbed/x.go", module + "/internal/testbed/guest", ""},
		{"internal/testbed/x.go", "github.com/u-root/u-root/pkg/cpio", ""},
		{"newroom/x.go", module + "/shm", "in no room"},
		{"newroom/x.go", "example.org/big", "standard library"},
	} {
		s, err := parse(c.file, fmt.Sprintf("package x\nimport %q\n", c.imports))
		require.NoError(t, err)
		wrong := checkImports([]*source{s})
		if c.wrong == "" {
			require.Empty(t, wrong, "%s imports %s", c.file, c.imports)
			continue
		}
		require.Len(t, wrong, 1, "%s imports %s", c.file, c.imports)
		require.Contains(t, wrong[0], c.wrong)
	}
	require.Len(t, checkArrows([]room{{"a", []string{"b"}}, {"b", []string{"a", "c"}}}), 2)
}
