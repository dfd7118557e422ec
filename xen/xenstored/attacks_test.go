package xenstored

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// pathRequests are the requests about a node, with a payload for a path.
var pathRequests = map[xenstore.MsgType]func(path string) string{
	xenstore.MsgDirectory:     func(path string) string { return path + "\x00" },
	xenstore.MsgDirectoryPart: func(path string) string { return path + "\x000\x00" },
	xenstore.MsgRead:          func(path string) string { return path + "\x00" },
	xenstore.MsgGetPerms:      func(path string) string { return path + "\x00" },
	xenstore.MsgWrite:         func(path string) string { return path + "\x00value" },
	xenstore.MsgMkdir:         func(path string) string { return path + "\x00" },
	xenstore.MsgRemove:        func(path string) string { return path + "\x00" },
	xenstore.MsgSetPerms:      func(path string) string { return path + "\x00n1\x00" },
}

// TestXS06_Root: nothing can be done to the root, or past it, that the permissions of the very node do not allow, and nobody removes it.
func TestXS06_Root(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	r.ok(host, xenstore.MsgSetTarget, 0, "2", "1") // the rights of another guest are no more than a guest's
	for _, cn := range []*conn{one, two} {
		for _, tx := range []uint32{0, r.begin(cn)} {
			before := r.shape()
			for typ, payload := range pathRequests {
				for _, path := range []string{"/", "/tool", "/tool/xenstored", "/local", "/local/domain", "/new", "/tool/new", "/tool/a/b"} {
					require.Equal(t, xenstore.EACCES, r.raw(cn, typ, tx, payload(path)).err, "%s %s by domain %d", typ, path, cn.dom.id)
				}
			}
			require.Equal(t, before, r.shape())
			if tx != 0 {
				require.Empty(t, r.end(cn, tx))
				require.Equal(t, before, r.shape())
			}
		}
	}

	r.ok(host, xenstore.MsgSetPerms, 0, "/", "b0") // everybody may write the root, which is not what is below
	before := r.shape()
	for _, cn := range []*conn{host, one} {
		for _, tx := range []uint32{0, r.begin(cn)} {
			require.Equal(t, xenstore.EINVAL, r.do(cn, xenstore.MsgRemove, tx, "/").err)
			if cn == one {
				require.Equal(t, xenstore.EACCES, r.do(cn, xenstore.MsgRemove, tx, "/tool").err)
				require.Equal(t, xenstore.EACCES, r.do(cn, xenstore.MsgRemove, tx, "/local/domain/2").err)
				require.Equal(t, xenstore.EACCES, r.do(cn, xenstore.MsgSetPerms, tx, "/", "n1").err)
			}
			if tx != 0 {
				require.Empty(t, r.end(cn, tx))
			}
		}
	}
	require.Equal(t, before, r.shape())
}

// TestXS09_ResetWatches: what a reset takes away is gone from all that knew it, however often it is done.
func TestXS09_ResetWatches(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	r.ok(two, xenstore.MsgWatch, 0, "/local/domain/2", "stays")
	r.drain(two)
	r.write(host, 0, "/local/domain/1/w/0", "")
	memory, watches := one.dom.memory, r.nwatches
	for round := range 20 {
		for i := range 129 {
			r.ok(one, xenstore.MsgWatch, 0, fmt.Sprintf("w/%d", i%7), fmt.Sprint(i))
		}
		require.Equal(t, xenstore.E2BIG, r.do(one, xenstore.MsgWatch, 0, "w", "x").err)
		r.ok(one, xenstore.MsgResetWatches, 0, "")
		require.Equal(t, memory, one.dom.memory, "round %d", round)
		require.Equal(t, watches, r.nwatches)
		require.Len(t, r.core.watches, 1)
		require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgUnwatch, 0, "w/0", "0").err)
		r.write(host, 0, "/local/domain/1/w/0", "")
		require.Empty(t, r.events(one), "no event of a watch that is gone")
	}
	r.write(host, 0, "/local/domain/2/x", "")
	require.NotEmpty(t, r.events(two), "others keep theirs")
}

