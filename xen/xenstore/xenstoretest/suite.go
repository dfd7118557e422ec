package xenstoretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/stretchr/testify/require"
)

// Server is a server under test.
type Server struct {
	// Connect makes a new connection that acts as the domain. The suite closes it.
	Connect func(tb testing.TB, dom hypercall.DomID) io.ReadWriteCloser
	// Guest is an unprivileged domain that Connect can act as, or 0 where it can only act as domain 0. The suite makes the guest's
	// home and removes it.
	Guest hypercall.DomID
	// Self is who Connect's domain 0 is, on a real host: a guest's kernel lets its programs act as that guest only.
	Self hypercall.DomID
	// Device says that a kernel's device is between: the kernel answers some messages itself, and refuses others in the write. What the
	// device cannot carry is left out, and so is RESET_WATCHES, which would take the kernel's own watches away.
	Device bool
}

// patience bounds every wait of the suite.
const patience = time.Minute

// TestServer runs the conformance suite. It uses nodes under /xenstoretest, or under data/xenstoretest in the home of Self, and the
// guest's home, and leaves nothing.
func TestServer(t *testing.T, srv Server) {
	ofServers := map[string]bool{"WatchRaw": true, "ResetWatches": true, "BadMessages": true, "LongPayload": true, "Torn": true}
	for _, x := range []struct {
		name string
		f    func(e *env)
	}{
		{"Values", testValues}, {"Mkdir", testMkdir}, {"Remove", testRemove}, {"List", testList}, {"ListLong", testListLong},
		{"Perms", testPerms}, {"Watch", testWatch}, {"WatchRemove", testWatchRemove}, {"WatchRaw", testWatchRaw},
		{"ResetWatches", testResetWatches}, {"Transaction", testTransaction}, {"TransactionConflict", testTransactionConflict},
		{"TransactionEvents", testTransactionEvents}, {"TransactionCounter", testTransactionCounter},
		{"TransactionRaw", testTransactionRaw}, {"DomainPath", testDomainPath}, {"Pipelining", testPipelining},
		{"BadPaths", testBadPaths}, {"BadMessages", testBadMessages}, {"LongPayload", testLongPayload}, {"Torn", testTorn},
		{"FS", testFS},
	} {
		if srv.Device && ofServers[x.name] || srv.Self != 0 && x.name == "ListLong" {
			continue // ListLong has more nodes than a guest's quota allows
		}
		t.Run(x.name, func(t *testing.T) { x.f(newEnv(t, srv)) })
	}
	if srv.Guest == 0 {
		return
	}
	for _, x := range []struct {
		name string
		f    func(e *env, guest *xenstore.Client, home string)
	}{
		{"GuestAccess", testGuestAccess}, {"GuestRelative", testGuestRelative}, {"GuestPrivileges", testGuestPrivileges},
	} {
		t.Run(x.name, func(t *testing.T) {
			e := newEnv(t, srv)
			guest, home := e.guest()
			x.f(e, guest, home)
		})
	}
}

// env is what one test of the suite has: a privileged client and a node of its own.
type env struct {
	*testing.T
	srv  Server
	ctx  context.Context
	c    *xenstore.Client
	root string
}

func newEnv(t *testing.T, srv Server) *env {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	e := &env{T: t, srv: srv, ctx: ctx, root: "/xenstoretest"}
	if srv.Self != 0 {
		e.root = xenstore.DomainPath(srv.Self) + "/data/xenstoretest" // toolstacks let a guest write there
	}
	e.c = e.client(0)
	require.NoError(t, e.c.Mkdir(ctx, e.root))
	t.Cleanup(func() { require.NoError(t, e.c.Remove(ctx, e.root)) })
	return e
}

// client returns a new client that acts as the domain.
func (e *env) client(dom hypercall.DomID) *xenstore.Client {
	cfg := new(xenstore.Config)
	if e.srv.Device {
		cfg.MaxOutstanding = 1 // as Dial has it
	}
	c := xenstore.NewClient(e.srv.Connect(e, dom), cfg)
	e.Cleanup(func() { require.NoError(e, c.Close()) })
	return c
}

