package xenstored

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// guestRig is a store as a toolstack leaves it: domains 1 and 2 introduced, each with a home that it owns.
func guestRig(t testT, q Quota) (r *rig, host, one, two *conn) {
	r = newRig(t, q)
	host, one, two = r.connect(0, nil), r.connect(1, nil), r.connect(2, nil)
	for _, id := range []string{"1", "2"} {
		r.ok(host, xenstore.MsgIntroduce, 0, id, "1", "1")
		home := "/local/domain/" + id
		r.write(host, 0, home, "")
		r.ok(host, xenstore.MsgSetPerms, 0, home, "n"+id)
	}
	return r, host, one, two
}

// TestProbe has a row for each row of the probe of the C and OCaml servers 4.17 whose answers are in docs/xenstore.md. It says what
// ours answers; where that is not what the C server answered, the row says so.
func TestProbe(t *testing.T) {
	const (
		start, end = xenstore.MsgTransactionStart, xenstore.MsgTransactionEnd
		read, rm   = xenstore.MsgRead, xenstore.MsgRemove
		set, watch = xenstore.MsgSetPerms, xenstore.MsgWatch
	)
	for _, tc := range []struct {
		name string
		dom  hypercall.DomID
		typ  xenstore.MsgType
		tx   uint32
		raw  string
		want string // payload without the last NUL, or error name
	}{
		{"INTRODUCE 0", 0, xenstore.MsgIntroduce, 0, "0\x001\x001\x00", "OK"},
		{"INTRODUCE of a domain that does not exist", 0, xenstore.MsgIntroduce, 0, "77\x001\x001\x00", "OK"},
		{"INTRODUCE twice", 0, xenstore.MsgIntroduce, 0, "1\x001\x001\x00", "OK"},
		{"INTRODUCE with port 0", 0, xenstore.MsgIntroduce, 0, "5\x001\x000\x00", "EINVAL"},
		{"INTRODUCE with two arguments", 0, xenstore.MsgIntroduce, 0, "5\x001\x00", "EINVAL"},
		{"GET_DOMAIN_PATH", 1, xenstore.MsgGetDomainPath, 0, "7\x00", "/local/domain/7"},
		{"GET_DOMAIN_PATH xx (C 4.17: /local/domain/0)", 0, xenstore.MsgGetDomainPath, 0, "xx\x00", "EINVAL"},
		{"READ without NUL (C 4.17: ENOENT)", 0, read, 0, "/tool", "EINVAL"},
		{"READ with more arguments (C 4.17: ENOENT)", 0, read, 0, "/tool\x00x\x00", "EINVAL"},
		{"READ bad character", 0, read, 0, "/a b\x00", "EINVAL"},
		{"READ //", 0, read, 0, "/a//b\x00", "EINVAL"},
		{"READ trailing /", 0, read, 0, "/tool/\x00", "EINVAL"},
		{"READ empty", 0, read, 0, "\x00", "EINVAL"},
		{"READ @introduceDomain", 0, read, 0, "@introduceDomain\x00", "EINVAL"},
		{"WRITE @foo", 0, xenstore.MsgWrite, 0, "@foo\x00", "EINVAL"},
		{"DIRECTORY_PART", 0, xenstore.MsgDirectoryPart, 0, "/tool\x000\x00", "2\x00xenstored\x00"},
		{"RM missing below a parent that exists", 0, rm, 0, "/tool/x\x00", "OK"},
		{"RM missing below none", 0, rm, 0, "/x/y/z\x00", "ENOENT"},
		{"RM /", 0, rm, 0, "/\x00", "EINVAL"},
		{"value of 4000 bytes by domain 0", 0, xenstore.MsgWrite, 0, "/big\x00" + strings.Repeat("x", 4000), "OK"},
		{"10 permissions by domain 0", 0, set, 0, "/tool\x00n0\x00" + strings.Repeat("r5\x00", 9), "OK"},
		{"WATCH with one argument", 1, watch, 0, "x\x00", "EINVAL"},
		{"WATCH with a depth", 1, watch, 0, "x\x00t\x001\x00", "EINVAL"},
		{"unknown transaction", 1, read, 99, "x\x00", "ENOENT"},
		{"TRANSACTION_END without transaction", 1, end, 0, "T\x00", "ENOENT"},
		{"TRANSACTION_END X", 1, end, 0, "X\x00", "EINVAL"},
		{"SET_TARGET to an unknown domain", 0, xenstore.MsgSetTarget, 0, "1\x0099\x00", "ENOENT"},
		{"CONTROL from a guest", 1, xenstore.MsgControl, 0, "print\x00", "EACCES"},
		{"CONTROL unknown", 0, xenstore.MsgControl, 0, "frobnicate\x00", "EINVAL"},
		{"RELEASE unknown", 0, xenstore.MsgRelease, 0, "99\x00", "ENOENT"},
		{"RELEASE 0", 0, xenstore.MsgRelease, 0, "0\x00", "EINVAL"},
		{"guest gives its node away", 1, set, 0, "/local/domain/1\x00n2\x00", "EPERM"},
		{"guest value of 2049 bytes", 1, xenstore.MsgWrite, 0, "v\x00" + strings.Repeat("x", 2049), "ENOSPC"},
		{"guest sets 6 permissions", 1, set, 0, "/local/domain/1\x00n1\x00" + strings.Repeat("r2\x00", 5), "ENOSPC"},
		{"guest reads a foreign node", 1, read, 0, "/local/domain/2\x00", "EACCES"},
		{"guest reads a foreign node that does not exist", 1, read, 0, "/local/domain/2/x\x00", "EACCES"},
		{"guest reads an own node that does not exist", 1, read, 0, "x\x00", "ENOENT"},
		{"guest watches /", 1, watch, 0, "/\x00t\x00", "OK"},
		{"guest watches @introduceDomain", 1, watch, 0, "@introduceDomain\x00t\x00", "OK"},
		{"guest SET_PERMS @releaseDomain", 1, set, 0, "@releaseDomain\x00n1\x00", "EACCES"},
		{"SET_PERMS @foo", 0, set, 0, "@foo\x00n1\x00", "EINVAL"},
		{"SET_PERMS bad letter", 0, set, 0, "/tool\x00x1\x00", "EINVAL"},
		{"SET_PERMS without permissions", 0, set, 0, "/tool\x00", "EINVAL"},
		{"GET_PERMS", 0, xenstore.MsgGetPerms, 0, "/local/domain/1\x00", "n1"},
		{"IS_DOMAIN_INTRODUCED", 0, xenstore.MsgIsIntroduced, 0, "1\x00", "T"},
		{"IS_DOMAIN_INTRODUCED of another", 0, xenstore.MsgIsIntroduced, 0, "9\x00", "F"},
		{"IS_DOMAIN_INTRODUCED of oneself", 0, xenstore.MsgIsIntroduced, 0, "32752\x00", "T"},
		{"RESUME", 0, xenstore.MsgResume, 0, "1\x00", "OK"},
		{"RESUME 0", 0, xenstore.MsgResume, 0, "0\x00", "EINVAL"},
		{"WRITE without NUL", 0, xenstore.MsgWrite, 0, "/a", "EINVAL"},
		{"WRITE of nothing", 0, xenstore.MsgWrite, 0, "", "EINVAL"},
		{"MKDIR of what exists", 0, xenstore.MsgMkdir, 0, "/tool\x00", "OK"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, host, one, _ := guestRig(t, Quota{})
			cn := host
			if tc.dom == 1 {
				cn = one
			}
			a := r.raw(cn, tc.typ, tc.tx, tc.raw)
			require.Equal(t, tc.want, strings.TrimSuffix(a.payload, "\x00"))
		})
	}
}

