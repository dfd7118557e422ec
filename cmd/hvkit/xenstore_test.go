package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstored"
)

// startStore serves a store in this process, and returns its socket.
func startStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xs.sock")
	l, err := listenUnix("unix", path)
	require.NoError(t, err)
	server := xenstored.New(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(context.Background(), l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	t.Setenv("XENSTORED_PATH", path)
	return path
}

func TestXenstoreCommands(t *testing.T) {
	startStore(t)
	require.Empty(t, ok(t, "xenstore", "write", "/a/b", "1", "/a/c", "two\x00\n\"words\""))
	require.Empty(t, ok(t, "xenstore", "mkdir", "/a/d/e", "/f"))
	require.Equal(t, "1\n", ok(t, "xenstore", "read", "/a/b"))
	require.Equal(t, "/a/b: 1\n/a/c: two\\x00\\n\"words\"\n", ok(t, "xenstore", "read", "-p", "/a/b", "/a/c"))
	require.Equal(t, "two\x00\n\"words\"", ok(t, "xenstore", "read", "--raw", "/a/c"))
	require.Equal(t, "b\nc\nd\n", ok(t, "xenstore", "ls", "/a"))
	require.Equal(t, "a\nf\ntool\n", ok(t, "xenstore", "ls"))
	require.Equal(t, "n0\n", ok(t, "xenstore", "chmod", "/a/b"))
	require.Empty(t, ok(t, "xenstore", "chmod", "-r", "/a/d", "n0", "r1", "b2"))
	require.Equal(t, "n0 r1 b2\n", ok(t, "xenstore", "chmod", "/a/d/e"))
	require.Equal(t, "/a\nb = \"1\"\nc = \"two\\x00\\n\\\"words\\\"\"\nd\n e\n", ok(t, "xenstore", "tree", "/a"))
	require.Equal(t, "/a/d = \"\"   (n0,r1,b2)\n/a/d/e = \"\"   (n0,r1,b2)\n", ok(t, "xenstore", "tree", "-pf", "/a/d"))
	require.Empty(t, ok(t, "xenstore", "rm", "/a/d"))
	require.Equal(t, "/a/b\n/a\n", sorted(ok(t, "xenstore", "watch", "-n", "2", "/a/b", "/a")))
}

// sorted puts the two lines of a watch, which come in any order, into the one that the test expects.
func sorted(s string) string {
	if s == "/a\n/a/b\n" {
		return "/a/b\n/a\n"
	}
	return s
}

func TestXenstoreJSON(t *testing.T) {
	startStore(t)
	ok(t, "xenstore", "write", "/a/b", "1")
	var values map[string]string
	require.NoError(t, json.Unmarshal([]byte(ok(t, "xenstore", "read", "--json", "/a/b", "/a")), &values))
	require.Equal(t, map[string]string{"/a/b": "1", "/a": ""}, values)
	var names []string
	require.NoError(t, json.Unmarshal([]byte(ok(t, "xenstore", "ls", "--json", "/a/b")), &names))
	require.Equal(t, []string{}, names)
	var nodes []node
	require.NoError(t, json.Unmarshal([]byte(ok(t, "xenstore", "tree", "-p", "--json", "/a")), &nodes))
	require.Len(t, nodes, 2)
	require.Equal(t, "1", *nodes[1].Value)
	require.Equal(t, []string{"n0"}, nodes[1].Perms)
	var event watchEvent
	require.NoError(t, json.Unmarshal([]byte(ok(t, "xenstore", "watch", "-n", "1", "--json", "/a")), &event))
	require.Equal(t, watchEvent{Watch: "/a", Path: "/a"}, event)
}

func TestXenstoreErrors(t *testing.T) {
	startStore(t)
	for _, c := range []struct{ args, want string }{
		{"read /none", "read /none: ENOENT (does not exist)"},
		{"ls /none", "ls: list /none: ENOENT (does not exist)"},
		{"write // x", `write //: xenstore: path "//" ends in a slash`},
		{"watch /a/", `watch /a/: xenstore: path "/a/" ends in a slash`},
		{"tree /none", "tree: read /none: ENOENT (does not exist)"},
		{"chmod /none", "chmod: get permissions of /none: ENOENT (does not exist)"},
		{"rm /none/below", "rm: remove /none/below: ENOENT (does not exist)"},
		{"mkdir bad?path", `mkdir bad?path: xenstore: path "bad?path" has the byte '?', which is not allowed`},
	} {
		_, stderr, code := hvkit(t, "", append([]string{"xenstore"}, strings.Fields(c.args)...)...)
		require.Equal(t, exitFailure, code)
		require.Equal(t, "hvkit: xenstore "+c.want+"\n", stderr)
	}
}

func TestXenstoreTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mute.sock")
	l, err := listenUnix("unix", path) // nobody accepts
	require.NoError(t, err)
	defer l.Close()
	_, stderr, code := hvkit(t, "", "xenstore", "--socket", path, "--timeout", "20ms", "read", "/a")
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, "the store has not answered within 20ms")
}

func TestXenstored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xs.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs text
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"xenstored", "--socket", path, "--quota", "nodes=7"}, &streams{nil, &out, &errs})
	}()
	out.await(t, "^C ends it")
	t.Setenv("XENSTORED_PATH", path)
	ok(t, "xenstore", "write", "/a", "b")
	_, stderr, second := hvkit(t, "", "xenstored")
	require.Equal(t, exitFailure, second)
	require.Contains(t, stderr, "is served by another process already")
	cancel()
	require.Equal(t, exitOK, <-code, errs.String())
}
