package xenstore_test

import (
	"io"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
	"github.com/stretchr/testify/require"
)

func TestFS(t *testing.T) {
	s := xenstored.New(nil)
	defer s.Close()
	c := s.LocalClient()
	defer c.Close()
	ctx := t.Context()
	for path, value := range map[string]string{
		"/d/name": "guest", "/d/memory/target": "1024", "/d/memory": "inner", "/d/empty": "", "/d/a-b_c@d": "\x00\xff",
	} {
		require.NoError(t, c.Write(ctx, path, []byte(value)))
	}
	view := c.FS(ctx, "/d")
	require.NoError(t, fstest.TestFS(view, "name", "memory/target", "memory/.value", ".value", "empty", "a-b_c@d"))

	for name, want := range map[string]string{
		"name": "guest", "memory/target": "1024", "memory/.value": "inner", ".value": "", "empty": "", "a-b_c@d": "\x00\xff",
	} {
		got, err := fs.ReadFile(view, name)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	for name, is := range map[string]error{
		"none": fs.ErrNotExist, "none/.value": fs.ErrNotExist, "name/.value": fs.ErrNotExist, "name/x": fs.ErrNotExist, "a.b": fs.ErrNotExist,
		".value/.value": fs.ErrNotExist, "/name": fs.ErrInvalid, "name/": fs.ErrInvalid, "../d": fs.ErrInvalid, "": fs.ErrInvalid,
	} {
		_, err := view.Open(name)
		require.ErrorIs(t, err, is, name)
		_, err = fs.Stat(view, name)
		require.ErrorIs(t, err, is, name)
	}
	_, err := fs.ReadFile(view, "memory")
	require.Error(t, err)
	_, err = fs.ReadDir(view, "name")
	require.Error(t, err)
	sub, err := fs.Sub(view, "memory")
	require.NoError(t, err)
	got, err := fs.ReadFile(sub, "target")
	require.NoError(t, err)
	require.Equal(t, "1024", string(got))

	require.NoError(t, fstest.TestFS(c.FS(ctx, "/d/name"), ".value"), "a leaf is a directory too, where it is the root")
	require.NoError(t, c.Transaction(ctx, func(tx *xenstore.Tx) error {
		return fstest.TestFS(xenstore.NewFS(ctx, tx, "/d"), "memory/target")
	}))
	f, err := view.Open("name")
	require.NoError(t, err)
	require.NoError(t, c.Write(ctx, "/d/name", []byte("changed")))
	was, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "guest", string(was), "an open file is what it was")
}