// TestUnknownTypes sends the types that are not requests.
func TestUnknownTypes(t *testing.T) {
	r, host, one, _ := guestRig(t, Quota{})
	for _, typ := range []xenstore.MsgType{15, 16, 20, 23, 24, 25, 26, 99, 1000, 0xffff, 0xffffffff} {
		require.Equal(t, xenstore.ENOSYS, r.do(host, typ, 0, "x").err, "%d", typ)
		require.Equal(t, xenstore.ENOSYS, r.do(one, typ, 0, "x").err, "%d", typ)
	}
}

// TestTransactionConflicts is the conflict rule: what another does between the start and the end of a transaction, and whether the
// transaction then commits.
func TestTransactionConflicts(t *testing.T) {
	type step func(r *rig, cn *conn, tx uint32)
	w := func(path, value string) step {
		return func(r *rig, cn *conn, tx uint32) { require.Empty(r, r.write(cn, tx, path, value).err) }
	}
	do := func(typ xenstore.MsgType, args ...string) step {
		return func(r *rig, cn *conn, tx uint32) { r.do(cn, typ, tx, args...) }
	}
	read, dir, rm := xenstore.MsgRead, xenstore.MsgDirectory, xenstore.MsgRemove
	for _, tc := range []struct {
		name   string
		mine   step
		theirs step
		want   xenstore.Errno
	}{
		{"nothing", do(read, "/d/a"), do(read, "/d/a"), ""},
		{"read, then changed", do(read, "/d/a"), w("/d/a", "x"), "EAGAIN"},
		{"read, then rewritten with the same value", do(read, "/d/a"), w("/d/a", "1"), "EAGAIN"},
		{"blind write to what changed", w("/d/a", "2"), w("/d/a", "x"), "EAGAIN"},
		{"siblings created in one directory", w("/d/new1", ""), w("/d/new2", ""), "EAGAIN"},
		{"DIRECTORY, then a new child", do(dir, "/d"), w("/d/new", ""), "EAGAIN"},
		{"DIRECTORY_PART, then a new child", do(xenstore.MsgDirectoryPart, "/d", "0"), w("/d/new", ""), "EAGAIN"},
		{"read of what is not there, then created", do(read, "/d/none"), w("/d/none", ""), "EAGAIN"},
		{"removed, then written", do(rm, "/d/a"), w("/d/a", "x"), "EAGAIN"},
		{"written, then removed", w("/d/a", "2"), do(rm, "/d/a"), "EAGAIN"},
		{"removed by both", do(rm, "/d/a"), do(rm, "/d/a"), "EAGAIN"},
		{"permissions read, then set", do(xenstore.MsgGetPerms, "/d/a"), do(xenstore.MsgSetPerms, "/d/a", "n0"), "EAGAIN"},
		{"read, then permissions set", do(read, "/d/a"), do(xenstore.MsgSetPerms, "/d/a", "n0"), "EAGAIN"},
		{"unrelated node changed", w("/d/a", "2"), w("/d/b", "x"), ""},
		{"sibling created while an existing child is written", w("/d/a", "2"), w("/d/new", ""), ""},
		{"child of what was read changed", do(read, "/d"), w("/d/a", "x"), ""},
		{"DIRECTORY, then a child changed", do(dir, "/d"), w("/d/a", "x"), ""},
		{"removed subtree with a changed node in it", do(rm, "/d"), w("/d/a", "x"), "EAGAIN"},
		{"missing node created and removed again", do(read, "/d/none"), func(r *rig, cn *conn, tx uint32) {
			w("/d/none", "")(r, cn, tx)
			do(rm, "/d/none")(r, cn, tx)
		}, "EAGAIN"}, // its parent is another version
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, Quota{})
			me, they := r.connect(0, nil), r.connect(0, nil)
			for _, n := range []string{"a", "b"} {
				r.write(me, 0, "/d/"+n, "1")
			}
			tx := r.begin(me)
			tc.mine(r, me, tx)
			tc.theirs(r, they, 0)
			before := r.shape()
			require.Equal(t, tc.want, r.end(me, tx))
			if tc.want != "" {
				require.Equal(t, before, r.shape(), "all or nothing")
			}
			require.Equal(t, xenstore.ENOENT, r.end(me, tx), "it is over in any case")
		})
	}
}

