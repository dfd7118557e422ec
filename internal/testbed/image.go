package testbed

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/u-root/u-root/pkg/cpio"
)

// image is the files of a guest, which become the kernel's initial file system.
type image struct {
	tree  string // of unpacked packages
	files map[string]cpio.Record
	libs  []string // directories of the tree that have libraries
}

func newImage(tree string) (*image, error) {
	im := &image{tree: tree, files: make(map[string]cpio.Record)}
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib64", "usr/lib64", "usr/lib/xen-*/lib"} {
		dirs, err := fs.Glob(os.DirFS(tree), pattern)
		if err != nil {
			return nil, err
		}
		im.libs = append(im.libs, dirs...)
	}
	for _, d := range []string{"dev", "proc", "sys", "tmp", "run", "var", "etc", "root"} {
		im.files[d] = cpio.Directory(d, 0o755)
	}
	// The kernel opens it for process 1 before that has mounted anything.
	im.files["dev/console"] = cpio.CharDev("dev/console", 0o600, 5, 1)
	return im, nil
}

// text adds a file with that content.
func (im *image) text(name, content string) {
	im.files[name] = cpio.StaticFile(name, content, 0o644)
}

// applets are what programs and people expect of a system, and busybox does.
var applets = strings.Fields(`awk basename cat chmod cp cut date dd df dirname dmesg echo env false find free grep head hostname id ip kill
	ln ls lsmod mkdir mknod mktemp mount mv ps pwd readlink rm rmdir sed seq sh sha256sum sleep sort stat stty sync tail tar test time timeout
	top touch tr true tty umount uname uniq vi wc which xargs`)

// shell adds the names that busybox goes by.
func (im *image) shell() {
	for _, a := range applets {
		im.files["bin/"+a] = cpio.Symlink("bin/"+a, "busybox")
	}
}

// host adds a file of this machine.
func (im *image) host(name, from string, mode uint64) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	im.files[name] = cpio.StaticFile(name, string(b), mode)
	return nil
}

// file adds a file of the tree under its own name, and what a symbolic link leads to, whose name it returns. Links lead to where they
// would lead if the tree were the root.
func (im *image) file(name string) (string, error) {
	full := filepath.Join(im.tree, name)
	for range maxLinks {
		info, err := os.Lstat(full)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			if _, ok := im.files[name]; ok {
				return name, nil
			}
			return name, im.host(name, full, uint64(info.Mode().Perm()))
		}
		to, err := os.Readlink(full)
		if err != nil {
			return "", err
		}
		im.files[name] = cpio.Symlink(name, to)
		if !path.IsAbs(to) {
			to = path.Join("/", path.Dir(name), to)
		}
		name = strings.TrimPrefix(path.Clean(to), "/")
		full = filepath.Join(im.tree, name)
	}
	return "", fmt.Errorf("testbed: %s: more than %d symbolic links", name, maxLinks)
}

const maxLinks = 10

// program adds a file of the tree and, if it is a program, its interpreter and the libraries that it needs.
func (im *image) program(name string) error {
	name, err := im.file(name)
	if err != nil {
		return err
	}
	f, err := elf.Open(filepath.Join(im.tree, name))
	if err != nil {
		return ignoreFormat(err) // a script
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		if _, err := im.file(strings.Trim(string(b), "/\x00")); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range needed {
		if err := im.library(lib); err != nil {
			return fmt.Errorf("%s needs %w", name, err)
		}
	}
	return nil
}

func ignoreFormat(err error) error {
	if _, ok := errors.AsType[*elf.FormatError](err); ok || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (im *image) library(lib string) error {
	for _, dir := range im.libs {
		name := path.Join(dir, lib)
		if _, ok := im.files[name]; ok {
			return nil
		}
		if _, err := os.Lstat(filepath.Join(im.tree, name)); err == nil {
			return im.program(name)
		}
	}
	return fmt.Errorf("%s, which is in no package", lib)
}

// modules adds modules and those that they need, and returns them in the order in which they are loaded. What follows a name after a
// space are the module's parameters.
func (im *image) modules(wanted []string) ([]guest.Module, error) {
	all := make(map[string]string) // name with underscores to path
	err := fs.WalkDir(os.DirFS(im.tree), "lib/modules", func(p string, _ fs.DirEntry, err error) error {
		if stem, ok := strings.CutSuffix(path.Base(p), ".ko"); ok {
			all[moduleName(stem)] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := im.builtin()
	if err != nil {
		return nil, err
	}
	var order []guest.Module
	var add func(name, parameters string) error
	add = func(name, parameters string) error {
		p, ok := all[moduleName(name)]
		switch {
		case builtin[moduleName(name)], slices.ContainsFunc(order, func(m guest.Module) bool { return m.Path == "/"+p }):
			return nil
		case !ok:
			return fmt.Errorf("testbed: the kernel has no module %s", name)
		}
		needs, err := moduleNeeds(filepath.Join(im.tree, p))
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n, ""); err != nil {
				return err
			}
		}
		order = append(order, guest.Module{Path: "/" + p, Parameters: parameters})
		_, err = im.file(p)
		return err
	}
	for _, w := range wanted {
		name, parameters, _ := strings.Cut(w, " ")
		if err := add(name, parameters); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// builtin returns the modules that are in the kernel itself.
func (im *image) builtin() (map[string]bool, error) {
	list, err := one(im.tree, "lib/modules/*/modules.builtin")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(im.tree, list))
	names := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		names[moduleName(strings.TrimSuffix(path.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	return names, err
}

// moduleName is how the kernel writes it: dashes and underscores are the same.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// moduleNeeds returns the names of the modules that a module needs, as it says itself: modules.dep is made when a kernel is installed,
// which this one never is.
func moduleNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	defer func() { _ = f.Close() }()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("%s has no .modinfo", file)
	}
	info, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := strings.CutPrefix(string(entry), "depends="); ok && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}

// config adds what init reads.
func (im *image) config(c *guest.Config) error {
	text, err := json.Marshal(c)
	im.text(strings.TrimPrefix(guest.ConfigPath, "/"), string(text))
	return err
}

// write writes the archive. It is the same for the same files.
func (im *image) write(w io.Writer) error {
	names := make([]string, 0, len(im.files))
	for n := range im.files {
		names = append(names, n)
	}
	slices.Sort(names)
	rw := cpio.NewDedupWriter(cpio.Newc.Writer(w))
	records := make([]cpio.Record, 0, len(names))
	for _, n := range names {
		records = append(records, im.files[n])
	}
	cpio.MakeAllReproducible(records)
	if err := cpio.WriteRecordsAndDirs(rw, records); err != nil {
		return err
	}
	return cpio.WriteTrailer(rw)
}

func (im *image) bytes() ([]byte, error) {
	var b bytes.Buffer
	err := im.write(&b)
	return b.Bytes(), err
}
