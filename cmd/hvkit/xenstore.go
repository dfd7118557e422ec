package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hvkit/hvkit/xen/xenstore"
)

type xenstoreCmd struct {
	storeFlags

	Read  xenstoreReadCmd  `cmd:"" help:"Print the values of nodes."`
	Write xenstoreWriteCmd `cmd:"" help:"Set the values of nodes, all or none."`
	Ls    xenstoreLsCmd    `cmd:"" help:"List the nodes right under a node."`
	Tree  xenstoreTreeCmd  `cmd:"" help:"Print a node and all under it."`
	Rm    xenstoreRmCmd    `cmd:"" help:"Remove nodes and all under them."`
	Mkdir xenstoreMkdirCmd `cmd:"" help:"Make nodes with empty values."`
	Chmod xenstoreChmodCmd `cmd:"" help:"Print or set who may do what with a node."`
	Watch xenstoreWatchCmd `cmd:"" help:"Print the paths under a node that change."`
}

// Help says which Xenstore it is.
func (*xenstoreCmd) Help() string {
	return `Paths are absolute, or relative to the home of the domain that asks.

With --domain or --token the command joins the simulated host as that domain and asks over its ring, with its rights. Otherwise it
asks as domain 0: at --socket, the simulated host's Xenstore socket, or Xen's own, the first that is there.`
}

// storeFlags say which Xenstore is meant, and as whom.
type storeFlags struct {
	joinFlags
	Socket  string        `env:"XENSTORED_PATH" placeholder:"PATH" help:"Socket of a Xenstore server, or a kernel's device (${env})."`
	Timeout time.Duration `default:"10s" help:"How long the store may take to answer; 0 waits for ever."`
}

// open connects to the store.
func (f *storeFlags) open(ctx context.Context) (c *xenstore.Client, closeStore func(), err error) {
	if f.Domain != "" || f.Token != "" {
		d, err := f.join(ctx)
		if err != nil {
			return nil, nil, err
		}
		return d.Store(), func() { d.Close() }, nil
	}
	path := f.path()
	c, err = xenstore.Dial(ctx, path, nil)
	if err == nil {
		return c, func() { c.Close() }, nil
	}
	if absentSocket(err) {
		err = &nobodyError{"no Xenstore at " + path + " (start one with 'hvkit host' or 'hvkit xenstored')", lastCause(err)}
	}
	return nil, nil, err
}

// path chooses where to ask as domain 0. Where nothing is found it is the simulated host's, for the error to name.
func (f *storeFlags) path() string {
	if f.Socket != "" {
		return f.Socket
	}
	sim := storeSocket(f.Host)
	for _, p := range []string{sim, xenstore.DefaultSocket, xenstore.DefaultDevice} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return sim
}

// do calls fn with the store and a context that ends with the timeout.
func (f *storeFlags) do(ctx context.Context, fn func(ctx context.Context, c *xenstore.Client) error) error {
	ctx, cancel := within(ctx, f.Timeout)
	defer cancel()
	c, closeStore, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	return plainStoreError(fn(ctx, c), f.Timeout)
}

// plainStoreError says what a person can do something about.
func plainStoreError(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the store has not answered within %v (%w)", timeout, err)
	}
	return err
}

type xenstoreReadCmd struct {
	Prefix bool     `short:"p" help:"Print the path before each value."`
	Raw    bool     `help:"Print the bytes as they are, and no newline after them."`
	JSON   bool     `name:"json" help:"Print an object of paths and values."`
	Path   []string `arg:"" help:"Nodes to read."`
}

// Help has the examples.
func (*xenstoreReadCmd) Help() string {
	return `Bytes that do not print are written as in Go strings, \n or \x00, unless --raw is given.

Examples:

    hvkit xenstore read /local/domain/1/name
    hvkit xenstore read --domain probe name domid`
}

// Run prints the values.
func (c *xenstoreReadCmd) Run(ctx context.Context, s *streams, x *xenstoreCmd) error {
	return x.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		values := make(map[string]string)
		for _, path := range c.Path {
			v, err := store.Read(ctx, path)
			if err != nil {
				return err
			}
			values[path] = string(v)
			switch {
			case c.JSON:
			case c.Raw:
				s.out.Write(v)
			case c.Prefix:
				fmt.Fprintf(s.out, "%s: %s\n", path, printable(v))
			default:
				fmt.Fprintln(s.out, printable(v))
			}
		}
		if c.JSON {
			return writeJSON(s.out, values)
		}
		return nil
	})
}

// writeJSON prints a value for machines.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

type xenstoreWriteCmd struct {
	Pairs []string `arg:"" name:"path-value" help:"Paths and values in turn."`
}

