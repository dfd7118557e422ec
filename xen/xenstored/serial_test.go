package xenstored_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What transactions of a history work on are lists, to which they append names that are used once: the final list shows in which order
// that happened, and what a transaction has read shows where in this order it stands. A list is a directory (its children, in order of
// creation) or a value (names with a comma behind each).

// look is one reading of a list: its names, without those that the transaction itself had appended by then.
type look struct {
	list  string
	names []string
}

// outcome is how a transaction ended.
type outcome uint8

const (
	committed outcome = iota
	conflicted
	aborted
)

// txn is what a client knows of a transaction, or of a single request, which is a transaction of its own. Times are of a clock that
// never shows the same twice.
type txn struct {
	name            string
	start, end, ret int64 // when it was begun, when it was to be ended, when the answer had come
	looks           []look
	appends         map[string]string // list to the name that was appended
	outcome         outcome
}

// checkSerial returns what is wrong with the history of some lists, whose final state it is told: the transactions that committed, and what
// the others saw, must be as if all had been made one after the other, in an order in which whoever had ended before another one began
// stands before it; nothing of those that did not commit may be there; and a transaction must have conflicted where, and only where, what
// it had touched was changed by another one in between.
func checkSerial(final map[string][]string, history []txn) error {
	g := newGraph(final, history)
	for i := range history {
		if err := g.place(i); err != nil {
			return err
		}
	}
	for list, names := range final {
		for at, name := range names {
			w, ok := g.writer[list+" "+name]
			if !ok {
				return fmt.Errorf("%s has %s, which no transaction that committed has appended", list, name)
			}
			if at > 0 {
				g.edge(g.writer[list+" "+names[at-1]], w)
			}
		}
	}
	for i := range history {
		if err := g.conflicts(i); err != nil {
			return err
		}
		for j := range history {
			if history[i].ret < history[j].start {
				g.edge(i, j)
			}
		}
	}
	return g.cycle()
}

// graph has an edge from each transaction to those that must stand behind it.
type graph struct {
	final   map[string][]string
	history []txn
	writer  map[string]int // "list name" to the transaction that has appended the name, and committed
	after   []map[int]bool
}

func newGraph(final map[string][]string, history []txn) *graph {
	g := &graph{final: final, history: history, writer: map[string]int{}, after: make([]map[int]bool, len(history))}
	for i := range history {
		g.after[i] = map[int]bool{}
		if history[i].outcome != committed {
			continue
		}
		for list, name := range history[i].appends {
			g.writer[list+" "+name] = i
		}
	}
	return g
}

func (g *graph) edge(from, to int) {
	if from != to {
		g.after[from][to] = true
	}
}

// place gives a transaction its edges to those whose work it has seen or not seen.
func (g *graph) place(i int) error {
	x := &g.history[i]
	for list, name := range x.appends {
		if there := slices.Contains(g.final[list], name); there != (x.outcome == committed) {
			return fmt.Errorf("%s: %s is in %s: %v, which is not how it ended", x.name, name, list, there)
		}
	}
	for _, l := range x.looks {
		final := g.final[l.list]
		n := len(l.names)
		if n > len(final) || !slices.Equal(final[:n], l.names) {
			return fmt.Errorf("%s has seen %s as %v, which it never was: in the end it is %v", x.name, l.list, l.names, final)
		}
		if n > 0 {
			g.edge(g.writer[l.list+" "+final[n-1]], i)
		}
		if n < len(final) {
			g.edge(i, g.writer[l.list+" "+final[n]])
		}
	}
	return nil
}

// conflicts holds the end of a transaction against the rule.
func (g *graph) conflicts(i int) error {
	x := &g.history[i]
	reason := false
	for _, l := range x.looks {
		final, n := g.final[l.list], len(l.names)
		if n == len(final) {
			continue
		}
		w := g.writer[l.list+" "+final[n]]
		next := &g.history[w]
		if w != i && x.outcome == committed && next.ret < x.end {
			return fmt.Errorf("%s committed, and %s had changed %s before", x.name, next.name, l.list)
		}
		reason = reason || next.end < x.ret
	}
	for list, name := range x.appends {
		at := slices.Index(g.final[list], name)
		for _, other := range g.final[list] {
			next := &g.history[g.writer[list+" "+other]]
			reason = reason || next.ret > x.start && next.end < x.ret
		}
		for _, l := range x.looks {
			if x.outcome == committed && l.list == list && len(l.names) != at {
				return fmt.Errorf("%s committed, and %s was changed before it appended %s to it as %v", x.name, list, name, l.names)
			}
		}
	}
	if x.outcome == conflicted && !reason {
		return fmt.Errorf("%s conflicted, and nothing that it touched was changed by others: looks %v, appends %v", x.name, x.looks, x.appends)
	}
	return nil
}

