package history

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// Names of files that are no nodes.
const (
	valueFile  = ".value"
	permsFile  = ".perms"
	orderFile  = ".order"
	specialDir = ".special"
)

// dir is a directory of the newest tree: a node, or the one of the special nodes.
type dir struct {
	files map[string]plumbing.Hash
	dirs  map[string]*dir
	hash  plumbing.Hash
	dirty bool // hash is not of what is there
}

func newDir() *dir {
	return &dir{files: map[string]plumbing.Hash{}, dirs: map[string]*dir{}, dirty: true}
}

// names returns where a node is in the tree.
func names(path string) []string {
	switch {
	case path == "/":
		return nil
	case path[0] == '@':
		return []string{specialDir, path}
	}
	return strings.Split(path[1:], "/")
}

// find returns the directory of a node, made if it is not there, and has all on the way be written anew.
func (d *dir) find(path string) *dir {
	d.dirty = true
	for _, name := range names(path) {
		next := d.dirs[name]
		if next == nil {
			next = newDir()
			d.dirs[name] = next
		}
		next.dirty = true
		d = next
	}
	return d
}

// remove takes a node out with all below it.
func (d *dir) remove(path string) {
	at := names(path)
	d.dirty = true
	for _, name := range at[:len(at)-1] {
		if d = d.dirs[name]; d == nil {
			return // it went with one above it
		}
		d.dirty = true
	}
	delete(d.dirs, at[len(at)-1])
}

// set makes the directory of a node what the node is.
func (d *dir) set(n xenstored.Node, objects storer.EncodedObjectStorer) error {
	var perms strings.Builder
	for _, p := range n.Perms {
		perms.WriteString(p.String() + "\n")
	}
	order := ""
	if !slices.IsSorted(n.Children) {
		order = strings.Join(n.Children, "\n") + "\n"
	}
	for name, text := range map[string]string{valueFile: n.Value, permsFile: perms.String(), orderFile: order} {
		if text == "" {
			delete(d.files, name)
			continue
		}
		hash, err := writeBlob(objects, text)
		if err != nil {
			return err
		}
		d.files[name] = hash
	}
	return nil
}

// write writes the directories that have changed. Its depth is that of paths, which are at most 3072 bytes long.
func (d *dir) write(objects storer.EncodedObjectStorer) (plumbing.Hash, error) {
	if !d.dirty {
		return d.hash, nil
	}
	t := new(object.Tree)
	for name, hash := range d.files {
		t.Entries = append(t.Entries, object.TreeEntry{Name: name, Mode: filemode.Regular, Hash: hash})
	}
	for name, sub := range d.dirs {
		hash, err := sub.write(objects)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		t.Entries = append(t.Entries, object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: hash})
	}
	sort.Sort(object.TreeEntrySorter(t.Entries))
	hash, err := writeObject(objects, t)
	if err == nil {
		d.hash, d.dirty = hash, false
	}
	return hash, err
}

func writeBlob(objects storer.EncodedObjectStorer, text string) (_ plumbing.Hash, err error) {
	o := objects.NewEncodedObject()
	o.SetType(plumbing.BlobObject)
	w, err := o.Writer()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		return plumbing.ZeroHash, errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return plumbing.ZeroHash, err
	}
	return store(objects, o)
}

// encoder is a tree or a commit.
type encoder interface {
	Encode(plumbing.EncodedObject) error
}

func writeObject(objects storer.EncodedObjectStorer, e encoder) (plumbing.Hash, error) {
	o := objects.NewEncodedObject()
	if err := e.Encode(o); err != nil {
		return plumbing.ZeroHash, err
	}
	return store(objects, o)
}

// store writes an object that is not there already.
func store(objects storer.EncodedObjectStorer, o plumbing.EncodedObject) (plumbing.Hash, error) {
	if objects.HasEncodedObject(o.Hash()) == nil {
		return o.Hash(), nil
	}
	return objects.SetEncodedObject(o)
}

// readNodes appends the node of a tree, and those below it, each before its children.
func readNodes(t *object.Tree, path string, nodes []xenstored.StateNode) ([]xenstored.StateNode, error) {
	n := xenstored.StateNode{Path: path}
	var order []string
	dirs := map[string]plumbing.Hash{}
	var children []string
	for _, e := range t.Entries {
		if e.Mode == filemode.Dir {
			if e.Name != specialDir {
				children = append(children, e.Name)
			}
			dirs[e.Name] = e.Hash
			continue
		}
		f, err := t.TreeEntryFile(&e)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", e.Name, path, err)
		}
		text, err := f.Contents()
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", e.Name, path, err)
		}
		switch e.Name {
		case valueFile:
			n.Value = []byte(text)
		case permsFile:
			n.Perms = strings.Fields(text)
		case orderFile:
			order = strings.Fields(text)
		}
	}
	nodes = append(nodes, n)
	slices.Sort(children)
	if order != nil {
		sorted := slices.Sorted(slices.Values(order))
		if !slices.Equal(sorted, children) {
			return nil, fmt.Errorf("%s of %s names %q, there are %q", orderFile, path, order, children)
		}
		children = order
	}
	for _, name := range children {
		sub, err := t.Tree(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", xenstore.Join(path, name), err)
		}
		if nodes, err = readNodes(sub, xenstore.Join(path, name), nodes); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}