// Help has the examples.
func (*xenstoreWriteCmd) Help() string {
	return `Several nodes are written in one transaction. Missing parents are made.

Examples:

    hvkit xenstore write /tool/answer 42
    hvkit xenstore write --domain probe data/a 1 data/b 2`
}

// Run writes the values, in a transaction if they are several.
func (c *xenstoreWriteCmd) Run(ctx context.Context, x *xenstoreCmd) error {
	if len(c.Pairs)%2 != 0 {
		return usagef("%s has no value (paths and values come in turn)", c.Pairs[len(c.Pairs)-1])
	}
	return x.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		if len(c.Pairs) == 2 {
			return store.Write(ctx, c.Pairs[0], []byte(c.Pairs[1]))
		}
		return store.Transaction(ctx, func(tx *xenstore.Tx) error {
			for i := 0; i < len(c.Pairs); i += 2 {
				if err := tx.Write(ctx, c.Pairs[i], []byte(c.Pairs[i+1])); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

type xenstoreLsCmd struct {
	JSON bool   `name:"json" help:"Print a list of names."`
	Path string `arg:"" default:"/" help:"The node."`
}

// Help has the examples.
func (*xenstoreLsCmd) Help() string {
	return `Examples:

    hvkit xenstore ls /local/domain
    hvkit xenstore ls --json /tool`
}

// Run prints the names.
func (c *xenstoreLsCmd) Run(ctx context.Context, s *streams, x *xenstoreCmd) error {
	return x.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		names, err := store.List(ctx, c.Path)
		if err != nil {
			return err
		}
		slices.Sort(names)
		if c.JSON {
			return writeJSON(s.out, append([]string{}, names...))
		}
		for _, n := range names {
			fmt.Fprintln(s.out, n)
		}
		return nil
	})
}

type xenstoreRmCmd struct {
	Path []string `arg:"" help:"Nodes to remove."`
}

// Help has the examples.
func (*xenstoreRmCmd) Help() string {
	return "Examples:\n\n    hvkit xenstore rm /tool/answer"
}

// Run removes the nodes.
func (c *xenstoreRmCmd) Run(ctx context.Context, x *xenstoreCmd) error {
	return x.each(ctx, c.Path, (*xenstore.Client).Remove)
}

type xenstoreMkdirCmd struct {
	Path []string `arg:"" help:"Nodes to make."`
}

// Help has the examples.
func (*xenstoreMkdirCmd) Help() string {
	return "A node that exists stays as it is. Missing parents are made.\n\nExamples:\n\n    hvkit xenstore mkdir /tool/a/b"
}

// Run makes the nodes.
func (c *xenstoreMkdirCmd) Run(ctx context.Context, x *xenstoreCmd) error {
	return x.each(ctx, c.Path, (*xenstore.Client).Mkdir)
}

// each calls f for each path until one fails.
func (f *storeFlags) each(ctx context.Context, paths []string, call func(*xenstore.Client, context.Context, string) error) error {
	return f.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		for _, p := range paths {
			if err := call(store, ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

type xenstoreChmodCmd struct {
	Recursive bool     `short:"r" help:"Set them for all nodes under it, too."`
	Path      string   `arg:"" help:"The node."`
	Perm      []string `arg:"" optional:"" help:"A letter (n, r, w, b) and a domain id, as r5; the owner first."`
}

// Help has the examples.
func (*xenstoreChmodCmd) Help() string {
	return `n is nothing, r reading, w writing, b both. The first permission names the owner, who may do all, and its letter is for those whom
no other permission names. Without permissions the present ones are printed.

Examples:

    hvkit xenstore chmod /tool/answer
    hvkit xenstore chmod /tool/answer n0 r1 b2`
}

// Run prints or sets permissions.
func (c *xenstoreChmodCmd) Run(ctx context.Context, s *streams, x *xenstoreCmd) error {
	perms, err := parsePerms(c.Perm)
	if err != nil {
		return &usageError{err.Error()}
	}
	return x.do(ctx, func(ctx context.Context, store *xenstore.Client) error {
		switch {
		case len(perms) == 0:
			now, err := store.Perms(ctx, c.Path)
			if err == nil {
				fmt.Fprintln(s.out, permText(now))
			}
			return err
		case !c.Recursive:
			return store.SetPerms(ctx, c.Path, perms...)
		}
		return walk(ctx, store, c.Path, func(path string, _ int) error { return store.SetPerms(ctx, path, perms...) })
	})
}

func parsePerms(texts []string) ([]xenstore.Perm, error) {
	perms := make([]xenstore.Perm, len(texts))
	for i, t := range texts {
		p, err := xenstore.ParsePerm(t)
		if err != nil {
			return nil, err
		}
		perms[i] = p
	}
	return perms, nil
}

func permText(perms []xenstore.Perm) string {
	texts := make([]string, len(perms))
	for i, p := range perms {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}
