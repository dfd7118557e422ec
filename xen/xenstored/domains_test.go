package xenstored

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// TestXS07_DomainReuse: a domain of an id that another one had inherits nothing.
func TestXS07_DomainReuse(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	r.write(one, 0, "a/b", "secret")
	r.write(host, 0, "/shared", "s")
	r.ok(host, xenstore.MsgSetPerms, 0, "/shared", "n0", "r2", "b1")
	r.ok(host, xenstore.MsgSetPerms, 0, "@releaseDomain", "n0", "r1")
	r.ok(host, xenstore.MsgMkdir, 0, "/under/x")
	r.ok(host, xenstore.MsgSetPerms, 0, "/under/x", "n1")
	r.ok(host, xenstore.MsgSetTarget, 0, "2", "1")
	r.ok(one, xenstore.MsgWatch, 0, "a", "t")
	r.begin(one)
	granting := r.begin(host)
	r.ok(host, xenstore.MsgSetPerms, granting, "/tool", "n0", "r1")
	harmless := r.begin(host)
	r.write(host, harmless, "/tool/xenstored", "x")

	r.ok(host, xenstore.MsgRelease, 0, "1")
	require.ErrorIs(t, one.ended, ErrReleased)
	require.Nil(t, r.domains[1])
	require.Equal(t, xenstore.EAGAIN, r.end(host, granting), "what it would grant is another domain's now")
	require.Empty(t, r.end(host, harmless))

	r.ok(host, xenstore.MsgIntroduce, 0, "1", "1", "1")
	next := r.connect(1, nil)
	for _, p := range []string{"/shared", "/under/x", "/local/domain/1", "a/b", "/tool"} {
		require.Equal(t, xenstore.EACCES, r.do(next, xenstore.MsgRead, 0, p).err, p)
	}
	require.Equal(t, []string{"n0", "r2"}, r.ok(host, xenstore.MsgGetPerms, 0, "/shared").strings())
	require.Equal(t, []string{"n0"}, r.ok(host, xenstore.MsgGetPerms, 0, "@releaseDomain").strings())
	require.Equal(t, xenstore.ENOENT, r.do(host, xenstore.MsgRead, 0, "/under/x").err, "XSA-419: it goes wherever it is")
	r.write(host, 0, "/local/domain/1", "")
	r.ok(host, xenstore.MsgSetPerms, 0, "/local/domain/1", "n1")
	require.Equal(t, xenstore.EACCES, r.do(two, xenstore.MsgRead, 0, "/local/domain/1").err, "the target was the other one")
	require.Equal(t, 1, next.dom.nodes)
}

// TestXS07_StaleVersions: a transaction that read a node before a domain was released cannot bring the domain's rights back.
func TestXS07_StaleVersions(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{})
	r.write(host, 0, "/n", "")
	r.ok(host, xenstore.MsgSetPerms, 0, "/n", "n0", "r1")
	tx := r.begin(host)
	r.write(host, tx, "/n", "v")
	r.ok(host, xenstore.MsgRelease, 0, "1")
	require.Equal(t, xenstore.EAGAIN, r.end(host, tx))
	require.Equal(t, []string{"n0"}, r.ok(host, xenstore.MsgGetPerms, 0, "/n").strings())
}

// TestReleaseRoot: the root and the special nodes cannot go, whoever owns them.
func TestReleaseRoot(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{})
	for _, p := range []string{"/", xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		r.ok(host, xenstore.MsgSetPerms, 0, p, "r1", "b1")
	}
	r.ok(host, xenstore.MsgRelease, 0, "1")
	for _, p := range []string{"/", xenstore.IntroduceDomain, xenstore.ReleaseDomain} {
		require.Equal(t, []string{"n0"}, r.ok(host, xenstore.MsgGetPerms, 0, p).strings())
	}
	r.releaseDomain(1)
	r.releaseDomain(0)
	r.releaseDomain(4711)
	r.check()
}

