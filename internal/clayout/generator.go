package clayout

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

// Target is an ABI and who knows about it.
type Target struct {
	ABI       string      // as in the file's name
	Family    string      // which of the architecture-dependent entries it has
	Machine   elf.Machine // what its object files say
	Compilers []string    // commands: the first that is installed is used
}

// The targets.
var (
	X86_64 = Target{"x86_64", "x86", elf.EM_X86_64, []string{"x86_64-linux-gnu-gcc", "gcc"}}
	X86_32 = Target{"x86_32", "x86", elf.EM_386, []string{"i686-linux-gnu-gcc", "gcc -m32"}}
	ARM64  = Target{"arm64", "arm", elf.EM_AARCH64, []string{"aarch64-linux-gnu-gcc", "gcc"}}
)

// Generator makes golden files.
type Generator struct {
	Name    string // of the program
	What    string // of whose headers the files tell
	Prefix  string // of the files' names
	Targets []Target
	List    List
	// Source is what the C program begins with: definitions and include lines.
	Source string
	// Headers puts what the source includes into the directory dir, from the machine's include directory. The compilers find nothing
	// else beside their own: the machine's C library is for one architecture.
	Headers func(dir, include string) error
}

// Main is the main function of a generator.
func (g *Generator) Main() {
	check := flag.Bool("check", false, "compare with the files in place of writing them")
	dir := flag.String("dir", "testdata", "where the golden files are")
	include := flag.String("include", "/usr/include", "the directory that has the headers in xen/")
	flag.Parse()
	if err := g.Run(*dir, *include, *check); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", g.Name, err)
		os.Exit(1)
	}
}

// Run makes each target's file, or compares it.
func (g *Generator) Run(dir, include string, check bool) error {
	var errs []error
	for _, t := range g.Targets {
		file := filepath.Join(dir, g.File(t))
		got, err := g.layout(t, include)
		switch {
		case err != nil:
		case check:
			err = compare(file, got)
		default:
			err = os.WriteFile(file, got, 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.ABI, err))
		}
	}
	return errors.Join(errs...)
}

// File is the name of the target's golden file.
func (g *Generator) File(t Target) string { return g.Prefix + "-" + t.ABI + ".txt" }

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
func (g *Generator) layout(t Target, include string) ([]byte, error) {
	lines, exprs := g.List.questions(t)
	values, err := g.ask(t, include, exprs)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "# How C lays out %s for %s. Made by %s; not to be edited.\n", g.What, t.ABI, g.Name)
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

func (t Target) has(only string) bool { return only == "" || only == t.Family }

// ask has the target's compiler work out the expressions.
func (g *Generator) ask(t Target, include string, exprs []string) ([]int64, error) {
	tmp, err := os.MkdirTemp("", g.Name)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	source, object := filepath.Join(tmp, "layout.c"), filepath.Join(tmp, "layout.o")
	if err := os.WriteFile(source, g.program(exprs), 0o644); err != nil {
		return nil, err
	}
	cc, err := t.compiler()
	if err != nil {
		return nil, err
	}
	if err := g.Headers(tmp, include); err != nil {
		return nil, err
	}
	args := append(cc[1:], "-std=gnu99", "-ffreestanding", "-Werror", "-I", tmp, "-c", "-o", object, source)
	if out, err := exec.Command(cc[0], args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cc, " "), err, out)
	}
	return t.answers(object, len(exprs))
}

// compiler returns the command of the compiler: a program and its first arguments.
func (t Target) compiler() ([]string, error) {
	for _, command := range t.Compilers {
		cc := strings.Fields(command)
		if _, err := exec.LookPath(cc[0]); err == nil {
			return cc, nil
		}
	}
	return nil, fmt.Errorf("no compiler (%s)", strings.Join(t.Compilers, ", "))
}

// section is the section of the object file that the answers are in.
const section = ".hvkit.layout"

// program returns the C source.
func (g *Generator) program(exprs []string) []byte {
	var b bytes.Buffer
	b.WriteString("#include <stdint.h>\n#include <stddef.h>\n")
	b.WriteString(g.Source)
	fmt.Fprintf(&b, "const int64_t layout[] __attribute__((used, section(%q))) = {\n", section)
	for _, e := range exprs {
		fmt.Fprintf(&b, "\t(int64_t)(%s),\n", e)
	}
	b.WriteString("};\n")
	return b.Bytes()
}

// answers reads the array out of the object file.
func (t Target) answers(object string, n int) ([]int64, error) {
	f, err := elf.Open(object)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Machine != t.Machine {
		return nil, fmt.Errorf("the compiler is for %v, not %v", f.Machine, t.Machine)
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

// Answers returns an error unless the golden files in dir answer the list as it is. It needs no compiler.
func (g *Generator) Answers(dir string) error {
	for _, t := range g.Targets {
		file := filepath.Join(dir, g.File(t))
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines, _ := g.List.questions(t)
		for l := range strings.Lines(string(text)) {
			if strings.HasPrefix(l, "#") {
				continue
			}
			if len(lines) == 0 {
				return fmt.Errorf("%s answers what is not asked: %q", file, strings.TrimSpace(l))
			}
			rest, ok := strings.CutPrefix(l, lines[0].text+" ")
			if !ok || len(strings.Fields(rest)) != lines[0].answers {
				return fmt.Errorf("%s has %q where it is to answer %q", file, strings.TrimSpace(l), lines[0].text)
			}
			lines = lines[1:]
		}
		if len(lines) > 0 {
			return fmt.Errorf("%s does not answer %q", file, lines[0].text)
		}
	}
	return nil
}
