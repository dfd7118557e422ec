// Layoutgen asks C compilers how Xen's public headers lay out what package hypercall has codecs and constants for, and writes the
// answers to the golden files that the package's tests compare with:
//
//	go run ./internal/layoutgen          (in xen/hypercall) writes testdata/layout-x86_64.txt and its like
//	go run ./internal/layoutgen -check   compares them with what the compilers say now, and fails if they differ
//
// It needs the headers (Debian: libxen-dev) and a compiler for each architecture (Debian: gcc on x86-64, gcc-i686-linux-gnu,
// gcc-aarch64-linux-gnu). Nothing that it compiles is run: the answers are the initialisers of an array in the object file.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// target is an ABI and who knows about it.
type target struct {
	abi       string      // as in the file's name
	family    string      // which of the architecture-dependent entries it has
	machine   elf.Machine // what its object files say
	compilers []string    // commands: the first that is installed is used
}

var targets = []target{
	{"x86_64", "x86", elf.EM_X86_64, []string{"x86_64-linux-gnu-gcc", "gcc"}},
	{"x86_32", "x86", elf.EM_386, []string{"i686-linux-gnu-gcc", "gcc -m32"}},
	{"arm64", "arm", elf.EM_AARCH64, []string{"aarch64-linux-gnu-gcc", "gcc"}},
}

func main() {
	check := flag.Bool("check", false, "compare with the files in place of writing them")
	dir := flag.String("dir", "testdata", "where the golden files are")
	include := flag.String("include", "/usr/include", "the directory that has Xen's public headers in xen/")
	flag.Parse()
	if err := run(*dir, *include, *check); err != nil {
		fmt.Fprintln(os.Stderr, "layoutgen:", err)
		os.Exit(1)
	}
}

// run makes each target's file, or compares it.
func run(dir, include string, check bool) error {
	var errs []error
	for _, t := range targets {
		file := filepath.Join(dir, "layout-"+t.abi+".txt")
		got, err := t.layout(include)
		switch {
		case err != nil:
		case check:
			err = compare(file, got)
		default:
			err = os.WriteFile(file, got, 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.abi, err))
		}
	}
	return errors.Join(errs...)
}

// compare returns an error that names the first line in which the file differs from what the compiler said.
func compare(file string, got []byte) error {
	want, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if bytes.Equal(got, want) {
		return nil
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Errorf("%s:%d has %q, the compiler says %q", file, i+1, w[i], g[i])
		}
	}
	return fmt.Errorf("%s has %d lines, the compiler says %d", file, len(w), len(g))
}

// layout returns the golden file of a target.
func (t target) layout(include string) ([]byte, error) {
	lines, exprs := t.questions()
	values, err := t.ask(include, exprs)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# How C lays out Xen's public headers for %s. Made by layoutgen; not to be edited.\n", t.abi)
	fmt.Fprintf(&out, "# struct <name> <size>, its members with offset and size; const <expression> <value>\n")
	for _, l := range lines {
		out.WriteString(l.text)
		for range l.answers {
			fmt.Fprintf(&out, " %d", values[0])
			values = values[1:]
		}
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// line is a line of the golden file: a text, and how many of the answers follow it.
type line struct {
	text    string
	answers int
}

// questions returns the lines of the file and the C expressions that they need.
func (t target) questions() (lines []line, exprs []string) {
	add := func(text string, es ...string) {
		lines = append(lines, line{text, len(es)})
		exprs = append(exprs, es...)
	}
	for _, s := range structures {
		if !t.has(s.only) {
			continue
		}
		add("struct "+strings.TrimPrefix(s.name, "struct "), "sizeof("+s.name+")")
		for _, m := range s.members {
			if family, name, ok := strings.Cut(m, ":"); ok {
				if !t.has(family) {
					continue
				}
				m = name
			}
			add("  "+m, fmt.Sprintf("__builtin_offsetof(%s, %s)", s.name, m), fmt.Sprintf("sizeof(((%s *)0)->%s)", s.name, m))
		}
	}
	for _, group := range constants {
		for _, c := range group {
			if t.has(c.only) {
				add("const "+c.name, c.name)
			}
		}
	}
	return lines, exprs
}

func (t target) has(only string) bool { return only == "" || only == t.family }

// ask has the target's compiler work out the expressions.
func (t target) ask(include string, exprs []string) ([]int64, error) {
	tmp, err := os.MkdirTemp("", "layoutgen")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	source, object := filepath.Join(tmp, "layout.c"), filepath.Join(tmp, "layout.o")
	if err := os.WriteFile(source, program(exprs), 0o644); err != nil {
		return nil, err
	}
	cc, err := t.compiler()
	if err != nil {
		return nil, err
	}
	headers, err := linkHeaders(tmp, include)
	if err != nil {
		return nil, err
	}
	args := append(cc[1:], "-std=gnu99", "-ffreestanding", "-Werror", "-I", headers, "-c", "-o", object, source)
	if out, err := exec.Command(cc[0], args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cc, " "), err, out)
	}
	return t.answers(object, len(exprs))
}

// linkHeaders returns a directory that has the public headers and nothing of the machine's C library, which is for one architecture.
func linkHeaders(tmp, include string) (string, error) {
	xen, err := filepath.Abs(filepath.Join(include, "xen"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(xen, "xen.h")); err != nil {
		return "", fmt.Errorf("no public headers of Xen (on Debian: apt-get install libxen-dev): %w", err)
	}
	return tmp, os.Symlink(xen, filepath.Join(tmp, "xen"))
}

// compiler returns the command of the compiler: a program and its first arguments.
func (t target) compiler() ([]string, error) {
	for _, command := range t.compilers {
		cc := strings.Fields(command)
		if _, err := exec.LookPath(cc[0]); err == nil {
			return cc, nil
		}
	}
	return nil, fmt.Errorf("no compiler (%s)", strings.Join(t.compilers, ", "))
}

// section is the section of the object file that the answers are in.
const section = ".hvkit.layout"

// program returns the C source. Only the hypervisor and its tools get the latest interface; a guest says which one it wants.
func program(exprs []string) []byte {
	var b bytes.Buffer
	b.WriteString("#include <stdint.h>\n#include <stddef.h>\n")
	b.WriteString("#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__\n")
	for _, h := range headers {
		fmt.Fprintf(&b, "#include <xen/%s>\n", h)
	}
	fmt.Fprintf(&b, "const int64_t layout[] __attribute__((used, section(%q))) = {\n", section)
	for _, e := range exprs {
		fmt.Fprintf(&b, "\t(int64_t)(%s),\n", e)
	}
	b.WriteString("};\n")
	return b.Bytes()
}

// answers reads the array out of the object file.
func (t target) answers(object string, n int) ([]int64, error) {
	f, err := elf.Open(object)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Machine != t.machine {
		return nil, fmt.Errorf("the compiler is for %v, not %v", f.Machine, t.machine)
	}
	s := f.Section(section)
	if s == nil {
		return nil, fmt.Errorf("no section %s in the object file", section)
	}
	data, err := s.Data()
	if err != nil {
		return nil, err
	}
	if len(data) != 8*n {
		return nil, fmt.Errorf("section %s has %d bytes, not %d", section, len(data), 8*n)
	}
	values := make([]int64, n)
	for i := range values {
		values[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
	}
	return values, nil
}