// TestTransactionView: a transaction sees its own changes, nobody else does before commit, and it never sees two nodes that were not there
// together, not even one that is going to fail.
func TestTransactionView(t *testing.T) {
	r := newRig(t, Quota{})
	me, they := r.connect(0, nil), r.connect(0, nil)
	get := func(cn *conn, tx uint32, path string) string { return r.ok(cn, xenstore.MsgRead, tx, path).payload }
	r.write(me, 0, "/a", "a0")
	r.write(me, 0, "/b", "b0")

	tx := r.begin(me)
	r.write(they, 0, "/a", "a1") // before the first touch: the snapshot moves, as the C server would have it
	require.Equal(t, "a1", get(me, tx, "/a"))
	r.write(me, tx, "/mine", "1")
	require.Equal(t, "1", get(me, tx, "/mine"))
	require.Equal(t, xenstore.ENOENT, r.do(they, xenstore.MsgRead, 0, "/mine").err)
	require.Empty(t, r.end(me, tx))
	require.Equal(t, "1", get(they, 0, "/mine"))

	tx = r.begin(me)
	require.Equal(t, "a1", get(me, tx, "/a"))
	r.write(they, 0, "/a", "a2")
	r.write(they, 0, "/b", "b2")
	require.Equal(t, "b0", get(me, tx, "/b"), "the value that was there together with a1")
	require.Equal(t, xenstore.EAGAIN, r.end(me, tx))

	tx = r.begin(me)
	r.ok(me, xenstore.MsgRemove, tx, "/a")
	require.Equal(t, xenstore.ENOENT, r.do(me, xenstore.MsgRead, tx, "/a").err)
	r.write(me, tx, "/a", "again")
	require.Empty(t, r.do(me, xenstore.MsgTransactionEnd, tx, "F").err)
	require.Equal(t, "a2", get(me, 0, "/a"), "aborted")

	tx = r.begin(me)
	require.Equal(t, xenstore.EBUSY, r.do(me, xenstore.MsgTransactionStart, tx, "").err)
	require.Equal(t, xenstore.EINVAL, r.do(me, xenstore.MsgTransactionEnd, tx, "X").err)
	require.Empty(t, r.end(me, tx), "still alive after a malformed end")
}
