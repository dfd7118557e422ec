package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/hvkit/hvkit/internal/testbed/guest"
)

// Binary is a program of this machine for a guest.
type Binary struct {
	Path string
	// Testdata is a directory that the program finds as "testdata" in its working directory; "" is none.
	Testdata string
}

// EnvInside is set in the environment of everything that [Domain.RunBinary] runs: a test knows by it that it is inside, and where: "dom0"
// or the kind of the domain.
const EnvInside = "HVKIT_TESTBED_INSIDE"

// BuildTest builds the test binary of a package for an architecture, in dir. pkg is what the go command takes. Flags go to it, too.
func BuildTest(ctx context.Context, pkg, arch, dir string, flags ...string) (*Binary, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}\t{{.ImportPath}}", pkg)
	cmd.Env = guestEnv(arch)
	out, err := cmd.Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			err = errors.New(strings.TrimSpace(string(e.Stderr)))
		}
		return nil, fmt.Errorf("testbed: package %s: %w", pkg, err)
	}
	src, importPath, ok := strings.Cut(strings.TrimSpace(string(out)), "\t")
	if !ok || strings.Contains(importPath, "\n") {
		return nil, fmt.Errorf("testbed: %q is not one package", pkg)
	}
	b := &Binary{Path: filepath.Join(dir, path.Base(importPath)+".test")}
	if info, err := os.Stat(filepath.Join(src, "testdata")); err == nil && info.IsDir() {
		b.Testdata = filepath.Join(src, "testdata")
	}
	args := append([]string{"test", "-c", "-ldflags=-s -w", "-o", b.Path}, flags...)
	if err := goBuild(ctx, arch, append(args, importPath)...); err != nil {
		return nil, err
	}
	if _, err := os.Stat(b.Path); err != nil {
		return nil, fmt.Errorf("testbed: %s has no tests for %s", importPath, arch)
	}
	return b, nil
}

// runs numbers the directories of runs.
var runs atomic.Int64

// RunBinary copies a program into the domain, runs it there in a directory of its own, and removes that. cmd's Path and Dir are set by
// it. What it returns is as of [guest.Client.Run].
func (d *Domain) RunBinary(ctx context.Context, b *Binary, cmd *guest.Cmd) error {
	dir := "/tmp/run-" + strconv.FormatInt(runs.Add(1), 10)
	c := *cmd
	c.Dir, c.Path = dir, path.Join(dir, filepath.Base(b.Path))
	c.Env = append([]string{EnvInside + "=" + d.kind}, cmd.Env...)
	defer func() { _, _ = d.Output(context.WithoutCancel(ctx), "busybox", "rm", "-rf", dir) }()
	if err := d.PutFile(ctx, c.Path, b.Path); err != nil {
		return err
	}
	if b.Testdata != "" {
		if err := d.putTree(ctx, path.Join(dir, "testdata"), b.Testdata); err != nil {
			return err
		}
	}
	return d.Client.Run(ctx, &c)
}

// PutFile copies a file of this machine into the domain, as a program.
func (d *Domain) PutFile(ctx context.Context, to, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return d.Put(ctx, to, info.Mode(), io.Reader(f))
}

// putTree copies the files below a directory of this machine, in one archive: each file by itself would cost several requests.
func (d *Domain) putTree(ctx context.Context, to, from string) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Name: filepath.ToSlash(rel), Mode: 0o644, Size: int64(len(text))})
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	file := to + ".tar"
	if err := d.Put(ctx, file, 0o644, &archive); err != nil {
		return err
	}
	if _, err := d.Output(ctx, "busybox", "mkdir", "-p", to); err != nil {
		return err
	}
	_, err = d.Output(ctx, "busybox", "tar", "-xf", file, "-C", to)
	return err
}
