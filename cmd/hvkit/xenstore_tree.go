package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/xenstore"
)

type xenstoreTreeCmd struct {
	Full  bool   `short:"f" help:"Print full paths."`
	Perms bool   `short:"p" help:"Print the permissions as well."`
	JSON  bool   `name:"json" help:"Print a list of nodes."`
	Path  string `arg:"" default:"/" help:"The node at the top."`
}

// Help has the examples.
func (*xenstoreTreeCmd) Help() string {
	return `Nodes that the caller may not read are shown with "(permission denied)".

Examples:

    hvkit xenstore tree
    hvkit xenstore tree -p /local/domain/1
    hvkit xenstore tree --json / | python3 -m json.tool`
}

// node is one line of a tree.
type node struct {
	Path  string   `json:"path"`
	Value *string  `json:"value,omitempty"`
	Perms []string `json:"perms,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Run prints the tree.
func (c *xenstoreTreeCmd) Run(ctx context.Context, s *streams, x *xenstoreCmd) error {
	return x.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		nodes := []node{}
		err := walk(ctx, store, c.Path, func(path string, depth int) error {
			n, err := c.look(ctx, store, path)
			if err != nil {
				return err
			}
			if c.JSON {
				nodes = append(nodes, n)
				return nil
			}
			fmt.Fprintln(s.out, c.line(n, depth))
			return nil
		})
		if err != nil || !c.JSON {
			return err
		}
		return writeJSON(s.out, nodes)
	})
}

// look reads a node. That it may not be read is part of what is seen.
func (c *xenstoreTreeCmd) look(ctx context.Context, store *xenstore.Client, path string) (node, error) {
	n := node{Path: path}
	value, err := store.Read(ctx, path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		n.Error = "permission denied"
		return n, nil
	case err != nil:
		return n, err
	}
	text := string(value)
	n.Value = &text
	if !c.Perms {
		return n, nil
	}
	perms, err := store.Perms(ctx, path)
	for _, p := range perms {
		n.Perms = append(n.Perms, p.String())
	}
	return n, err
}

func (c *xenstoreTreeCmd) line(n node, depth int) string {
	name := n.Path
	if !c.Full && depth > 0 {
		name = strings.Repeat(" ", depth-1) + xenstore.Base(n.Path)
	}
	switch {
	case n.Error != "":
		name += " (" + n.Error + ")"
	case *n.Value != "" || c.Full:
		name += " = " + strconv.Quote(*n.Value)
	}
	if len(n.Perms) > 0 {
		name += "   (" + strings.Join(n.Perms, ",") + ")"
	}
	return name
}

// walk calls f for the node and all under it, parents first, brothers in the order of their names. What disappears meanwhile is left
// out, and so is what is under a node that may not be read.
func walk(ctx context.Context, store *xenstore.Client, top string, f func(path string, depth int) error) error {
	if err := f(top, 0); err != nil {
		return err
	}
	return walkUnder(ctx, store, top, 1, f)
}

func walkUnder(ctx context.Context, store *xenstore.Client, path string, depth int, f func(path string, depth int) error) error {
	names, err := store.List(ctx, path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		at := xenstore.Join(path, name)
		err := f(at, depth)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := walkUnder(ctx, store, at, depth+1, f); err != nil {
			return err
		}
	}
	return nil
}

// printable writes bytes as in a Go string where they do not print.
func printable(b []byte) string {
	q := strconv.Quote(string(b))
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