// TestXS16_LocalDomain: paths that end where a domain's number should be are an error of the request and of nothing else, whatever is
// asked of them.
func TestXS16_LocalDomain(t *testing.T) {
	for _, path := range []string{
		"/local/domain/", "/local/domain//", "/local/domain//x", "/local/domain/1/", "/local/domain/1//x", "/local/domain/-1/",
		"/local/domain/123456789012345678901234567890/", "local/domain/", "./", "", "@", "@/", "/@/",
	} {
		r, host, one, _ := guestRig(t, Quota{})
		before := r.shape()
		for _, cn := range []*conn{host, one} {
			for _, tx := range []uint32{0, r.begin(cn)} {
				for typ, payload := range pathRequests {
					require.Equal(t, xenstore.EINVAL, r.raw(cn, typ, tx, payload(path)).err, "%s %q in %d", typ, path, tx)
				}
				if path == "@" {
					continue // one may watch what never happens
				}
				require.Equal(t, xenstore.EINVAL, r.do(cn, xenstore.MsgWatch, tx, path, "t").err)
				require.Equal(t, xenstore.EINVAL, r.do(cn, xenstore.MsgUnwatch, tx, path, "t").err)
			}
		}
		require.Equal(t, before, r.shape())
		r.ok(one, xenstore.MsgRead, 0, "/local/domain/1")
	}
}

// TestXS17_ResetInTransaction: RESET_WATCHES that names a transaction ends that too, any number of times.
func TestXS17_ResetInTransaction(t *testing.T) {
	r, _, one, _ := guestRig(t, Quota{})
	for range 3 {
		for range 11 {
			r.begin(one)
		}
		require.Equal(t, xenstore.ENOSPC, r.do(one, xenstore.MsgTransactionStart, 0, "").err)
		r.ok(one, xenstore.MsgWatch, 0, "w", "t")
		tx := one.txs[3].id
		r.write(one, tx, "x", "1")
		r.ok(one, xenstore.MsgResetWatches, tx, "")
		require.Equal(t, xenstore.ENOENT, r.end(one, tx))
		require.Empty(t, one.txs)
		require.Empty(t, r.core.watches)
	}
}

// TestXS17_Pairs makes every pair of requests, of each type, right and wrong, outside of transactions, in one that is open, and in one
// that is not: there is one reply to each, the books are right after each, and the connection still does its work after both.
func TestXS17_Pairs(t *testing.T) {
	type request struct {
		typ     xenstore.MsgType
		tx      uint32
		payload string
	}
	var all []request
	for typ := range xenstore.MsgType(24) {
		good := "a\x00"
		if f := pathRequests[typ]; f != nil {
			good = f("a")
		}
		switch typ {
		case xenstore.MsgWatch, xenstore.MsgUnwatch:
			good = "a\x00t\x00"
		case xenstore.MsgTransactionStart, xenstore.MsgResetWatches:
			good = "\x00"
		case xenstore.MsgTransactionEnd:
			good = "T\x00"
		}
		for _, tx := range []uint32{0, 1, 99} {
			all = append(all, request{typ, tx, good}, request{typ, tx, "no NUL"})
		}
	}
	for _, first := range all {
		for _, second := range all {
			r := newRig(t, Quota{Nodes: 5})
			cn := r.connect(1, nil)
			n := r.live.get("/").version(&conn{dom: r.domain(dom0)})
			n.perms = []xenstore.Perm{{Access: xenstore.AccessReadWrite}}
			r.store(r.live.get("/"), n)
			if id := r.begin(cn); id != 1 {
				t.Fatalf("transaction %d", id)
			}
			for _, q := range []request{first, second} {
				r.raw(cn, q.typ, q.tx, q.payload)
			}
			r.ok(cn, xenstore.MsgResetWatches, 0, "")
			if a := r.ok(cn, xenstore.MsgGetDomainPath, 0, "1"); a.payload != "/local/domain/1\x00" || len(cn.txs)+r.nwatches > 0 {
				t.Fatalf("after %v and %v: %q, %d transactions, %d watches", first, second, a.payload, len(cn.txs), r.nwatches)
			}
		}
	}
}

// TestXS19_FailureAtEveryByte lets requests that make several nodes run out of memory at every byte, in and out of a transaction: a
// request does all or nothing, nothing of one that failed stays counted, and the same request succeeds once there is room.
func TestXS19_FailureAtEveryByte(t *testing.T) {
	for _, inTx := range []bool{false, true} {
		failed, made := 0, 0
		for memory := 200; memory < 2200; memory++ {
			r, host, one, _ := guestRig(t, Quota{Memory: memory})
			before, used := r.shape(), one.dom.memory
			tx := uint32(0)
			if inTx {
				tx = r.begin(one)
			}
			err := r.write(one, tx, "a/b/c/d/e/f", "value").err
			if err != "" {
				failed++
				require.Equal(t, xenstore.ENOMEM, err, "at %d", memory)
			}
			if err != "" && !inTx {
				require.Equal(t, before, r.shape(), "at %d: none of the nodes above it was made", memory)
				require.Equal(t, used, one.dom.memory, "at %d", memory)
			}
			if inTx && err != "" {
				require.Equal(t, xenstore.ENOMEM, r.end(one, tx))
				require.Equal(t, before, r.shape(), "at %d", memory)
				require.Equal(t, used, one.dom.memory, "at %d", memory)
			} else if inTx {
				require.Empty(t, r.end(one, tx))
			}
			if err == "" {
				made++
				require.Equal(t, "value", r.ok(host, xenstore.MsgRead, 0, "/local/domain/1/a/b/c/d/e/f").payload)
			}
			r.ok(host, xenstore.MsgRelease, 0, "1")
			require.Nil(t, r.domains[1])
		}
		require.NotZero(t, failed)
		require.NotZero(t, made)
	}
}