// raw returns a connection without a client.
func (e *env) raw(dom hypercall.DomID) *raw {
	rw := e.srv.Connect(e, dom)
	e.Cleanup(func() { _ = rw.Close() })
	context.AfterFunc(e.ctx, func() { _ = rw.Close() }) // it has no deadlines; this ends a wait for a reply that never comes
	return &raw{e: e, rw: rw}
}

// guest returns a client of the guest and the guest's home, which the guest owns.
func (e *env) guest() (*xenstore.Client, string) {
	home := xenstore.DomainPath(e.srv.Guest)
	require.NoError(e, e.c.Mkdir(e.ctx, home))
	require.NoError(e, e.c.SetPerms(e.ctx, home, xenstore.Perm{Dom: e.srv.Guest}))
	e.Cleanup(func() { require.NoError(e, e.c.Remove(e.ctx, home)) })
	return e.client(e.srv.Guest), home
}

func (e *env) write(path, value string) {
	e.Helper()
	require.NoError(e, e.c.Write(e.ctx, path, []byte(value)))
}

func (e *env) wantValue(s xenstore.Store, path, value string) {
	e.Helper()
	got, err := s.Read(e.ctx, path)
	require.NoError(e, err)
	require.Equal(e, value, string(got))
}

func (e *env) wantMissing(s xenstore.Store, path string) {
	e.Helper()
	_, err := s.Read(e.ctx, path)
	require.ErrorIs(e, err, xenstore.ENOENT)
}

func testValues(e *env) {
	p := e.root + "/a/b/c"
	e.wantMissing(e.c, p)
	for _, v := range []string{"", "x", "v\x00w\x00", "\x00", strings.Repeat("z", 2000), "\xff\xfe", ""} {
		e.write(p, v)
		e.wantValue(e.c, p, v)
	}
	e.wantValue(e.c, e.root+"/a/b", "") // parents are made, with empty values
	e.wantValue(e.c, e.root+"/a", "")
	e.write(e.root+"/a", "of a parent")
	e.wantValue(e.c, e.root+"/a", "of a parent")
	e.wantValue(e.c, p, "")
}

func testMkdir(e *env) {
	p := e.root + "/m/n"
	require.NoError(e, e.c.Mkdir(e.ctx, p))
	e.wantValue(e.c, p, "")
	e.write(p, "kept")
	require.NoError(e, e.c.Mkdir(e.ctx, p))
	e.wantValue(e.c, p, "kept")
}

func testRemove(e *env) {
	e.write(e.root+"/r/a/b", "1")
	e.write(e.root+"/r/c", "2")
	require.NoError(e, e.c.Remove(e.ctx, e.root+"/r/a"))
	e.wantMissing(e.c, e.root+"/r/a/b")
	e.wantMissing(e.c, e.root+"/r/a")
	e.wantValue(e.c, e.root+"/r/c", "2")
	require.NoError(e, e.c.Remove(e.ctx, e.root+"/r/a"), "it is not there, but its parent is")
	require.ErrorIs(e, e.c.Remove(e.ctx, e.root+"/none/a"), xenstore.ENOENT)
}

func testList(e *env) {
	require.NoError(e, e.c.Mkdir(e.ctx, e.root+"/l"))
	names, err := e.c.List(e.ctx, e.root+"/l")
	require.NoError(e, err)
	require.Empty(e, names)
	want := []string{"a", "b-1", "c_2", "d", "e9"}
	for _, n := range want {
		e.write(e.root+"/l/"+n+"/below", "")
	}
	names, err = e.c.List(e.ctx, e.root+"/l")
	require.NoError(e, err)
	slices.Sort(names)
	require.Equal(e, want, names)
	_, err = e.c.List(e.ctx, e.root+"/none")
	require.ErrorIs(e, err, xenstore.ENOENT)
}

