package history

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/internal/leaktest"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// open returns a server whose changes are kept in dir. end closes both.
func open(t require.TestingT, dir string) (s *xenstored.Server, end func()) {
	l, err := Open(dir, nil)
	require.NoError(t, err)
	s = xenstored.New(&xenstored.Config{Changed: l.Record})
	require.NoError(t, l.Begin(s.Snapshot(), "the store begins"))
	return s, func() {
		require.NoError(t, s.Close())
		require.NoError(t, l.Close())
	}
}

// git runs the program, which is another reader of what was written.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed: it is asked what it makes of the repository")
	}
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "safe.directory=*"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// TestGitReadsIt: git finds each change as a commit that says who did what, a transaction as one, and the repository whole.
func TestGitReadsIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store.git")
	s, end := open(t, dir)
	ctx := t.Context()
	host := s.LocalClient()
	require.NoError(t, host.Transaction(ctx, func(tx *xenstore.Tx) error {
		return errors.Join(
			tx.Mkdir(ctx, "/local/domain/7"),
			tx.Write(ctx, "/local/domain/7/name", []byte("web\x00\xff")),
			tx.SetPerms(ctx, "/local/domain/7", xenstore.Perm{Dom: 7}, xenstore.Perm{Dom: 8, Access: xenstore.AccessRead}),
		)
	}))
	guest := s.LocalClientOf(7)
	require.NoError(t, guest.Write(ctx, "data", []byte("1")))
	require.NoError(t, guest.Write(ctx, "data", []byte("2")))
	_, err := guest.Read(ctx, "data")
	require.NoError(t, err)
	require.NoError(t, host.Remove(ctx, "/local/domain/7/name"))
	require.NoError(t, s.ReleaseDomain(7))
	require.NoError(t, host.Close())
	require.NoError(t, guest.Close())
	end()

	require.Equal(t, strings.Join([]string{
		"domain 7 <domain7@xenstore> domain 7 is released, 2 paths",
		"domain 0 <domain0@xenstore> domain 0: rm, /local/domain/7/name",
		"domain 7 <domain7@xenstore> domain 7: write, /local/domain/7/data",
		"domain 7 <domain7@xenstore> domain 7: write, /local/domain/7/data",
		"domain 0 <domain0@xenstore> domain 0: transaction, 4 paths",
		"the server <server@xenstore> the store begins",
	}, "\n"), strings.TrimSpace(git(t, dir, "log", "--format=%an <%ae> %s")))
	require.Equal(t, "domain 0: transaction, 4 paths\n\nA /local\nA /local/domain\nA /local/domain/7\nA /local/domain/7/name\n\n",
		git(t, dir, "log", "-1", "--format=%B", "HEAD~4"))
	require.Equal(t, "M\tlocal/domain/7/data/.value\n", git(t, dir, "diff", "--name-status", "HEAD~3", "HEAD~2"))
	require.Equal(t, "web\x00\xff", git(t, dir, "show", "HEAD~4:local/domain/7/name/.value"))
	require.Equal(t, "n7\nr8\n", git(t, dir, "show", "HEAD~4:local/domain/7/.perms"))
	git(t, dir, "fsck", "--strict")

	// What git packs is read as well.
	git(t, dir, "gc", "--quiet", "--prune=now")
	st, err := Read(dir, strings.TrimSpace(git(t, dir, "log", "-1", "--format=%h", "HEAD~4")))
	require.NoError(t, err)
	i := slices.IndexFunc(st.Nodes, func(n xenstored.StateNode) bool { return n.Path == "/local/domain/7/name" })
	require.Equal(t, "web\x00\xff", string(st.Nodes[i].Value))
}

