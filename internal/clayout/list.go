package clayout

import (
	"fmt"
	"strings"
)

// Structure is a C structure and the members that are asked about.
type Structure struct {
	Name    string   // the C type
	Members []string // one that a family of architectures has is prefixed with "x86:" or "arm:"
	Only    string   // the family that has the structure, or "" for all
}

// Constant is a C constant expression.
type Constant struct {
	Name string
	Only string // the family that has it, or "" for all
}

// Prefixed returns the constants whose names are prefix followed by each of names.
func Prefixed(prefix string, names ...string) []Constant {
	cs := make([]Constant, len(names))
	for i, n := range names {
		cs[i] = Constant{Name: prefix + n}
	}
	return cs
}

// OnlyOn marks constants that one family of architectures has.
func OnlyOn(family string, cs []Constant) []Constant {
	for i := range cs {
		cs[i].Only = family
	}
	return cs
}

// List is what is asked.
type List struct {
	Structures []Structure
	Constants  [][]Constant // in groups
}

// line is a line of the golden file: a text, and how many of the answers follow it.
type line struct {
	text    string
	answers int
}

// questions returns the lines of the target's file and the C expressions that they need.
func (l *List) questions(t Target) (lines []line, exprs []string) {
	add := func(text string, es ...string) {
		lines = append(lines, line{text, len(es)})
		exprs = append(exprs, es...)
	}
	for _, s := range l.Structures {
		if !t.has(s.Only) {
			continue
		}
		add("struct "+strings.TrimPrefix(s.Name, "struct "), "sizeof("+s.Name+")")
		for _, m := range s.Members {
			if family, name, ok := strings.Cut(m, ":"); ok {
				if !t.has(family) {
					continue
				}
				m = name
			}
			add("  "+m, fmt.Sprintf("__builtin_offsetof(%s, %s)", s.Name, m), fmt.Sprintf("sizeof(((%s *)0)->%s)", s.Name, m))
		}
	}
	for _, group := range l.Constants {
		for _, c := range group {
			if t.has(c.Only) {
				add("const "+c.Name, c.Name)
			}
		}
	}
	return lines, exprs
}