// More names than one message holds come in parts, in a transaction too.
func testListLong(e *env) {
	var want []string
	for i := range 150 {
		n := fmt.Sprintf("%03d-%s", i, strings.Repeat("n", 40))
		want = append(want, n)
		e.write(e.root+"/long/"+n, "")
	}
	check := func(s xenstore.Store) {
		names, err := s.List(e.ctx, e.root+"/long")
		require.NoError(e, err)
		slices.Sort(names)
		require.Equal(e, want, names)
	}
	check(e.c)
	require.NoError(e, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error { check(tx); return nil }))
}

func testPerms(e *env) {
	p := e.root + "/p"
	e.write(p, "")
	perms, err := e.c.Perms(e.ctx, p)
	require.NoError(e, err)
	require.NotEmpty(e, perms)
	require.Equal(e, e.srv.Self, perms[0].Dom)
	want := []xenstore.Perm{
		{Dom: e.srv.Self, Access: xenstore.AccessRead}, {Dom: e.srv.Self + 1, Access: xenstore.AccessNone},
		{Dom: e.srv.Self + 2, Access: xenstore.AccessWrite}, {Dom: e.srv.Self + 3, Access: xenstore.AccessReadWrite},
	}
	require.NoError(e, e.c.SetPerms(e.ctx, p, want...))
	perms, err = e.c.Perms(e.ctx, p)
	require.NoError(e, err)
	require.Equal(e, want, perms)
	e.write(p+"/child", "")
	child, err := e.c.Perms(e.ctx, p+"/child")
	require.NoError(e, err)
	require.Equal(e, want, child, "a new node has the permissions of its parent")
	_, err = e.c.Perms(e.ctx, e.root+"/none")
	require.ErrorIs(e, err, xenstore.ENOENT)
	require.ErrorIs(e, e.c.SetPerms(e.ctx, e.root+"/none", want...), xenstore.ENOENT)
}

// next takes an event and wants it to be of that path.
func (e *env) next(w *xenstore.Watch, path string) {
	e.Helper()
	ev, err := w.Next(e.ctx)
	require.NoError(e, err)
	require.Equal(e, path, ev.Path)
}

// quiet wants no event to be queued, when all that was caused before has come: a watch of one's own, whose first event comes last,
// tells when.
func (e *env) quiet(w *xenstore.Watch) {
	e.Helper()
	fence, err := e.c.Watch(e.ctx, e.root+"/fence", nil)
	require.NoError(e, err)
	e.next(fence, e.root+"/fence")
	require.NoError(e, fence.Close())
	require.Zero(e, w.Len())
}

func (e *env) watch(c *xenstore.Client, path string) *xenstore.Watch {
	e.Helper()
	w, err := c.Watch(e.ctx, path, nil)
	require.NoError(e, err)
	e.Cleanup(func() { require.NoError(e, w.Close()) })
	e.next(w, path) // the first event always comes
	return w
}

func testWatch(e *env) {
	w := e.watch(e.c, e.root+"/w")
	e.write(e.root+"/w", "1")
	e.next(w, e.root+"/w")
	e.write(e.root+"/w/x/y", "2")
	e.next(w, e.root+"/w/x/y") // the parents that were made have no events of their own
	require.NoError(e, e.c.SetPerms(e.ctx, e.root+"/w/x", xenstore.Perm{Dom: e.srv.Self}))
	e.next(w, e.root+"/w/x")
	require.NoError(e, e.c.Mkdir(e.ctx, e.root+"/w/m"))
	e.next(w, e.root+"/w/m")
	e.write(e.root+"/other", "")
	e.write(e.root+"/wx", "")
	e.write(e.root+"/w", "1") // the same value again is a change, too
	e.next(w, e.root+"/w")
	require.NoError(e, w.Close())

	second := e.client(0)
	w2 := e.watch(second, e.root+"/w")
	e.write(e.root+"/w/z", "by another connection")
	e.next(w2, e.root+"/w/z")
}

func testWatchRemove(e *env) {
	e.write(e.root+"/r/a/b", "")
	w := e.watch(e.c, e.root+"/r/a")
	require.NoError(e, e.c.Remove(e.ctx, e.root+"/r/a/b"))
	e.next(w, e.root+"/r/a/b")
	require.NoError(e, e.c.Remove(e.ctx, e.root+"/r")) // an ancestor: the event is of the watched path
	e.next(w, e.root+"/r/a")
}