// TestXS20_CommitAllOrNothing: a commit that cannot succeed changes nothing, whichever of the nodes that the transaction has touched is
// the one that was changed by another, and whichever quota is in the way; one that can changes all.
func TestXS20_CommitAllOrNothing(t *testing.T) {
	const nodes = 6
	path := func(i int) string { return fmt.Sprintf("/d/%d", i) }
	for changed := -1; changed < nodes; changed++ {
		r := newRig(t, Quota{})
		me, they := r.connect(0, nil), r.connect(0, nil)
		for i := range nodes {
			r.write(me, 0, path(i), "old")
		}
		r.ok(they, xenstore.MsgWatch, 0, "/d", "t")
		r.events(they)
		tx := r.begin(me)
		for i := range nodes {
			switch i % 3 {
			case 0:
				r.write(me, tx, path(i), "new")
			case 1:
				r.ok(me, xenstore.MsgRemove, tx, path(i))
			case 2:
				r.write(me, tx, path(i)+"/below", "new")
			}
		}
		if changed >= 0 {
			r.write(they, 0, path(changed), "theirs")
			r.events(they)
		}
		before, commits := r.shape(), r.stats.Commits
		got := r.end(me, tx)
		if changed < 0 {
			require.Empty(t, got)
			for i := range nodes {
				require.NotContains(t, r.shape(), path(i)+"=\"old\" [n0]\n"+path(i+1), "node %d", i)
			}
			require.Len(t, r.events(they), nodes)
			continue
		}
		require.Equal(t, xenstore.EAGAIN, got, "node %d", changed)
		require.Equal(t, before, r.shape(), "node %d", changed)
		require.Equal(t, commits, r.stats.Commits)
		require.Empty(t, r.events(they), "nothing happened")
	}

	r, _, one, _ := guestRig(t, Quota{Nodes: 4})
	tx := r.begin(one)
	for i := range 5 {
		r.write(one, tx, fmt.Sprint(i), "")
	}
	before := r.shape()
	require.Equal(t, xenstore.ENOSPC, r.end(one, tx))
	require.Equal(t, before, r.shape(), "a quota")
}

// TestXS21_ReleaseWithPendingInput tries every order of what a domain's end can meet: requests, output that is being written, a release,
// the connection's own end, an introduction of the next domain of the same id.
func TestXS21_ReleaseWithPendingInput(t *testing.T) {
	const (
		request = iota
		event
		take
		wrote
		release
		disconnect
		introduce
		steps
	)
	const depth = 5
	total := 1
	for range depth {
		total *= steps
	}
	for order := range total {
		r, host, one, _ := guestRig(t, Quota{})
		r.write(one, 0, "x", "")
		r.ok(one, xenstore.MsgWatch, 0, "x", "t")
		r.begin(one)
		var flight []byte
		for n := order; n > 0; n /= steps {
			switch n % steps {
			case request:
				err := r.handle(one, xenstore.Header{Type: xenstore.MsgWrite}, []byte("x\x00v"))
				if (err != nil) != (one.ended != nil) {
					t.Fatalf("order %d: %v of a connection that has ended by %v", order, err, one.ended)
				}
			case event:
				r.write(host, 0, "/local/domain/1/x", "v")
			case take:
				if b := one.out.take(); b != nil {
					flight = b
				}
			case wrote:
				if one.out.busy {
					r.wrote(one, len(flight))
				}
			case release:
				r.releaseDomain(1)
				if r.domains[1] != nil || one.ended == nil && one.dom.conns > 0 {
					t.Fatalf("order %d: %+v is left, connection ended by %v", order, r.domains[1], one.ended)
				}
			case disconnect:
				r.disconnect(one)
				if one.ended == nil {
					one.ended = ErrReleased // the shell asks for nothing more then
				}
			case introduce:
				r.introduce(1)
			}
			r.check()
		}
		r.disconnect(one)
		r.releaseDomain(1)
		r.check()
		if r.domains[1] != nil || r.nwatches != 0 || r.ntxs != 0 {
			t.Fatalf("order %d: %+v, %d watches, %d transactions are left", order, r.domains[1], r.nwatches, r.ntxs)
		}
		if strings.Contains(r.shape(), "1]") {
			t.Fatalf("order %d: something of domain 1 is left:\n%s", order, r.shape())
		}
	}
}

