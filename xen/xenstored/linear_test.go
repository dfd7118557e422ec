package xenstored_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// single is a request outside of transactions.
type single struct {
	tree  string // under which it works: trees have nothing to do with each other
	typ   xenstore.MsgType
	path  string // of the node, in the tree
	value string // of a WRITE
}

// nodes is a tree as the model has it: "path=value" lines, in order of creation, of the nodes under the tree's directory, which is
// always there itself.
type nodes string

func (s nodes) split() []string {
	if s == "" {
		return nil
	}
	return strings.Split(string(s), "\n")
}

func (s nodes) find(path string) (value string, at int) {
	for i, line := range s.split() {
		if p, v, _ := strings.Cut(line, "="); p == path {
			return v, i
		}
	}
	return "", -1
}

func (s nodes) there(path string) bool {
	_, at := s.find(path)
	return path == "" || at >= 0
}

// write makes a node, with those above it, or changes its value.
func (s nodes) write(path, value string) nodes {
	lines := s.split()
	if _, at := s.find(path); at >= 0 {
		lines[at] = path + "=" + value
		return nodes(strings.Join(lines, "\n"))
	}
	for i := range path {
		if up := path[:i]; i > 0 && path[i] == '/' && !s.there(up) {
			lines = append(lines, up+"=")
		}
	}
	return nodes(strings.Join(append(lines, path+"="+value), "\n"))
}

func (s nodes) remove(path string) nodes {
	lines := slices.DeleteFunc(s.split(), func(line string) bool {
		p, _, _ := strings.Cut(line, "=")
		return xenstore.Within(p, path)
	})
	return nodes(strings.Join(lines, "\n"))
}

// children returns names in order of creation.
func (s nodes) children(path string) (names []string) {
	for _, line := range s.split() {
		p, _, _ := strings.Cut(line, "=")
		if name, ok := strings.CutPrefix(p, path+"/"); ok && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

// above returns the path of the node above one: "" for those right in the tree's directory.
func above(path string) string { return path[:strings.LastIndexByte(path, '/')] }

// step is what a request does to a tree, and is answered.
func (s nodes) step(q single) (nodes, string) {
	value, at := s.find(q.path)
	switch {
	case q.typ == xenstore.MsgWrite:
		return s.write(q.path, q.value), "OK"
	case q.typ == xenstore.MsgMkdir && s.there(q.path):
		return s, "OK"
	case q.typ == xenstore.MsgMkdir:
		return s.write(q.path, ""), "OK"
	case q.typ == xenstore.MsgRemove && at < 0 && s.there(above(q.path)):
		return s, "OK"
	case !s.there(q.path):
		return s, "ENOENT"
	case q.typ == xenstore.MsgRemove:
		return s.remove(q.path), "OK"
	case q.typ == xenstore.MsgDirectory:
		return s, fmt.Sprint(s.children(q.path))
	}
	return s, value
}

// answer is what a client says of a request in the words of the model.
func (q single) answer(value string, names []string, err error) (string, error) {
	switch {
	case errors.Is(err, xenstore.ENOENT):
		return "ENOENT", nil
	case err != nil:
		return "", err
	case q.typ == xenstore.MsgRead:
		return value, nil
	case q.typ == xenstore.MsgDirectory:
		return fmt.Sprint(names), nil
	}
	return "OK", nil
}

// linear is the model of single requests: each takes effect at one moment between the call and its return.
var linear = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[string]int{}
		for _, op := range history {
			tree := op.Input.(single).tree
			if _, ok := at[tree]; !ok {
				at[tree] = len(parts)
				parts = append(parts, nil)
			}
			parts[at[tree]] = append(parts[at[tree]], op)
		}
		return parts
	},
	Init: func() any { return nodes("") },
	Step: func(state, input, output any) (bool, any) {
		next, answer := state.(nodes).step(input.(single))
		return answer == output.(string), next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v: %v", input, output) },
}

// linearPatience bounds the search for an order.
const linearPatience = 20 * time.Second

// checkLinear returns an error if there is no order of the requests in which their answers are right.
func checkLinear(history []porcupine.Operation) error {
	for _, part := range linear.Partition(history) {
		model := linear
		model.Partition = nil
		switch result := porcupine.CheckOperationsTimeout(model, part, linearPatience); result {
		case porcupine.Ok:
		case porcupine.Unknown:
			return fmt.Errorf("no order of %d requests was found, or excluded, in %v", len(part), linearPatience)
		default:
			var b strings.Builder
			slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
			for _, op := range part {
				fmt.Fprintf(&b, "\n[%d, %d] client %d: %s", op.Call, op.Return, op.ClientId, linear.DescribeOperation(op.Input, op.Output))
			}
			return fmt.Errorf("there is no order in which these answers are right:%s", b.String())
		}
	}
	return nil
}

// TestCheckLinearCanFail gives the checker histories that are right, and such that are not.
func TestCheckLinearCanFail(t *testing.T) {
	at := func(call, ret int64, typ xenstore.MsgType, path, value, answer string) porcupine.Operation {
		return porcupine.Operation{Input: single{"t", typ, path, value}, Output: answer, Call: call, Return: ret}
	}
	const read, write, rm, ls, mkdir = xenstore.MsgRead, xenstore.MsgWrite, xenstore.MsgRemove, xenstore.MsgDirectory, xenstore.MsgMkdir
	for name, tc := range map[string]struct {
		history []porcupine.Operation
		right   bool
	}{
		"in order": {[]porcupine.Operation{
			at(1, 2, read, "/a", "", "ENOENT"), at(3, 4, write, "/a/b", "1", "OK"), at(5, 6, read, "/a", "", ""),
			at(7, 8, mkdir, "/a", "", "OK"), at(9, 10, read, "/a/b", "", "1"), at(11, 12, ls, "/a", "", "[b]"), at(13, 14, rm, "/a", "", "OK"),
			at(15, 16, rm, "/a/b", "", "ENOENT"), at(17, 18, ls, "", "", "[]"),
		}, true},
		"at once": {[]porcupine.Operation{at(1, 9, write, "/a", "1", "OK"), at(2, 8, read, "/a", "", "1")}, true},
		"not yet": {[]porcupine.Operation{at(1, 9, write, "/a", "1", "OK"), at(2, 8, read, "/a", "", "ENOENT")}, true},
		"stale":   {[]porcupine.Operation{at(1, 2, write, "/a", "1", "OK"), at(3, 4, read, "/a", "", "ENOENT")}, false},
		"back in time": {[]porcupine.Operation{
			at(1, 9, write, "/a", "1", "OK"), at(2, 3, read, "/a", "", "1"), at(4, 5, read, "/a", "", "ENOENT"),
		}, false},
		"out of nowhere": {[]porcupine.Operation{at(1, 2, read, "/a", "", "1")}, false},
		"order of names": {[]porcupine.Operation{
			at(1, 2, mkdir, "/b", "", "OK"), at(3, 4, mkdir, "/a", "", "OK"), at(5, 6, ls, "", "", "[a b]"),
		}, false},
		"half of a write": {[]porcupine.Operation{at(1, 2, write, "/a/b", "1", "OK"), at(3, 4, ls, "", "", "[]")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkLinear(tc.history)
			if tc.right {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "no order")
			}
		})
	}
}
