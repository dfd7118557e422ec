package xenstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// ValueName is the name of the file in a directory of [FS] that has the value of the node itself. No node can have this name, because
// of the dot.
const ValueName = ".value"

// FS returns a read-only view of a node and all under it, as a file system: a node with children is a directory, in which the file
// ".value" ([ValueName]) has the node's own value; a node without children is a file with its value. The prefix itself is the
// directory ".", children or none. Files have no modification time. Every access reads the store, so the view is never older than the
// access, but two accesses may see two states; a [*Tx] as the store gives a view of one moment. ctx is for all accesses through it.
func (c *Client) FS(ctx context.Context, prefix string) fs.FS { return NewFS(ctx, c, prefix) }

// NewFS is [Client.FS] over any store.
func NewFS(ctx context.Context, s Store, prefix string) fs.FS { return &storeFS{ctx, s, prefix} }

type storeFS struct {
	ctx    context.Context
	s      Store
	prefix string
}

var (
	_ fs.ReadDirFS  = (*storeFS)(nil)
	_ fs.ReadFileFS = (*storeFS)(nil)
	_ fs.StatFS     = (*storeFS)(nil)
)

// locate returns the path of the node that a name of the file system belongs to, and whether the name is that of the node's value.
func (f *storeFS) locate(op, name string) (path string, value bool, err error) {
	if !fs.ValidPath(name) {
		return "", false, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	if name == "." {
		return f.prefix, false, nil
	}
	if name == ValueName {
		return f.prefix, true, nil
	}
	node, value := strings.CutSuffix(name, "/"+ValueName)
	path = Join(f.prefix, node)
	if CheckPath(path) != nil { // no node can have this name
		return "", false, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return path, value, nil
}

// stat says what a name is. Of a directory it returns the names in it.
func (f *storeFS) stat(op, name string) (*info, []string, error) {
	path, value, err := f.locate(op, name)
	if err != nil {
		return nil, nil, err
	}
	children, err := f.s.List(f.ctx, path)
	if err != nil {
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	base := name[strings.LastIndexByte(name, '/')+1:]
	dir := len(children) > 0 || name == "."
	switch {
	case value && !dir && name != ValueName:
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	case dir && !value:
		return &info{name: base, mode: fs.ModeDir | 0o555}, children, nil
	}
	v, err := f.s.Read(f.ctx, path)
	if err != nil {
		return nil, nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return &info{name: base, mode: 0o444, value: v}, nil, nil
}

// Open implements [fs.FS].
func (f *storeFS) Open(name string) (fs.File, error) {
	i, children, err := f.stat("open", name)
	if err != nil {
		return nil, err
	}
	if i.IsDir() {
		return &dir{fsys: f, name: name, info: i, children: children}, nil
	}
	return &file{info: i, r: bytes.NewReader(i.value)}, nil
}

// Stat implements [fs.StatFS].
func (f *storeFS) Stat(name string) (fs.FileInfo, error) {
	i, _, err := f.stat("stat", name)
	if err != nil {
		return nil, err
	}
	return i, nil
}

// ReadFile implements [fs.ReadFileFS].
func (f *storeFS) ReadFile(name string) ([]byte, error) {
	i, _, err := f.stat("read", name)
	if err != nil {
		return nil, err
	}
	if i.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errIsDir}
	}
	return i.value, nil
}

// ReadDir implements [fs.ReadDirFS].
func (f *storeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	i, children, err := f.stat("readdir", name)
	if err != nil {
		return nil, err
	}
	if !i.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	return f.entries(name, children)
}

var (
	errIsDir  = errors.New("is a directory")
	errNotDir = errors.New("not a directory")
)

// entries returns what is in a directory, by name. A node that has gone since it was listed is left out.
func (f *storeFS) entries(name string, children []string) ([]fs.DirEntry, error) {
	names := append(slices.Clone(children), ValueName)
	slices.Sort(names)
	entries := make([]fs.DirEntry, 0, len(names))
	for _, n := range names {
		full := n
		if name != "." {
			full = name + "/" + n
		}
		i, _, err := f.stat("stat", full)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) { // it is there, and that is all we may know
			i, err = &info{name: n}, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, fs.FileInfoToDirEntry(i))
	}
	return entries, nil
}

// info is what is known of a file or directory.
type info struct {
	name  string
	mode  fs.FileMode
	value []byte
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return int64(len(i.value)) }
func (i *info) Mode() fs.FileMode  { return i.mode }
func (i *info) ModTime() time.Time { return time.Time{} }
func (i *info) IsDir() bool        { return i.mode.IsDir() }
func (i *info) Sys() any           { return nil }

// file is the value of a node, as it was when the file was opened.
type file struct {
	info *info
	r    *bytes.Reader
}

var (
	_ io.ReaderAt = (*file)(nil)
	_ io.Seeker   = (*file)(nil)
)

func (f *file) Stat() (fs.FileInfo, error)                { return f.info, nil }
func (f *file) Read(p []byte) (int, error)                { return f.r.Read(p) }
func (f *file) ReadAt(p []byte, off int64) (int, error)   { return f.r.ReadAt(p, off) }
func (f *file) Seek(off int64, whence int) (int64, error) { return f.r.Seek(off, whence) }
func (f *file) Close() error                              { return nil }

// dir is a node with children.
type dir struct {
	fsys     *storeFS
	name     string
	info     *info
	children []string
	entries  []fs.DirEntry // nil until the first ReadDir
	read     int
}

var _ fs.ReadDirFile = (*dir)(nil)

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dir) Close() error               { return nil }

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errIsDir}
}

// ReadDir implements [fs.ReadDirFile].
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.entries == nil {
		entries, err := d.fsys.entries(d.name, d.children)
		if err != nil {
			return nil, err
		}
		d.entries = entries
	}
	rest := d.entries[d.read:]
	if n > 0 && len(rest) == 0 {
		return nil, io.EOF
	}
	if n > 0 {
		rest = rest[:min(n, len(rest))]
	}
	d.read += len(rest)
	return slices.Clone(rest), nil
}
