package xenstored

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// TestXS10_NodeQuota: 1000 nodes, its home included, and not one more; domain 0 is exempt.
func TestXS10_NodeQuota(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{})
	for i := range 999 {
		require.Empty(t, r.write(one, 0, fmt.Sprintf("d%d/%d", i/100, i), "").err, "node %d", i)
		if one.dom.nodes == 1000 {
			break
		}
	}
	require.Equal(t, 1000, one.dom.nodes)
	require.Equal(t, xenstore.ENOSPC, r.write(one, 0, "more", "").err)
	require.Equal(t, xenstore.ENOSPC, r.do(one, xenstore.MsgMkdir, 0, "more").err)
	require.Empty(t, r.write(one, 0, "d0/1", "changed").err, "what is there can be changed")
	require.Empty(t, r.write(host, 0, "/local/domain/1/by-dom0", "").err, "domain 0 may make it more")
	require.Equal(t, 1001, one.dom.nodes)
	r.ok(one, xenstore.MsgRemove, 0, "d1")
	require.Empty(t, r.write(one, 0, "more", "").err)

	deep := "p" + strings.Repeat("/x", 1000)
	require.Equal(t, xenstore.ENOSPC, r.write(one, 0, deep, "").err)
	require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgRead, 0, "p").err, "XS-10: a create that fails leaves nothing")
}

// TestXS10_NodeQuotaInTransaction: creating in a transaction is counted at its commit, as by the C server, which lets one less
// through then.
func TestXS10_NodeQuotaInTransaction(t *testing.T) {
	r, _, one, _ := guestRig(t, Quota{Nodes: 5})
	tx := r.begin(one)
	for i := range 8 {
		require.Empty(t, r.write(one, tx, fmt.Sprint(i), "").err)
	}
	require.Equal(t, xenstore.ENOSPC, r.end(one, tx))
	require.Equal(t, 1, one.dom.nodes)

	tx = r.begin(one)
	for i := range 50 { // XS-10: created and removed in one transaction costs nothing after it
		require.Empty(t, r.write(one, tx, fmt.Sprint(i), "").err)
		r.ok(one, xenstore.MsgRemove, tx, fmt.Sprint(i))
	}
	r.write(one, tx, "kept", "")
	require.Empty(t, r.end(one, tx))
	require.Equal(t, 2, one.dom.nodes)
}

// TestXS10_TransactionsShareAQuota: transactions that fit alone do not all fit together.
func TestXS10_TransactionsShareAQuota(t *testing.T) {
	r, _, one, _ := guestRig(t, Quota{Nodes: 6})
	for _, d := range []string{"a", "b"} {
		r.write(one, 0, d, "")
	}
	txa, txb := r.begin(one), r.begin(one)
	for i := range 2 {
		r.write(one, txa, fmt.Sprintf("a/%d", i), "")
		r.write(one, txb, fmt.Sprintf("b/%d", i), "")
	}
	require.Empty(t, r.end(one, txa))
	require.Equal(t, xenstore.ENOSPC, r.end(one, txb))
}

// TestXS10_BothRemove (XSA-440): two transactions that remove the same nodes count them once.
func TestXS10_BothRemove(t *testing.T) {
	r, _, one, _ := guestRig(t, Quota{})
	r.write(one, 0, "a/b/c", "")
	txa, txb := r.begin(one), r.begin(one)
	r.ok(one, xenstore.MsgRemove, txa, "a")
	r.ok(one, xenstore.MsgRemove, txb, "a")
	require.Empty(t, r.end(one, txa))
	require.Equal(t, xenstore.EAGAIN, r.end(one, txb))
	require.Equal(t, 1, one.dom.nodes)
}

