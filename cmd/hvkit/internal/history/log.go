package history

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// branch is the one that commits go to.
const branch plumbing.ReferenceName = "refs/heads/main"

// Bounds of the log.
const (
	maxQueued = 1 << 14 // changes that may wait to be written; further ones are made one with the last
	maxListed = 500     // paths in the message of a commit
)

// Log writes the changes of a server. Its Record is what [xenstored.Config.Changed] wants.
type Log struct {
	repo *filesystem.Storage
	log  *slog.Logger
	now  func() time.Time
	done chan struct{} // closed when the writer has ended

	mu sync.Mutex
	// +checklocks:mu
	changed sync.Cond
	// +checklocks:mu
	queue []entry
	// +checklocks:mu
	ended bool

	// The writer's.
	root *dir
	head plumbing.Hash // zero: there is no commit
	err  error         // why nothing is written any more
}

// entry is a change that waits.
type entry struct {
	xenstored.Change
	at     time.Time
	merged int // how many further ones it stands for
}

// Open opens the repository in a directory, or makes it.
func Open(dir string, log *slog.Logger) (*Log, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	repo, err := openRepository(dir, true)
	if err != nil {
		return nil, err
	}
	l := &Log{repo: repo, log: log, now: time.Now, done: make(chan struct{}), root: newDir()}
	l.changed.L = &l.mu
	switch ref, err := repo.Reference(branch); {
	case err == nil:
		l.head = ref.Hash()
	case !errors.Is(err, plumbing.ErrReferenceNotFound):
		return nil, fmt.Errorf("history: %w", err)
	}
	return l, nil
}

// openRepository opens a bare repository. If there is none, create has it made.
func openRepository(dir string, create bool) (*filesystem.Storage, error) {
	repo := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRUDefault())
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil || !create {
		if err != nil {
			return nil, fmt.Errorf("history: no repository: %w", err)
		}
		return repo, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { // it has all that the store has
		return nil, fmt.Errorf("history: %w", err)
	}
	cfg := config.NewConfig()
	cfg.Core.IsBare = true
	err := errors.Join(repo.Init(), repo.SetConfig(cfg), repo.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, branch)))
	if err != nil {
		return nil, fmt.Errorf("history: make a repository in %s: %w", dir, err)
	}
	return repo, nil
}

// Begin writes what the store begins with, and goes on writing what is recorded, also what was before Begin, until Close.
func (l *Log) Begin(first xenstored.Snapshot, why string) error {
	err := l.begin(l.before(first), why)
	if err != nil {
		l.err = fmt.Errorf("history: %w", err)
	}
	go l.write()
	return l.err
}

// before returns what the store was before the first change that was recorded, or else what it is.
func (l *Log) before(now xenstored.Snapshot) xenstored.Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		return l.queue[0].Before
	}
	return now
}

func (l *Log) begin(first xenstored.Snapshot, why string) error {
	for n := range first.All("/") {
		if err := l.root.find(n.Path).set(n, l.repo); err != nil {
			return err
		}
	}
	for _, path := range []string{xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		if n, ok := first.Node(path); ok {
			if err := l.root.find(path).set(n, l.repo); err != nil {
				return err
			}
		}
	}
	return l.commit("the server", "server", l.now(), why+"\n")
}

// Record queues a change. It does not wait.
func (l *Log) Record(c xenstored.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.queue); n >= maxQueued {
		last := &l.queue[n-1]
		last.After, last.at = c.After, l.now()
		last.merged++
		return
	}
	l.queue = append(l.queue, entry{Change: c, at: l.now()})
	l.changed.Signal()
}

// Close writes what waits, and returns why something could not be written. It is for a log that has begun.
func (l *Log) Close() error {
	l.end()
	<-l.done
	return l.err
}

func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.changed.Signal()
}

// next waits for a change. It returns false when there are no more.
func (l *Log) next() (e entry, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.ended {
		l.changed.Wait()
	}
	if len(l.queue) == 0 {
		return entry{}, false
	}
	e = l.queue[0]
	l.queue[0] = entry{} // it holds on to a tree
	l.queue = l.queue[1:]
	return e, true
}

// write writes changes as they come. When one cannot be written the history ends there, and says so: one with a gap would be none.
func (l *Log) write() {
	defer close(l.done)
	for {
		e, ok := l.next()
		if !ok {
			return
		}
		if l.err != nil {
			continue
		}
		if err := l.record(e); err != nil {
			l.err = fmt.Errorf("history: %w", err)
			l.log.Error("the history of the store ends here", "err", err)
		}
	}
}

func (l *Log) record(e entry) error {
	diff := e.After.Since(e.Before)
	for _, d := range diff {
		if !d.Exists {
			l.root.remove(d.Path)
			continue
		}
		if err := l.root.find(d.Path).set(d.Is, l.repo); err != nil {
			return err
		}
	}
	dom := strconv.Itoa(int(e.Dom))
	return l.commit("domain "+dom, "domain"+dom, e.at, e.message(diff))
}