func testWatchRaw(e *env) {
	r := e.raw(0)
	p := e.root + "/raw"
	r.want("OK\x00", "", xenstore.MsgWatch, 0, p+"\x00tok\x00")
	r.want("", "EEXIST", xenstore.MsgWatch, 0, p+"\x00tok\x00")
	r.want("OK\x00", "", xenstore.MsgWatch, 77, p+"\x00tok2\x00") // a transaction id is not looked at
	r.want("", "ENOENT", xenstore.MsgUnwatch, 0, p+"\x00other\x00")
	r.want("OK\x00", "", xenstore.MsgUnwatch, 0, p+"\x00tok\x00")
	r.want("", "ENOENT", xenstore.MsgUnwatch, 0, p+"\x00tok\x00")
	r.want("", "EINVAL", xenstore.MsgWatch, 0, p+"\x00")
	r.want("OK\x00", "", xenstore.MsgUnwatch, 0, p+"\x00tok2\x00")
}

func testResetWatches(e *env) {
	r := e.raw(0)
	start := r.call(xenstore.MsgTransactionStart, 0, "\x00")
	id, err := strconv.Atoi(strings.TrimSuffix(start.Payload, "\x00"))
	require.NoError(e, err)
	r.want("OK\x00", "", xenstore.MsgWatch, 0, e.root+"\x00tok\x00")
	r.want("OK\x00", "", xenstore.MsgResetWatches, 0, "\x00")
	r.want("", "ENOENT", xenstore.MsgUnwatch, 0, e.root+"\x00tok\x00")
	require.Equal(e, xenstore.MsgError, r.call(xenstore.MsgRead, uint32(id), e.root+"\x00").Type, "the transaction is over")
	r.want("OK\x00", "", xenstore.MsgResetWatches, 0, "\x00")
}

func testTransaction(e *env) {
	a, b := e.root+"/t/a", e.root+"/t/b"
	e.write(a, "old")
	boom := errors.New("boom")
	err := e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		require.NoError(e, tx.Write(e.ctx, a, []byte("new")))
		require.NoError(e, tx.Write(e.ctx, b, []byte("made")))
		e.wantValue(tx, a, "new") // its own changes are seen inside
		e.wantValue(e.c, a, "old")
		e.wantMissing(e.c, b)
		return boom
	})
	require.Equal(e, boom, err)
	e.wantValue(e.c, a, "old")
	e.wantMissing(e.c, b)

	require.NoError(e, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		require.NoError(e, tx.Write(e.ctx, a, []byte("new")))
		require.NoError(e, tx.Mkdir(e.ctx, b))
		require.NoError(e, tx.SetPerms(e.ctx, b, xenstore.Perm{Dom: e.srv.Self, Access: xenstore.AccessRead}))
		require.NoError(e, tx.Write(e.ctx, b+"/gone", nil))
		require.NoError(e, tx.Remove(e.ctx, b+"/gone"))
		perms, err := tx.Perms(e.ctx, b)
		require.NoError(e, err)
		require.Equal(e, []xenstore.Perm{{Dom: e.srv.Self, Access: xenstore.AccessRead}}, perms)
		names, err := tx.List(e.ctx, b)
		require.NoError(e, err)
		require.Empty(e, names)
		return nil
	}))
	e.wantValue(e.c, a, "new")
	e.wantValue(e.c, b, "")
	e.wantMissing(e.c, b+"/gone")
}

// What was read must not have changed; what has nothing to do with it may.
func testTransactionConflict(e *env) {
	a := e.root + "/t/a"
	e.write(a, "0")
	e.write(e.root+"/u/x", "0")
	calls := 0
	require.NoError(e, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		calls++
		v, err := tx.Read(e.ctx, a)
		require.NoError(e, err)
		if calls == 1 {
			e.write(a, "5") // somebody comes between
		}
		return tx.Write(e.ctx, a, append(v, '!'))
	}))
	require.Equal(e, 2, calls)
	e.wantValue(e.c, a, "5!")

	calls = 0
	require.NoError(e, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		calls++
		_, err := tx.Read(e.ctx, a)
		require.NoError(e, err)
		e.write(e.root+"/u/x", "1")
		return tx.Write(e.ctx, a, []byte("done"))
	}))
	require.Equal(e, 1, calls, "a change elsewhere is no conflict")
}