// TestNodeSize: 2047 bytes with overhead, permissions and names of children.
func TestNodeSize(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{})
	fits := 2048 - 24 - 8 - 1
	require.Empty(t, r.write(one, 0, "v", strings.Repeat("x", fits)).err)
	require.Equal(t, xenstore.ENOSPC, r.write(one, 0, "v", strings.Repeat("x", fits+1)).err)
	require.Equal(t, xenstore.ENOSPC, r.do(one, xenstore.MsgSetPerms, 0, "v", "n1", "r2").err, "a permission counts too")
	require.Empty(t, r.write(host, 0, "/local/domain/1/v", strings.Repeat("x", 4000)).err)

	tx := r.begin(one)
	require.Equal(t, xenstore.ENOSPC, r.write(one, tx, "w", strings.Repeat("x", fits+1)).err)
	require.Equal(t, xenstore.ENOMEM, r.end(one, tx), "XSA-415: a failed create fails the transaction")

	r.ok(one, xenstore.MsgMkdir, 0, "dir")
	for i := 1; i <= 530; i++ {
		require.Empty(t, r.write(one, 0, fmt.Sprintf("dir/%d", i), "").err, "%d", i)
	}
	require.Equal(t, xenstore.ENOSPC, r.write(one, 0, "dir/531", "").err, "the 531st child of one node")
}

// TestXS15_PathLimits is at and past the limit, which counts from after the home, whichever way a path is written.
func TestXS15_PathLimits(t *testing.T) {
	long := strings.Repeat("x", 2048)
	for _, tc := range []struct {
		name, path string
		fits       bool
	}{
		{"relative, at the limit", long, true},
		{"relative, past it", long + "x", false},
		{"home, at the limit", "/local/domain/1/" + long, true},
		{"home, past it", "/local/domain/1/" + long + "x", false},
		{"absolute, at the limit", "/" + long[1:], true},
		{"absolute, past it", "/" + long, false},
		{"like a home, and none", "/local/domain/a/" + long[16:], true},
		{"like a home, and none, past it", "/local/domain/a/" + long[15:], false},
		{"like a home, too many digits", "/local/domain/123456/" + long[20:], false},
		{"special", "@" + long, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, host, one, _ := guestRig(t, Quota{})
			for _, cn := range []*conn{host, one} {
				want := xenstore.EINVAL
				if tc.fits {
					want = ""
				}
				require.Equal(t, want, r.do(cn, xenstore.MsgWatch, 0, tc.path, "t").err)
				if !tc.fits {
					require.Equal(t, want, r.write(cn, 0, tc.path, "").err)
					require.Equal(t, want, r.do(cn, xenstore.MsgRead, 0, tc.path).err)
				}
			}
			if tc.fits {
				require.Empty(t, r.write(host, 0, tc.path, "v").err)
				require.Equal(t, "v", r.ok(host, xenstore.MsgRead, 0, tc.path).payload, "what can be written can be read")
			}
		})
	}
}

// TestXS13_TransactionNodes: 1024 nodes in a transaction.
func TestXS13_TransactionNodes(t *testing.T) {
	r, _, one, _ := guestRig(t, Quota{TransactionNodes: 10})
	tx := r.begin(one)
	for i := range 9 { // each is read, and the home above it once
		require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgRead, tx, fmt.Sprint(i)).err)
	}
	require.Equal(t, xenstore.ENOSPC, r.do(one, xenstore.MsgRead, tx, "more").err)
	require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgRead, tx, "0").err, "what was touched stays")
	require.Equal(t, xenstore.ENOMEM, r.end(one, tx))

	for i := range 20 {
		r.write(one, 0, fmt.Sprintf("d/%d", i), "")
	}
	before := r.shape()
	tx = r.begin(one)
	require.Equal(t, xenstore.ENOSPC, r.do(one, xenstore.MsgRemove, tx, "d").err)
	require.Equal(t, xenstore.ENOMEM, r.end(one, tx))
	require.Equal(t, before, r.shape())
}

