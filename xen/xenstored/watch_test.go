package xenstored

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// TestWatchEvents is which changes give which events, to a connection of domain 0 that watches /d, /d/a and /d/a/x.
func TestWatchEvents(t *testing.T) {
	type request struct {
		typ xenstore.MsgType
		arg string // raw payload
	}
	one := func(typ xenstore.MsgType, arg string) []request { return []request{{typ, arg}} }
	write, mkdir, rm := xenstore.MsgWrite, xenstore.MsgMkdir, xenstore.MsgRemove
	for _, tc := range []struct {
		name   string
		do     []request
		events []string // in order, as registered: /d, then /d/a, then /d/a/x
		inTx   []string // at commit, if different
	}{
		{"write", one(write, "/d/a\x001"), []string{"/d/a D", "/d/a A"}, nil},
		{"write below", one(write, "/d/a/x/y\x001"), []string{"/d/a/x/y D", "/d/a/x/y A", "/d/a/x/y X"}, nil},
		{"implicit parents give no event of their own", one(write, "/d/n/m/o\x00"), []string{"/d/n/m/o D"}, nil},
		{"mkdir", one(mkdir, "/d/n\x00"), []string{"/d/n D"}, nil},
		{"mkdir of what exists", one(mkdir, "/d/a\x00"), nil, nil},
		{"rm", one(rm, "/d/a/x\x00"), []string{"/d/a/x D", "/d/a/x A", "/d/a/x X"}, nil},
		{"rm of what does not exist", one(rm, "/d/zzz\x00"), nil, nil},
		{"rm above gives each watch below its own path, from the bottom up", one(rm, "/d\x00"), []string{"/d/a/x X", "/d/a A", "/d D"},
			[]string{"/d D", "/d/a A", "/d/a/x X"}},
		{"permissions", one(xenstore.MsgSetPerms, "/d/a\x00n0\x00"), []string{"/d/a D", "/d/a A"}, nil},
		{"elsewhere", one(write, "/dd\x00"), nil, nil},
		{"reading", one(xenstore.MsgRead, "/d/a\x00"), nil, nil},
		{"twice the same before it was taken", []request{{write, "/d/a\x001"}, {write, "/d/a\x002"}},
			[]string{"/d/a D", "/d/a A"}, nil},
		{"a twice, b between", []request{{write, "/d/a\x001"}, {write, "/d/b\x002"}, {write, "/d/a\x002"}},
			[]string{"/d/a D", "/d/a A", "/d/b D"}, nil},
	} {
		for _, inTx := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/transaction=%v", tc.name, inTx), func(t *testing.T) {
				r := newRig(t, Quota{})
				me, they := r.connect(0, nil), r.connect(0, nil)
				r.write(me, 0, "/d/a/x", "")
				for _, w := range []struct{ path, token string }{{"/d", "D"}, {"/d/a", "A"}, {"/d/a/x", "X"}} {
					a := r.ok(me, xenstore.MsgWatch, 0, w.path, w.token)
					require.Equal(t, []string{w.path + " " + w.token}, a.after, "the first event comes after the reply")
				}
				want, tx := tc.events, uint32(0)
				if inTx {
					tx = r.begin(they)
					if tc.inTx != nil {
						want = tc.inTx
					}
				}
				for _, q := range tc.do {
					r.raw(they, q.typ, tx, q.arg)
				}
				if inTx {
					require.Empty(t, r.events(me), "none before the commit")
					require.Empty(t, r.end(they, tx))
				}
				require.Equal(t, want, r.events(me))
			})
		}
	}
}

// TestNoEventOfWhatNeverWas: what a transaction made and removed was never there for others.
func TestNoEventOfWhatNeverWas(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{})
	r.ok(host, xenstore.MsgMkdir, 0, "/n")
	r.ok(host, xenstore.MsgWatch, 0, "/n", "t")
	tx := r.begin(host)
	r.write(host, tx, "/n/gone", "")
	r.write(host, tx, "/n/kept", "")
	r.ok(host, xenstore.MsgRemove, tx, "/n/gone")
	a := r.ok(host, xenstore.MsgTransactionEnd, tx, "T")
	require.Equal(t, []string{"/n/kept t"}, append(a.before, a.after...))
}

// TestEventBeforeReply: a connection that watches what it changes has the event before the reply, after a commit too.
func TestEventBeforeReply(t *testing.T) {
	r := newRig(t, Quota{})
	me := r.connect(0, nil)
	r.ok(me, xenstore.MsgWatch, 0, "/a", "t")
	require.Equal(t, []string{"/a t"}, r.write(me, 0, "/a", "1").before)
	tx := r.begin(me)
	require.Empty(t, r.write(me, tx, "/a", "2").before)
	require.Equal(t, []string{"/a t"}, r.ok(me, xenstore.MsgTransactionEnd, tx, "T").before)
}

// TestRelativeWatch: events of a relative watch have relative paths; UNWATCH takes either form.
func TestRelativeWatch(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{})
	require.Equal(t, []string{"data t"}, r.ok(one, xenstore.MsgWatch, 0, "data", "t").after)
	require.Equal(t, []string{"/local/domain/1/data abs"}, r.ok(one, xenstore.MsgWatch, 0, "/local/domain/1/data", "abs").after)
	require.Equal(t, xenstore.EEXIST, r.do(one, xenstore.MsgWatch, 0, "/local/domain/1/data", "t").err, "the same watch")
	r.write(host, 0, "/local/domain/1/data/x", "1")
	require.Equal(t, []string{"data/x t", "/local/domain/1/data/x abs"}, r.events(one))
	require.Equal(t, []string{"tool t"}, r.ok(host, xenstore.MsgWatch, 0, "tool", "t").after, "domain 0's home is /local/domain/0")
	r.write(host, 0, "/local/domain/0/tool", "")
	r.ok(one, xenstore.MsgUnwatch, 0, "/local/domain/1/data", "t")
	require.Equal(t, xenstore.ENOENT, r.do(one, xenstore.MsgUnwatch, 0, "data", "t").err)
	r.write(host, 0, "/local/domain/1/data/x", "1")
	require.Equal(t, []string{"/local/domain/1/data/x abs"}, r.events(one))
}