func testTransactionEvents(e *env) {
	a := e.root + "/t/a"
	e.write(a, "")
	w := e.watch(e.c, e.root+"/t")
	require.NoError(e, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		require.NoError(e, tx.Write(e.ctx, a, []byte("1")))
		e.quiet(w)
		return nil
	}))
	e.next(w, a)
	boom := errors.New("boom")
	require.Equal(e, boom, e.c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
		require.NoError(e, tx.Write(e.ctx, a, []byte("2")))
		return boom
	}))
	e.quiet(w)
}

// Increments by many connections are never lost.
func testTransactionCounter(e *env) {
	const clients, each = 4, 25
	p := e.root + "/counter"
	e.write(p, "0")
	errs := make(chan error, clients)
	var wg sync.WaitGroup
	for range clients {
		c := e.client(0)
		wg.Go(func() {
			for range each {
				err := c.Transaction(e.ctx, func(tx *xenstore.Tx) error {
					v, err := tx.Read(e.ctx, p)
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(string(v))
					if err != nil {
						return err
					}
					return tx.Write(e.ctx, p, strconv.AppendInt(nil, int64(n+1), 10))
				})
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(e, err)
	}
	e.wantValue(e.c, p, strconv.Itoa(clients*each))
}

func testTransactionRaw(e *env) {
	r := e.raw(0)
	unknown := r.call(xenstore.MsgRead, 4242, e.root+"\x00")
	require.Equal(e, xenstore.MsgError, unknown.Type)
	require.Equal(e, xenstore.MsgError, r.call(xenstore.MsgTransactionEnd, 4242, "T\x00").Type)
	if !e.srv.Device { // Linux (6.1) keeps the reply to itself (xenbus_dev_queue_reply in xenbus_dev_frontend.c)
		require.Equal(e, xenstore.MsgError, r.call(xenstore.MsgTransactionEnd, 0, "T\x00").Type)
	}
	start := r.call(xenstore.MsgTransactionStart, 0, "\x00")
	id, err := strconv.Atoi(strings.TrimSuffix(start.Payload, "\x00"))
	require.NoError(e, err)
	require.NotZero(e, id)
	require.Equal(e, xenstore.MsgError, r.call(xenstore.MsgTransactionStart, uint32(id), "\x00").Type, "no transaction in a transaction")
	r.want("", "EINVAL", xenstore.MsgTransactionEnd, uint32(id), "X\x00")
	r.want("OK\x00", "", xenstore.MsgTransactionEnd, uint32(id), "F\x00")
	require.Equal(e, xenstore.MsgError, r.call(xenstore.MsgTransactionEnd, uint32(id), "F\x00").Type)
}

func testDomainPath(e *env) {
	for _, dom := range []hypercall.DomID{0, 1, 32751} {
		p, err := e.c.DomainPath(e.ctx, dom)
		require.NoError(e, err)
		require.Equal(e, xenstore.DomainPath(dom), p)
	}
	in, err := e.c.IsIntroduced(e.ctx, 31999)
	if e.srv.Self != 0 {
		require.ErrorIs(e, err, xenstore.EACCES)
		return
	}
	require.NoError(e, err)
	require.False(e, in)
}

func testPipelining(e *env) {
	errs := make(chan error, 64)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			p := fmt.Sprintf("%s/pipe/%d", e.root, i)
			for j := range 10 {
				want := fmt.Sprintf("%d-%d-%s", i, j, strings.Repeat("v", i*10))
				if err := e.c.Write(e.ctx, p, []byte(want)); err != nil {
					errs <- err
					return
				}
				if got, err := e.c.Read(e.ctx, p); err != nil || string(got) != want {
					errs <- fmt.Errorf("%s: %.40q %w", p, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(e, err)
	}
}

func testBadPaths(e *env) {
	r := e.raw(0)
	for _, p := range []string{
		"", "//", "/a/", "/a//b", "/a b", "/a.b", "/local/domain/", "/\xff", "@foo", "/" + strings.Repeat("a", xenstore.MaxAbsPath),
	} {
		for _, typ := range []xenstore.MsgType{
			xenstore.MsgWrite, xenstore.MsgMkdir, xenstore.MsgRemove, xenstore.MsgDirectory, xenstore.MsgGetPerms,
		} {
			if p == "@foo" && typ == xenstore.MsgGetPerms {
				continue // special paths have permissions
			}
			m := r.call(typ, 0, p+"\x00")
			require.Equal(e, xenstore.MsgError, m.Type, "%s of %.40q", typ, p)
			require.Error(e, xenstore.ParseErrno([]byte(m.Payload)))
		}
	}
	e.wantValue(e.c, e.root, "") // the store lives
}

// Messages that make no sense are answered with errors, and the connection goes on.
func testBadMessages(e *env) {
	r := e.raw(0)
	for typ := range xenstore.MsgType(28) {
		if typ == xenstore.MsgResetWatches || typ == xenstore.MsgControl || typ == xenstore.MsgTransactionStart {
			continue // these are right, or differ between servers, with nothing or anything after them
		}
		for _, payload := range []string{"", "\x00\x00\x00", "no NUL at the end", strings.Repeat("\xff", xenstore.MaxPayload)} {
			m := r.call(typ, 0, payload)
			if typ == xenstore.MsgGetDomainPath || typ == xenstore.MsgIsIntroduced {
				continue // the C server finds a number in anything
			}
			if typ == xenstore.MsgSetTarget && strings.HasPrefix(payload, "\x00") {
				continue // for the same reason
			}
			require.Equal(e, xenstore.MsgError, m.Type, "%s %.40q: %.40q", typ, payload, m.Payload)
		}
	}
	for _, typ := range []xenstore.MsgType{xenstore.MsgWatchEvent, xenstore.MsgError, 20, 99, 1000, xenstore.MsgInvalid, 0xffffffff} {
		r.want("", "ENOSYS", typ, 0, e.root+"\x00")
	}
	e.wantValue(e.c, e.root, "")
}

// A message that is too long ends its connection, and no other.
func testLongPayload(e *env) {
	for _, n := range []uint32{xenstore.MaxPayload + 1, 1 << 31, 0xffffffff} {
		r := e.raw(0)
		r.send(xenstore.Header{Type: xenstore.MsgRead, ReqID: 1, Len: n}.Append(nil))
		ended := make(chan error, 1)
		go func() {
			_, err := r.rw.Read(make([]byte, 1))
			ended <- err
		}()
		select {
		case err := <-ended:
			require.Error(e, err)
		case <-e.ctx.Done():
			require.Fail(e, "the connection goes on")
		}
		e.wantValue(e.c, e.root, "")
	}
}

// A connection that ends anywhere in a message disturbs nobody.
func testTorn(e *env) {
	whole := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWrite, ReqID: 1}, []byte(e.root+"/torn\x00value"))
	for _, n := range []int{0, 1, 15, 16, 17, len(whole) - 1} {
		r := e.raw(0)
		r.send(whole[:n])
		require.NoError(e, r.rw.Close())
	}
	e.wantMissing(e.c, e.root+"/torn")
}

func testFS(e *env) {
	e.write(e.root+"/fs/name", "guest")
	e.write(e.root+"/fs/device/vif/0/state", "4")
	e.write(e.root+"/fs/device", "value of an inner node")
	require.NoError(e, fstest.TestFS(e.c.FS(e.ctx, e.root+"/fs"),
		"name", "device/vif/0/state", "device/.value", ".value", "device/vif/.value"))
}

func testGuestAccess(e *env, guest *xenstore.Client, home string) {
	require.NoError(e, guest.Write(e.ctx, home+"/mine", []byte("1")))
	perms, err := guest.Perms(e.ctx, home+"/mine")
	require.NoError(e, err)
	require.Equal(e, e.srv.Guest, perms[0].Dom)
	secret := e.root + "/secret"
	e.write(secret, "s")
	require.NoError(e, e.c.SetPerms(e.ctx, secret, xenstore.Perm{Dom: 0}))
	_, err = guest.Read(e.ctx, secret)
	require.ErrorIs(e, err, xenstore.EACCES)
	require.ErrorIs(e, guest.Write(e.ctx, secret, nil), xenstore.EACCES)
	require.ErrorIs(e, guest.Remove(e.ctx, secret), xenstore.EACCES)
	_, err = guest.List(e.ctx, secret)
	require.ErrorIs(e, err, xenstore.EACCES)
	require.NoError(e, e.c.SetPerms(e.ctx, secret, xenstore.Perm{Dom: 0}, xenstore.Perm{Dom: e.srv.Guest, Access: xenstore.AccessRead}))
	e.wantValue(guest, secret, "s")
	require.ErrorIs(e, guest.Write(e.ctx, secret, nil), xenstore.EACCES)
	err = guest.SetPerms(e.ctx, home+"/mine", xenstore.Perm{Dom: 0})
	require.Error(e, err, "only the control domain gives a node away")
}

func testGuestRelative(e *env, guest *xenstore.Client, home string) {
	w := e.watch(guest, "data")
	require.NoError(e, guest.Write(e.ctx, "data/x", []byte("1")))
	e.wantValue(e.c, home+"/data/x", "1")
	e.next(w, "data/x") // relative, as the watch is
	names, err := guest.List(e.ctx, "data")
	require.NoError(e, err)
	require.Equal(e, []string{"x"}, names)
	require.NoError(e, guest.Remove(e.ctx, "data"))
	e.wantMissing(e.c, home+"/data")
}

// What only privileged callers may do.
func testGuestPrivileges(e *env, guest *xenstore.Client, _ string) {
	for name, err := range map[string]error{
		"introduce":  guest.Introduce(e.ctx, e.srv.Guest, 1, 1),
		"release":    guest.Release(e.ctx, e.srv.Guest),
		"resume":     guest.Resume(e.ctx, e.srv.Guest),
		"set target": guest.SetTarget(e.ctx, e.srv.Guest, 0),
	} {
		require.Error(e, err, name)
		require.ErrorIs(e, err, xenstore.EACCES, name)
	}
	require.Error(e, guest.Write(e.ctx, "/elsewhere", nil))
	require.Error(e, guest.Remove(e.ctx, "/"))
}

// raw speaks the protocol without a client.
type raw struct {
	e   *env
	rw  io.ReadWriteCloser
	dec xenstore.Decoder
	id  uint32
}

func (r *raw) send(b []byte) {
	r.e.Helper()
	_, err := r.rw.Write(b)
	require.NoError(r.e, err)
}

// call sends a request and returns its reply; events that come before it are dropped.
func (r *raw) call(typ xenstore.MsgType, tx uint32, payload string) Message {
	r.e.Helper()
	r.id++
	r.send(xenstore.AppendMessage(nil, xenstore.Header{Type: typ, ReqID: r.id, TxID: tx}, []byte(payload)))
	for {
		h, got, ok, err := r.dec.Next()
		require.NoError(r.e, err)
		switch {
		case ok && h.Type == xenstore.MsgWatchEvent:
			require.Zero(r.e, h.ReqID)
			require.Zero(r.e, h.TxID)
		case ok:
			require.Equal(r.e, r.id, h.ReqID)
			require.Equal(r.e, tx, h.TxID)
			return Message{h, string(got)}
		default:
			n, err := r.rw.Read(r.dec.Space())
			require.NoError(r.e, err)
			r.dec.Filled(n)
		}
	}
}

// want sends a request and wants that payload, or that error.
func (r *raw) want(payload, errno string, typ xenstore.MsgType, tx uint32, request string) {
	r.e.Helper()
	m := r.call(typ, tx, request)
	if errno != "" {
		require.Equal(r.e, xenstore.MsgError, m.Type)
		require.Equal(r.e, errno+"\x00", m.Payload)
		return
	}
	require.Equal(r.e, typ, m.Type)
	require.Equal(r.e, payload, m.Payload)
}