// TestMemoryQuota: nodes, watches, transactions and what is not read count; domain 0's writes into a guest's nodes as well.
func TestMemoryQuota(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{Memory: 8000, Watches: -1})
	value := strings.Repeat("x", 1000)
	n := 0
	for r.write(one, 0, fmt.Sprint(n), value).err == "" {
		n++
	}
	require.Equal(t, 7, n)
	require.Equal(t, xenstore.ENOMEM, r.write(one, 0, "0", value+value[:900]).err)
	require.Equal(t, xenstore.ENOMEM, r.write(host, 0, "/local/domain/1/0", value+value[:900]).err)
	require.Equal(t, xenstore.ENOMEM, r.do(one, xenstore.MsgWatch, 0, "w", value).err)
	tx := r.begin(one)
	require.Equal(t, xenstore.ENOMEM, r.write(one, tx, "0", value).err)
	r.do(one, xenstore.MsgTransactionEnd, tx, "F")
	require.Empty(t, r.write(one, 0, "0", "").err)
	require.Empty(t, r.write(two, 0, "x", value).err, "others are not concerned")
}

// TestXS10_OthersFillTheQuota: a guest whose quota of memory others use up, by transactions that write what it lets them write, is still
// listened to, and can make room.
func TestXS10_OthersFillTheQuota(t *testing.T) {
	r, _, one, two := guestRig(t, Quota{Memory: 4000})
	value := strings.Repeat("x", 1500)
	r.ok(one, xenstore.MsgMkdir, 0, "shared")
	r.ok(one, xenstore.MsgSetPerms, 0, "shared", "n1", "b2")
	for _, path := range []string{"a", "b"} {
		require.Empty(t, r.write(one, 0, path, value).err)
	}
	require.Equal(t, xenstore.ENOMEM, r.write(two, 0, "/local/domain/1/shared", value).err)
	tx := r.begin(two)
	require.Empty(t, r.write(two, tx, "/local/domain/1/shared", value).err)
	require.Empty(t, r.end(two, tx))
	require.Greater(t, one.dom.memory, 4000)
	require.False(t, r.full(one))
	require.Equal(t, xenstore.ENOMEM, r.do(one, xenstore.MsgRead, 0, "a").err, "there is no room for such a reply")
	r.ok(one, xenstore.MsgRemove, 0, "a")
	r.ok(one, xenstore.MsgMkdir, 0, "c")

	r.quota.Memory = one.dom.memory + 10
	r.nextReq++
	require.NoError(t, r.handle(one, xenstore.Header{Type: xenstore.MsgMkdir, ReqID: r.nextReq, Len: 5}, []byte("more\x00")))
	require.True(t, r.full(one), "it has to take the answer first")
	r.drain(one)
	require.False(t, r.full(one))
}

// TestXS11_UnreadEvents: what waits for a guest that does not read is bounded, and so is what waits for domain 0.
func TestXS11_UnreadEvents(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{Memory: 100000})
	r.maxQueued = 50000
	deaf := r.connect(0, nil)
	r.ok(host, xenstore.MsgMkdir, 0, "/pub")
	r.ok(host, xenstore.MsgSetPerms, 0, "/pub", "r0")
	for _, cn := range []*conn{one, deaf} {
		r.ok(cn, xenstore.MsgWatch, 0, "/pub", "t")
	}
	for range 3 {
		for i := range 5000 {
			r.nextReq++
			path := fmt.Sprintf("/pub/a-rather-long-name-of-a-node-%d", i%2000)
			require.NoError(t, r.handle(host, xenstore.Header{Type: xenstore.MsgWrite, ReqID: r.nextReq}, []byte(path+"\x00")))
			r.drain(host)
		}
	}
	r.check()
	require.Less(t, len(one.out.buf), 100000)
	require.ErrorIs(t, deaf.ended, ErrOverflow)
	require.NotZero(t, r.stats.EventsDropped)
	require.NotZero(t, r.stats.EventsMerged)
	require.EqualValues(t, 1, r.stats.Violations, "the one that did not read")
	require.LessOrEqual(t, one.dom.memory, 100000)
}