// TestAnyCommitIsATree: what each commit has is what the store had, and a server that begins with it has that.
func TestAnyCommitIsATree(t *testing.T) {
	tmp := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(tmp, "")
		require.NoError(t, err)
		l, err := Open(dir, nil)
		require.NoError(t, err)
		var trees [][]xenstored.StateNode
		s := xenstored.New(&xenstored.Config{Changed: func(c xenstored.Change) {
			l.Record(c)
			trees = append(trees, c.After.State().Nodes)
		}})
		trees = append(trees, s.Snapshot().State().Nodes)
		c := s.LocalClient()
		ctx := t.Context()
		change := func() {
			p := "/" + rapid.StringMatching(`[abC@_-]{1,2}(/[ab0]{1,2}){0,2}`).Draw(t, "path")
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0:
				_ = c.Remove(ctx, p) // which may not be there
			case 1:
				require.NoError(t, c.SetPerms(ctx, xenstore.ReleaseDomain, xenstore.Perm{Dom: 1}))
			case 2:
				require.NoError(t, c.Mkdir(ctx, p))
			default:
				require.NoError(t, c.Write(ctx, p, rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "value")))
			}
		}
		change() // before the log begins, as where connections are restored
		require.NoError(t, l.Begin(s.Snapshot(), "begins"))
		for range rapid.IntRange(1, 12).Draw(t, "n") {
			change()
		}
		require.NoError(t, errors.Join(c.Close(), s.Close(), l.Close()))
		for i, want := range trees {
			st, err := Read(dir, "HEAD~"+string(rune('0'+(len(trees)-1-i)/10))+string(rune('0'+(len(trees)-1-i)%10)))
			require.NoError(t, err)
			next, err := xenstored.Restore(nil, st, nil)
			require.NoError(t, err)
			require.Equal(t, normal(want), normal(next.Snapshot().State().Nodes), "commit %d", i)
			require.NoError(t, next.Close())
		}
		_, err = Read(dir, "HEAD~99")
		require.Error(t, err)
	})
}

// normal has one form of an empty value.
func normal(nodes []xenstored.StateNode) []xenstored.StateNode {
	for i := range nodes {
		if len(nodes[i].Value) == 0 {
			nodes[i].Value = nil
		}
	}
	return nodes
}

// TestTheNextServerGoesOn: the history of one store is that of the next one in the same place.
func TestTheNextServerGoesOn(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		s, end := open(t, dir)
		c := s.LocalClient()
		require.NoError(t, c.Write(t.Context(), "/x", []byte("y")))
		require.NoError(t, c.Close())
		end()
	}
	st, err := Read(dir, "HEAD~3")
	require.NoError(t, err)
	require.Len(t, st.Nodes, 5)
	_, err = Read(dir, "HEAD~4")
	require.Error(t, err)
}

// TestFullQueue: where changes come faster than they can be written, several become one commit that says so, and the tree is right.
//
// +checklocksignore: nobody writes the queue down before Begin.
func TestFullQueue(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, nil)
	require.NoError(t, err)
	l.now = func() time.Time { return time.Unix(1, 0) }
	s := xenstored.New(&xenstored.Config{Changed: l.Record})
	defer s.Close()
	c := s.LocalClient()
	defer c.Close()
	require.NoError(t, c.Write(t.Context(), "/x", []byte("first")))
	for range maxQueued - 1 {
		l.queue = append(l.queue, entry{Change: xenstored.Change{Before: l.queue[0].After, After: l.queue[0].After}})
	}
	require.NoError(t, c.Write(t.Context(), "/x", []byte("second")))
	require.NoError(t, c.Write(t.Context(), "/x", []byte("last")))
	require.Len(t, l.queue, maxQueued)
	l.queue = append(l.queue[:1], l.queue[maxQueued-1])
	require.NoError(t, l.Begin(s.Snapshot(), "begins"))
	require.NoError(t, l.Close())
	st, err := Read(dir, "main")
	require.NoError(t, err)
	require.Contains(t, st.Nodes, xenstored.StateNode{Path: "/x", Value: []byte("last"), Perms: []string{"n0"}})
	head, err := resolve(l.repo, "HEAD")
	require.NoError(t, err)
	require.Contains(t, head.Message, "2 more changes")
}

func TestNoSuchCommit(t *testing.T) {
	dir := t.TempDir()
	_, err := Read(dir, "HEAD")
	require.ErrorContains(t, err, "no repository")
	_, end := open(t, dir)
	end()
	for _, rev := range []string{"", "x", "ab", "HEAD~x", "HEAD~-1", "abcdef12", strings.Repeat("0", 40)} {
		_, err := Read(dir, rev)
		require.Error(t, err, rev)
	}
}