// TestXS05_WatchPermission is who hears of what.
func TestXS05_WatchPermission(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	for _, cn := range []*conn{host, one, two} {
		for _, p := range []string{"/", "@introduceDomain", "@releaseDomain", "/local/domain/1"} {
			r.ok(cn, xenstore.MsgWatch, 0, p, "t")
		}
	}
	quiet := func(what string, cns ...*conn) {
		t.Helper()
		for _, cn := range cns {
			require.Empty(t, r.events(cn), "%s, domain %d", what, cn.dom.id)
		}
	}
	r.write(host, 0, "/secret", "1")
	require.Len(t, r.events(host), 0, "taken with the reply")
	quiet("a node of domain 0", one, two)

	r.write(one, 0, "mine", "1")
	quiet("a node of domain 1", two)
	require.Len(t, r.events(host), 1, "two watches of one token, one event")

	r.ok(one, xenstore.MsgSetPerms, 0, "mine", "n1", "r2")
	require.NotEmpty(t, r.events(two), "it may read it now")
	r.ok(one, xenstore.MsgSetPerms, 0, "mine", "n1")
	require.NotEmpty(t, r.events(two), "it could read it until now")
	r.write(one, 0, "mine", "2")
	quiet("after the right was taken", two)

	r.ok(one, xenstore.MsgSetPerms, 0, "mine", "n1", "r2")
	r.events(two)
	tx := r.begin(one)
	r.ok(one, xenstore.MsgRemove, tx, "mine")
	require.Empty(t, r.end(one, tx))
	require.NotEmpty(t, r.events(two), "removed in a transaction: it could read what was there")

	r.ok(host, xenstore.MsgIntroduce, 0, "7", "1", "1")
	r.ok(host, xenstore.MsgRelease, 0, "7")
	quiet("domains coming and going", one, two)
	r.ok(host, xenstore.MsgSetPerms, 0, "@releaseDomain", "n0", "r1")
	r.ok(host, xenstore.MsgIntroduce, 0, "7", "1", "1")
	quiet("@introduceDomain", one, two)
	r.ok(host, xenstore.MsgRelease, 0, "7")
	require.Equal(t, []string{"@releaseDomain t"}, r.events(one), "granted by domain 0")
	quiet("@releaseDomain", two)
}

// TestDomainEvents is when @introduceDomain and @releaseDomain fire, to domain 0.
func TestDomainEvents(t *testing.T) {
	r := newRig(t, Quota{})
	host := r.connect(0, nil)
	r.ok(host, xenstore.MsgWatch, 0, xenstore.IntroduceDomain, "i")
	r.ok(host, xenstore.MsgWatch, 0, xenstore.ReleaseDomain, "r")
	intro, rel := []string{"@introduceDomain i"}, []string{"@releaseDomain r"}
	require.Equal(t, intro, r.ok(host, xenstore.MsgIntroduce, 0, "3", "1", "1").before)
	require.Empty(t, r.ok(host, xenstore.MsgIntroduce, 0, "3", "1", "1").before, "known already")
	r.shutdown(3)
	require.Equal(t, rel, r.events(host), "shut down")
	r.shutdown(3)
	require.Empty(t, r.events(host), "said already")
	r.ok(host, xenstore.MsgResume, 0, "3")
	r.shutdown(3)
	require.Equal(t, rel, r.events(host), "shut down after it was resumed")
	require.Equal(t, rel, r.ok(host, xenstore.MsgRelease, 0, "3").before)
	r.releaseDomain(3)
	require.Empty(t, r.events(host), "gone already")
	require.Equal(t, "F\x00", r.ok(host, xenstore.MsgIsIntroduced, 0, "3").payload)
}

// TestXS04_LongToken: an event that does not fit into a message is not sent, at exactly the length at which it does not, and one that
// fits is.
func TestXS04_LongToken(t *testing.T) {
	for _, by := range []int{0, 1} {
		r, host, one, _ := guestRig(t, Quota{})
		cn := []*conn{host, one}[by]
		token := strings.Repeat("t", 4050)
		longest := "/local/domain/1/" + strings.Repeat("x", xenstore.MaxPayload-len(token)-2-len("/local/domain/1/"))
		require.Len(t, r.ok(cn, xenstore.MsgWatch, 0, "/local/domain/1", token).after, 1)
		other := r.connect(0, nil)
		for i, tc := range []struct {
			path   string
			events int
		}{{longest, 1}, {longest + "y", 0}, {longest + "/deep/er", 0}, {"/local/domain/1/z", 1}} {
			r.write(host, 0, tc.path, "")
			events := len(r.taken[host]) + len(r.events(cn))
			require.Equal(t, tc.events, events, "%d", i)
		}
		require.EqualValues(t, 2, r.stats.EventsDropped)
		r.ok(other, xenstore.MsgRead, 0, longest)
	}
}

// TestEventsOfDeadDomains: what a domain's end removes is told to those who watch it.
func TestEventsOfDeadDomains(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{})
	r.write(one, 0, "a/b", "")
	r.ok(host, xenstore.MsgWatch, 0, "/local/domain/1/a", "t")
	require.Equal(t, []string{"/local/domain/1/a t"}, r.ok(host, xenstore.MsgRelease, 0, "1").before)
}