// TestXS11_OutstandingEvents: a request is outstanding until its reply and the events it caused have been taken, or have waited too long.
func TestXS11_OutstandingEvents(t *testing.T) {
	r, _, one, two := guestRig(t, Quota{})
	r.ok(one, xenstore.MsgSetPerms, 0, "/local/domain/1", "n1", "r2")
	r.ok(two, xenstore.MsgWatch, 0, "/local/domain/1", "t")
	for i := range 20 {
		require.False(t, r.full(one), "%d", i)
		r.write(one, 0, fmt.Sprint(i), "")
		r.ok(one, xenstore.MsgSetPerms, 0, fmt.Sprint(i), "r1")
	}
	require.True(t, r.full(one), "the events are not taken")
	require.False(t, r.full(two))
	r.now = 1000
	r.expire(two, 500)
	require.False(t, r.full(one))
	require.Empty(t, r.events(two), "they were dropped")
	r.check()
}

// TestXS11_DeafWatcher: who has not taken events in time is not waited for again, until it has taken what is left.
func TestXS11_DeafWatcher(t *testing.T) {
	r, _, one, two := guestRig(t, Quota{})
	r.ok(one, xenstore.MsgSetPerms, 0, "/local/domain/1", "n1", "r2")
	r.ok(two, xenstore.MsgWatch, 0, "/local/domain/1", "t")
	r.write(one, 0, "first", "")
	r.now = 1000
	r.expire(two, 500)
	for i := range 100 {
		r.write(one, 0, fmt.Sprint(i), "")
		require.False(t, r.full(one), "%d", i)
	}
	r.drain(two)
	for i := range 20 {
		r.write(one, 0, fmt.Sprint("again", i), "")
	}
	require.True(t, r.full(one), "it hears again")
	r.check()
}

// TestPathLengthIsCapped: whatever the quota says, no path is longer than clients take in an event.
func TestPathLengthIsCapped(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{PathLength: -1})
	for _, prefix := range []string{"/", "/local/domain/1/"} {
		longest := prefix + strings.Repeat("x", xenstore.MaxAbsPath-len(prefix))
		r.ok(host, xenstore.MsgMkdir, 0, longest)
		require.Equal(t, xenstore.EINVAL, r.do(host, xenstore.MsgMkdir, 0, longest+"x").err)
	}
}

// TestReadAllocates: a READ of a node that exists allocates nothing.
func TestReadAllocates(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{})
	r.write(host, 0, "/a/b", "value")
	h, payload := xenstore.Header{Type: xenstore.MsgRead, Len: 5}, []byte("/a/b\x00")
	read := func() {
		if err := r.handle(host, h, payload); err != nil {
			t.Error(err)
		}
		r.wrote(host, len(host.out.take()))
	}
	read()
	require.Zero(t, testing.AllocsPerRun(100, read))
}

// TestXS12_ConflictCredit: a guest whose writes make others' transactions fail is made to wait.
func TestXS12_ConflictCredit(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	for i := range int(conflictAllowance/conflictLeast) + 1 {
		require.Zero(t, r.pausedUntil(one), "%d", i)
		tx := r.begin(host)
		r.ok(host, xenstore.MsgDirectory, tx, "/local/domain/1")
		r.write(one, 0, fmt.Sprint(i), "")
		require.Equal(t, xenstore.EAGAIN, r.end(host, tx))
	}
	require.NotZero(t, r.pausedUntil(one))
	require.Zero(t, r.pausedUntil(two))
	require.Zero(t, r.pausedUntil(host))
	r.now += conflictLeast
	require.Zero(t, r.pausedUntil(one))

	tx := r.begin(host)
	r.ok(host, xenstore.MsgDirectory, tx, "/local/domain/1")
	r.now += 100e6
	r.write(one, 0, "slow", "")
	require.Equal(t, xenstore.EAGAIN, r.end(host, tx))
	require.Equal(t, int64(6*conflictLeast+8*100e6-conflictAllowance), r.pausedUntil(one), "six of before, eight times this one")

	for range 20 {
		tx := r.begin(one)
		r.ok(one, xenstore.MsgRead, tx, "/local/domain/1")
		r.write(two, 0, "/local/domain/2/x", "")
		r.ok(host, xenstore.MsgSetPerms, 0, "/local/domain/1", "b1")
		r.write(two, 0, "/local/domain/1", "x")
		require.Equal(t, xenstore.EAGAIN, r.end(one, tx))
	}
	require.Zero(t, r.pausedUntil(two), "transactions of guests charge nobody")
}