// TestXS08_Owner: only domain 0 changes owners, and the books follow.
func TestXS08_Owner(t *testing.T) {
	r, host, one, two := guestRig(t, Quota{})
	r.write(one, 0, "a", "1")
	require.Equal(t, xenstore.EPERM, r.do(one, xenstore.MsgSetPerms, 0, "a", "n2").err)
	require.Equal(t, xenstore.EACCES, r.do(two, xenstore.MsgSetPerms, 0, "/local/domain/1/a", "n2").err)
	r.ok(one, xenstore.MsgSetPerms, 0, "a", "n1", "b2")
	require.Equal(t, xenstore.EACCES, r.do(two, xenstore.MsgSetPerms, 0, "/local/domain/1/a", "n1", "b2").err, "writing is not owning")
	r.write(two, 0, "/local/domain/1/a/x", "")
	require.Equal(t, []string{"n2", "b2"}, r.ok(host, xenstore.MsgGetPerms, 0, "/local/domain/1/a/x").strings())
	r.ok(host, xenstore.MsgSetPerms, 0, "/local/domain/1/a", "n2")
	require.Equal(t, 1, one.dom.nodes)
	require.Equal(t, 3, two.dom.nodes)
	r.ok(host, xenstore.MsgSetTarget, 0, "2", "1")
	require.Equal(t, "", r.ok(two, xenstore.MsgRead, 0, "/local/domain/1").payload, "with the rights of its target")
}

// TestXS14_DeepTree: 1500 levels are made, walked, copied by a transaction and removed without recursion.
func TestXS14_DeepTree(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{PathLength: -1})
	deep := strings.Repeat("/x", 1500)
	r.write(host, 0, deep, "bottom")
	require.Equal(t, "bottom", r.ok(host, xenstore.MsgRead, 0, deep).payload)
	tx := r.begin(host)
	r.ok(host, xenstore.MsgRemove, tx, "/x")
	require.Empty(t, r.end(host, tx))
	r.write(host, 0, deep, "bottom")
	r.ok(host, xenstore.MsgSetPerms, 0, deep, "n1")
	r.ok(host, xenstore.MsgSetPerms, 0, "/x", "n1")
	r.ok(host, xenstore.MsgRelease, 0, "1")
	require.Equal(t, xenstore.ENOENT, r.do(host, xenstore.MsgRead, 0, "/x").err)
}

// TestXS03_BigDirectory: a list longer than a message is E2BIG, and comes in parts of whole names.
func TestXS03_BigDirectory(t *testing.T) {
	r, host, _, _ := guestRig(t, Quota{})
	for i := range 3000 {
		r.nextReq++
		require.NoError(t, r.handle(host, xenstore.Header{Type: xenstore.MsgMkdir}, fmt.Appendf(nil, "/big/child-%d\x00", i)))
		r.drain(host)
	}
	r.check()
	require.Equal(t, xenstore.E2BIG, r.do(host, xenstore.MsgDirectory, 0, "/big").err)
	var names []string
	gen, off := "", 0
	for {
		p := r.ok(host, xenstore.MsgDirectoryPart, 0, "/big", fmt.Sprint(off)).payload
		require.LessOrEqual(t, len(p), xenstore.MaxPayload)
		g, rest, _ := strings.Cut(p, "\x00")
		if gen == "" {
			gen = g
		}
		require.Equal(t, gen, g)
		last := strings.HasSuffix(rest, "\x00\x00")
		part := strings.Split(strings.TrimRight(rest, "\x00"), "\x00")
		names = append(names, part...)
		off += len(strings.Join(part, "\x00")) + 1
		if last {
			break
		}
		require.Greater(t, len(p), 3900, "as many as fit")
	}
	require.Len(t, names, 3000)
	require.Equal(t, "child-0", names[0])
	require.Equal(t, "child-2999", names[2999])
	require.Equal(t, gen+"\x00\x00", r.ok(host, xenstore.MsgDirectoryPart, 0, "/big", "999999").payload, "past the end")
	require.Equal(t, xenstore.EINVAL, r.do(host, xenstore.MsgDirectoryPart, 0, "/big", "-1").err)
	require.Equal(t, xenstore.EINVAL, r.do(host, xenstore.MsgDirectoryPart, 0, "/big").err)
}