// cycle returns an error that names transactions of which each must stand before the next, and the last before the first.
func (g *graph) cycle() error {
	const (
		fresh = iota
		open
		done
	)
	state := make([]int, len(g.history))
	var path []int
	var visit func(i int) []int
	visit = func(i int) []int {
		state[i] = open
		path = append(path, i)
		for j := range g.after[i] {
			switch state[j] {
			case open:
				return path[slices.Index(path, j):]
			case fresh:
				if c := visit(j); c != nil {
					return c
				}
			}
		}
		state[i] = done
		path = path[:len(path)-1]
		return nil
	}
	for i := range g.history {
		if state[i] != fresh {
			continue
		}
		if c := visit(i); c != nil {
			var b strings.Builder
			for _, j := range c {
				x := &g.history[j]
				fmt.Fprintf(&b, "\n%s [%d, %d, %d] %v looks %v appends %v", x.name, x.start, x.end, x.ret, x.outcome, x.looks, x.appends)
			}
			return fmt.Errorf("each of these must stand before the next, and the last before the first:%s", b.String())
		}
	}
	return nil
}

// TestCheckSerialCanFail gives the checker histories that are right, and such that are not, each for another reason.
func TestCheckSerialCanFail(t *testing.T) {
	at := func(name string, start, end, ret int64, o outcome, appends map[string]string, looks ...look) txn {
		return txn{name: name, start: start, end: end, ret: ret, looks: looks, appends: appends, outcome: o}
	}
	x := func(names ...string) look { return look{"x", names} }
	y := func(names ...string) look { return look{"y", names} }
	to := func(list, name string) map[string]string { return map[string]string{list: name} }
	for name, tc := range map[string]struct {
		final   map[string][]string
		history []txn
		want    string // "" : nothing is wrong
	}{
		"one after the other": {map[string][]string{"x": {"a", "b"}}, []txn{
			at("A", 1, 2, 3, committed, to("x", "a"), x()), at("B", 4, 5, 6, committed, to("x", "b"), x("a")),
		}, ""},
		"the loser conflicts": {map[string][]string{"x": {"a"}}, []txn{
			at("A", 1, 3, 5, committed, to("x", "a"), x()), at("B", 2, 4, 6, conflicted, to("x", "b"), x()),
		}, ""},
		"blind appends at once": {map[string][]string{"x": {"a", "b"}}, []txn{
			at("A", 1, 2, 9, committed, to("x", "a")), at("B", 1, 2, 9, committed, to("x", "b")),
		}, ""},
		"lost update": {map[string][]string{"x": {"b"}}, []txn{
			at("A", 1, 3, 5, committed, to("x", "a"), x()), at("B", 2, 4, 6, committed, to("x", "b"), x()),
		}, "not how it ended"},
		"appended to what it had not seen": {map[string][]string{"x": {"a", "b"}}, []txn{
			at("A", 1, 3, 5, committed, to("x", "a"), x()), at("B", 2, 4, 6, committed, to("x", "b"), x()),
		}, "changed before"},
		"work of one that conflicted": {map[string][]string{"x": {"a", "b"}}, []txn{
			at("A", 1, 3, 5, committed, to("x", "a"), x()), at("B", 2, 4, 6, conflicted, to("x", "b"), x("a")),
		}, "not how it ended"},
		"dirty read": {map[string][]string{"x": {}}, []txn{
			at("A", 1, 3, 5, aborted, to("x", "a"), x()), at("B", 2, 4, 6, committed, nil, x("a")),
		}, "never was"},
		"write skew": {map[string][]string{"x": {"a"}, "y": {"b"}}, []txn{
			at("A", 1, 3, 5, committed, to("x", "a"), x(), y()), at("B", 2, 4, 6, committed, to("y", "b"), x(), y()),
		}, "must stand before"},
		"a view of two moments, of one that conflicts": {map[string][]string{"x": {"a"}, "y": {"a"}}, []txn{
			at("A", 2, 3, 4, committed, map[string]string{"x": "a", "y": "a"}, x(), y()), at("B", 1, 8, 9, conflicted, nil, x(), y("a")),
		}, "must stand before"},
		"half of a transaction": {map[string][]string{"x": {"a"}, "y": {}}, []txn{
			at("A", 2, 3, 4, committed, map[string]string{"x": "a", "y": "a"}, x(), y()),
		}, "not how it ended"},
		"stale read": {map[string][]string{"x": {"a"}}, []txn{
			at("A", 1, 2, 3, committed, to("x", "a"), x()), at("B", 4, 5, 6, committed, nil, x()),
		}, "had changed x before"},
		"stale read, by one that gives up": {map[string][]string{"x": {"a"}}, []txn{
			at("A", 1, 2, 3, committed, to("x", "a"), x()), at("B", 4, 5, 6, aborted, nil, x()),
		}, "must stand before"},
		"committed although what it read had changed": {map[string][]string{"x": {"a"}}, []txn{
			at("A", 2, 3, 4, committed, to("x", "a"), x()), at("B", 1, 5, 6, committed, nil, x()),
		}, "had changed x before"},
		"conflict for nothing": {map[string][]string{"x": {"a"}, "y": {}}, []txn{
			at("A", 1, 2, 3, committed, to("x", "a"), x()), at("B", 1, 2, 3, conflicted, nil, y()),
		}, "nothing that it touched"},
		"out of nowhere": {map[string][]string{"x": {"a"}}, nil, "no transaction"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkSerial(tc.final, tc.history)
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
		})
	}
}