func (l *Log) commit(name, mail string, at time.Time, message string) error {
	tree, err := l.root.write(l.repo)
	if err != nil {
		return err
	}
	who := object.Signature{Name: name, Email: mail + "@xenstore", When: at}
	c := &object.Commit{Author: who, Committer: who, Message: message, TreeHash: tree}
	if !l.head.IsZero() {
		c.ParentHashes = []plumbing.Hash{l.head}
	}
	hash, err := writeObject(l.repo, c)
	if err != nil {
		return err
	}
	if err := l.repo.SetReference(plumbing.NewHashReference(branch, hash)); err != nil {
		return err
	}
	l.head = hash
	return nil
}

// message is that of the commit: what was asked for and of whom, then the paths, each with A, M or D as by git log --name-status. A node of
// which only the list of children has changed is not named.
func (e *entry) message(diff []xenstored.Difference) string {
	var paths []string
	for _, d := range diff {
		switch {
		case !d.Existed:
			paths = append(paths, "A "+d.Path)
		case !d.Exists:
			paths = append(paths, "D "+d.Path)
		case d.Was.Value != d.Is.Value || !samePerms(d.Was.Perms, d.Is.Perms):
			paths = append(paths, "M "+d.Path)
		}
	}
	subject := fmt.Sprintf("domain %d: %s", e.Dom, what(e.Type))
	if e.Type == xenstore.MsgRelease && e.Dom != 0 {
		subject = fmt.Sprintf("domain %d is released", hypercall.DomID(e.Dom))
	}
	if e.merged > 0 {
		subject += fmt.Sprintf(" and %d more changes", e.merged)
	}
	switch len(paths) {
	case 0:
	case 1:
		subject += ", " + paths[0][2:]
	default:
		subject += fmt.Sprintf(", %d paths", len(paths))
	}
	more := len(paths) - maxListed
	if more > 0 {
		paths = append(paths[:maxListed], fmt.Sprintf("and %d more", more))
	}
	return subject + "\n\n" + strings.Join(paths, "\n") + "\n"
}

func samePerms(a, b []xenstore.Perm) bool {
	return string(xenstore.AppendPerms(nil, a)) == string(xenstore.AppendPerms(nil, b))
}

func what(t xenstore.MsgType) string {
	if t == xenstore.MsgTransactionEnd {
		return "transaction"
	}
	return strings.ToLower(t.String())
}

// Read returns the tree that a commit has, as what a server can begin with. The commit is HEAD, main, or the beginning of a hash, and ~N
// for the N-th before it.
func Read(dir, rev string) (*xenstored.State, error) {
	repo, err := openRepository(dir, false)
	if err != nil {
		return nil, err
	}
	st, err := read(repo, rev)
	if err != nil {
		return nil, fmt.Errorf("history: %s@%s: %w", dir, rev, err)
	}
	return st, nil
}

func read(repo *filesystem.Storage, rev string) (*xenstored.State, error) {
	c, err := resolve(repo, rev)
	if err != nil {
		return nil, err
	}
	tree, err := c.Tree()
	if err != nil {
		return nil, err
	}
	st := &xenstored.State{Version: xenstored.StateVersion}
	if st.Nodes, err = readNodes(tree, "/", nil); err != nil {
		return nil, err
	}
	special, err := tree.Tree(specialDir)
	if err != nil {
		return nil, err
	}
	for _, e := range special.Entries {
		t, err := special.Tree(e.Name)
		if err != nil {
			return nil, err
		}
		if st.Nodes, err = readNodes(t, e.Name, st.Nodes); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// resolve finds a commit.
func resolve(repo *filesystem.Storage, rev string) (*object.Commit, error) {
	name, back, tilde := strings.Cut(rev, "~")
	hash, err := resolveName(repo, name)
	if err != nil {
		return nil, err
	}
	n := 0
	if tilde {
		if n, err = strconv.Atoi(cmp.Or(back, "1")); err != nil || n < 0 {
			return nil, fmt.Errorf("~%s: not a number", back)
		}
	}
	c, err := object.GetCommit(repo, hash)
	for ; err == nil && n > 0; n-- {
		c, err = c.Parent(0)
	}
	return c, err
}

func resolveName(repo *filesystem.Storage, name string) (plumbing.Hash, error) {
	switch name {
	case "HEAD", "main":
		ref, err := repo.Reference(branch)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		return ref.Hash(), nil
	}
	if plumbing.IsHash(name) {
		return plumbing.NewHash(name), nil
	}
	prefix, err := hex.DecodeString(name[:len(name)&^1])
	if err != nil || len(prefix) < 2 {
		return plumbing.ZeroHash, errors.New("it is neither HEAD, nor main, nor four digits or more of a commit")
	}
	all, err := repo.HashesWithPrefix(prefix)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	var found []plumbing.Hash
	for _, h := range all {
		if _, err := object.GetCommit(repo, h); err == nil && strings.HasPrefix(h.String(), name) {
			found = append(found, h)
		}
	}
	if len(found) != 1 {
		return plumbing.ZeroHash, fmt.Errorf("there are %d commits of that name", len(found))
	}
	return found[0], nil
}
