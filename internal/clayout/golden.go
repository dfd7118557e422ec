package clayout

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Golden is what the C compiler said of one ABI.
type Golden struct {
	Structs map[string]*Layout
	Consts  map[string]int64
}

// Layout is how a structure lies in memory.
type Layout struct {
	Size    int
	Members map[string]Span
}

// Span is where a member is in its structure.
type Span struct{ Off, Size int }

// Read reads a golden file.
func Read(file string) (*Golden, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	g := &Golden{Structs: map[string]*Layout{}, Consts: map[string]int64{}}
	var current *Layout
	number := 0
	for l := range strings.Lines(string(text)) {
		number++
		if strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.Fields(l)
		ns := make([]int64, 0, 2)
		for len(f) > 1 {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				break
			}
			ns = append([]int64{n}, ns...)
			f = f[:len(f)-1]
		}
		switch {
		case len(f) == 2 && f[0] == "struct" && len(ns) == 1:
			current = &Layout{Size: int(ns[0]), Members: map[string]Span{}}
			g.Structs[f[1]] = current
		case len(f) >= 2 && f[0] == "const" && len(ns) == 1:
			g.Consts[strings.Join(f[1:], " ")] = ns[0]
		case len(f) == 1 && len(ns) == 2 && current != nil:
			current.Members[f[0]] = Span{int(ns[0]), int(ns[1])}
		default:
			return nil, fmt.Errorf("%s:%d: %q is no line of a golden file", file, number, strings.TrimSpace(l))
		}
	}
	return g, nil
}
