package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// MissingError is something that this machine does not have, and how to mend it.
type MissingError struct {
	What string
	Mend string
	Err  error
}

func (e *MissingError) Error() string {
	s := "testbed: " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Mend != "" {
		s += " (" + e.Mend + ")"
	}
	return s
}

func (e *MissingError) Unwrap() error { return e.Err }

// packageSet is a tree of unpacked packages.
type packageSet struct {
	name  string
	arch  string
	roots []string
	keep  []string
}

func (r *Recipe) packages() *packageSet {
	name := r.Tree
	if name == "" {
		name = r.Name
	}
	return &packageSet{name, r.Arch, r.Packages, r.Keep}
}

// emulators is QEMU, for machines that have none.
func emulators() *packageSet {
	return &packageSet{
		"qemu-" + runtime.GOARCH, runtime.GOARCH, []string{"qemu-system-x86", "qemu-system-arm", "seabios"},
		[]string{"lib*", "zlib1g", "qemu-system-common", "qemu-system-data"},
	}
}

// tree returns the directory that the set is unpacked in, and fetches it if it is not there.
func (c *Cache) tree(ctx context.Context, s *packageSet, log io.Writer) (string, error) {
	dir := filepath.Join(c.dir, s.name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	unlock, err := c.lock(ctx, s.name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // another process was faster
	}
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", &MissingError{"packages are fetched with " + tool, "it comes with Debian", err}
		}
	}
	tmp, err := os.MkdirTemp(c.dir, s.name+".new-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := c.fetch(ctx, s, tmp, log); err != nil {
		return "", &MissingError{"fetch the packages of " + s.name, "is there a Debian archive in apt's sources, and a way to it?", err}
	}
	if err := os.Rename(filepath.Join(tmp, "tree"), dir); err != nil {
		return "", err
	}
	return dir, nil
}

// fetch resolves, downloads and unpacks a set into tmp/tree.
func (c *Cache) fetch(ctx context.Context, s *packageSet, tmp string, log io.Writer) error {
	a, err := newApt(tmp, s.arch)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "testbed: reading the archive's list of packages for %s\n", s.arch)
	if _, err := a.run(ctx, "update"); err != nil {
		return err
	}
	names, err := a.resolve(ctx, s)
	if err != nil {
		return err
	}
	debs := filepath.Join(tmp, "debs")
	tree := filepath.Join(tmp, "tree")
	if err := errors.Join(os.Mkdir(debs, 0o755), os.Mkdir(tree, 0o755)); err != nil {
		return err
	}
	fmt.Fprintf(log, "testbed: fetching %d packages for %s\n", len(names), s.name)
	a.dir = debs
	if _, err := a.run(ctx, append([]string{"download"}, names...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", f, tree).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(f), err, out)
		}
	}
	return os.WriteFile(filepath.Join(tree, "packages"), []byte(strings.Join(baseNames(files), "\n")+"\n"), 0o644)
}

func baseNames(files []string) []string {
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	return names
}

// apt runs apt-get with a state of its own: the machine's sources and keys, but another list of installed packages (none) and another
// architecture. So nothing of the machine changes, root is not needed, and the answer does not depend on what is installed.
type apt struct {
	conf string
	dir  string
}

func newApt(tmp, arch string) (*apt, error) {
	state := filepath.Join(tmp, "apt")
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(state, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Log "%[1]s/log";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "";
APT::Update::Post-Invoke {};
APT::Update::Post-Invoke-Success {};
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
`, state, arch)
	if err := os.WriteFile(filepath.Join(state, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	a := &apt{conf: filepath.Join(state, "apt.conf"), dir: tmp}
	return a, os.WriteFile(a.conf, []byte(conf), 0o644)
}

func (a *apt) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("apt-get %s: %w: %s", args[0], err, strings.Join(lines[max(0, len(lines)-5):], "; "))
	}
	return string(out), nil
}

// resolve returns the packages that the roots need, themselves among them, with versions: what an installation on an empty machine would
// have, as far as the set keeps it.
func (a *apt) resolve(ctx context.Context, s *packageSet) ([]string, error) {
	out, err := a.run(ctx, append([]string{"install", "-s", "--no-install-recommends"}, s.roots...)...)
	if err != nil {
		return nil, err
	}
	names := s.choose(out)
	if len(names) == 0 {
		return nil, fmt.Errorf("apt-get would install nothing for %q", s.roots)
	}
	return names, nil
}

// choose returns, of what apt-get would install, what the set keeps, as names with versions.
func (s *packageSet) choose(simulation string) []string {
	var names []string
	for line := range strings.Lines(simulation) {
		// "Inst libc6 (2.36-9 Debian:12 [amd64])"
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "Inst" {
			continue
		}
		name, _, _ := strings.Cut(f[1], ":")
		keep := func(pattern string) bool { ok, _ := path.Match(pattern, name); return ok }
		if slices.Contains(s.roots, name) || slices.ContainsFunc(s.keep, keep) {
			names = append(names, name+"="+strings.TrimPrefix(f[2], "("))
		}
	}
	return names
}

// one returns the only file of a tree that matches a pattern, as a slash-separated path within it. Of several the last by name counts.
func one(tree, pattern string) (string, error) {
	all, err := match(tree, pattern)
	if err != nil {
		return "", err
	}
	return all[len(all)-1], nil
}

// match returns the files of a tree that match a pattern.
func match(tree, pattern string) ([]string, error) {
	all, err := fs.Glob(os.DirFS(tree), pattern)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("testbed: no %s in %s", pattern, tree)
	}
	slices.Sort(all)
	return all, err
}