// TestXS22_Privilege sends every request from every kind of caller: which ones only domain 0 may make is a table, and neither a target
// nor a reserved id makes anybody privileged.
func TestXS22_Privilege(t *testing.T) {
	privileged := map[xenstore.MsgType]string{
		xenstore.MsgControl: "help\x00", xenstore.MsgIntroduce: "1\x001\x001\x00", xenstore.MsgRelease: "3\x00",
		xenstore.MsgIsIntroduced: "1\x00", xenstore.MsgResume: "1\x00", xenstore.MsgSetTarget: "1\x002\x00",
	}
	r, host, one, two := guestRig(t, Quota{})
	r.ok(host, xenstore.MsgIntroduce, 0, "3", "1", "1")
	r.ok(host, xenstore.MsgSetTarget, 0, "2", "0")
	domains := len(r.domains)
	for typ := range xenstore.MsgType(40) {
		for _, payload := range []string{privileged[typ], "1\x002\x003\x00", "0\x00", "help\x00", "", "\x00"} {
			for _, cn := range []*conn{one, two} {
				got := r.raw(cn, typ, 0, payload).err
				if _, ok := privileged[typ]; ok {
					require.Equal(t, xenstore.EACCES, got, "%s %q by domain %d", typ, payload, cn.dom.id)
				} else {
					require.False(t, typ >= xenstore.MsgGetFeature && got != xenstore.ENOSYS, "%s %q: %s", typ, payload, got)
				}
			}
		}
	}
	require.Len(t, r.domains, domains)
	require.True(t, r.domains[3].introduced)
	require.False(t, r.domains[1].hasTarget)
	for typ, payload := range privileged {
		require.Empty(t, r.raw(host, typ, 0, payload).err, "%s", typ)
	}
}

// TestXS23_TransactionIDs is what each request makes of its transaction id: WATCH and UNWATCH do not look at it, all others refuse one
// that is not open, and TRANSACTION_START any.
func TestXS23_TransactionIDs(t *testing.T) {
	for typ := range xenstore.MsgType(23) {
		r, host, _, _ := guestRig(t, Quota{})
		if operations[typ].do == nil {
			continue
		}
		tx := r.begin(host)
		payload := "/x\x00"
		if f := pathRequests[typ]; f != nil {
			payload = f("/local/domain/1")
		}
		switch typ {
		case xenstore.MsgWatch, xenstore.MsgUnwatch:
			payload = "/x\x00t\x00"
			r.do(host, xenstore.MsgWatch, 0, "/x", "t")
			if typ == xenstore.MsgWatch {
				r.ok(host, xenstore.MsgUnwatch, 0, "/x", "t")
			}
			require.Empty(t, r.raw(host, typ, 99, payload).err, "%s", typ)
			continue
		case xenstore.MsgTransactionEnd:
			payload = "T\x00"
			require.Equal(t, xenstore.ENOENT, r.raw(host, typ, 0, payload).err)
		case xenstore.MsgTransactionStart:
			payload = "\x00"
			require.Equal(t, xenstore.EBUSY, r.raw(host, typ, tx, payload).err)
		}
		for _, unknown := range []uint32{tx + 1, 0xffffffff} {
			require.Equal(t, xenstore.ENOENT, r.raw(host, typ, unknown, payload).err, "%s", typ)
		}
		require.Len(t, host.txs, 1)
	}
	// Ids are a connection's own.
	r, host, one, _ := guestRig(t, Quota{})
	tx := r.begin(host)
	require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgRead, tx, "x").err)
	require.Equal(t, xenstore.ENOENT, r.end(one, tx))
	require.Empty(t, r.end(host, tx))
}

// TestXS14_NoRecursion: the deepest tree that paths allow is walked on a stack of the same height at every depth.
func TestXS14_NoRecursion(t *testing.T) {
	heights := map[int]bool{}
	pcs := make([]uintptr, 10000)
	const depth = xenstore.MaxAbsPath / 2
	nodes, err := subtree("/x", func(path string) (*node, error) {
		heights[runtime.Callers(0, pcs)] = true
		n := &node{path: path}
		if len(path) < 2*depth {
			n.children = "x\x00"
		}
		return n, nil
	})
	require.NoError(t, err)
	require.Len(t, nodes, depth)
	require.LessOrEqual(t, len(heights), 2, "the top, and all below it")
	require.Equal(t, nodes[depth-1], postorder(nodes)[0])
}
