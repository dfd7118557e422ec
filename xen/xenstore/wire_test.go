package xenstore

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHeaderLayout(t *testing.T) {
	h := Header{Type: MsgWrite, ReqID: 0x01020304, TxID: 0xa0b0c0d0, Len: 5}
	b := h.Append(nil)
	require.Equal(t, []byte{11, 0, 0, 0, 4, 3, 2, 1, 0xd0, 0xc0, 0xb0, 0xa0, 5, 0, 0, 0}, b)
	require.Equal(t, h, DecodeHeader(b))
}

func TestMsgTypeNumbers(t *testing.T) {
	// enum xsd_sockmsg_type of io/xs_wire.h, counted out.
	names := strings.Fields("CONTROL DIRECTORY READ GET_PERMS WATCH UNWATCH TRANSACTION_START TRANSACTION_END INTRODUCE RELEASE " +
		"GET_DOMAIN_PATH WRITE MKDIR RM SET_PERMS WATCH_EVENT ERROR IS_DOMAIN_INTRODUCED RESUME SET_TARGET - RESET_WATCHES " +
		"DIRECTORY_PART GET_FEATURE SET_FEATURE GET_QUOTA SET_QUOTA")
	for i, name := range names {
		typ := MsgType(i)
		require.Equal(t, name != "-", typ.Known(), "type %d", i)
		if typ.Known() {
			require.Equal(t, name, typ.String())
		}
	}
	require.False(t, MsgType(len(names)).Known())
	require.False(t, MsgInvalid.Known())
	require.Equal(t, "MsgType(20)", MsgType(20).String())
}

// feed puts a stream through a decoder in pieces, and returns the messages that came out.
func feed(stream []byte, piece func(rest int) int) (msgs []string, d Decoder, err error) {
	for {
		h, payload, ok, e := d.Next()
		if e != nil {
			return msgs, d, e
		}
		if ok {
			msgs = append(msgs, h.Type.String()+" "+string(payload))
			continue
		}
		if len(stream) == 0 {
			return msgs, d, nil
		}
		n := copy(d.Space(), stream[:min(len(stream), max(1, piece(len(stream))))])
		if n == 0 {
			return msgs, d, errors.New("no space where there must be some")
		}
		d.Filled(n)
		stream = stream[n:]
	}
}

func TestDecoderCutsTheStreamHoweverItComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want []string
		for range rapid.IntRange(0, 12).Draw(t, "messages") {
			payload := make([]byte, rapid.SampledFrom([]int{0, 1, 15, 16, 17, 500, 4095, 4096}).Draw(t, "len"))
			stream = AppendMessage(stream, Header{Type: MsgRead}, payload)
			want = append(want, "READ "+string(payload))
		}
		got, d, err := feed(stream, func(rest int) int { return rapid.IntRange(1, rest).Draw(t, "piece") })
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got))
		require.Zero(t, d.Partial())
	})
}

func TestXC02_DecoderRefusesLongPayload(t *testing.T) {
	for _, n := range []uint32{MaxPayload + 1, 1 << 31, 0xffffffff} {
		good := AppendMessage(nil, Header{Type: MsgRead}, []byte("x"))
		stream := Header{Type: MsgRead, ReqID: 7, Len: n}.Append(good)
		got, d, err := feed(stream, func(rest int) int { return rest })
		require.Equal(t, []string{"READ x"}, got)
		pe, ok := errors.AsType[*ProtocolError](err)
		require.True(t, ok)
		require.Equal(t, n, pe.Header.Len)
		require.Contains(t, err.Error(), "longer than 4096")
		_, _, _, again := d.Next()
		require.Equal(t, err, again)
	}
}

func TestDecoderKnowsATruncatedMessage(t *testing.T) {
	whole := AppendMessage(nil, Header{Type: MsgRead}, []byte("value"))
	for n := range whole {
		_, d, err := feed(whole[:n], func(rest int) int { return rest })
		require.NoError(t, err)
		require.Equal(t, n, d.Partial())
	}
}

func TestErrnoMatchesWhatMeansTheSame(t *testing.T) {
	for _, c := range []struct {
		err    error
		target error
		want   bool
	}{
		{ENOENT, fs.ErrNotExist, true},
		{EACCES, fs.ErrPermission, true},
		{EPERM, fs.ErrPermission, true},
		{EEXIST, fs.ErrExist, true},
		{EINVAL, fs.ErrInvalid, true},
		{ENOSYS, errors.ErrUnsupported, true},
		{ENOTSUP, errors.ErrUnsupported, true},
		{ENOENT, syscall.ENOENT, true},
		{EQUOTA, syscall.Errno(0), false},
		{ENOENT, fs.ErrExist, false},
		{EISCONN, nil, false},
		{&OpError{"read", "/a", ENOENT}, ENOENT, true},
		{&OpError{"read", "/a", ENOENT}, fs.ErrNotExist, true},
		{&OpError{"read", "/a", context.Canceled}, context.Canceled, true},
		{CheckPath("//"), EINVAL, true},
		{CheckPath("//"), fs.ErrInvalid, true},
	} {
		require.Equal(t, c.want, errors.Is(c.err, c.target), "%v is %v", c.err, c.target)
	}
}

func TestParseErrno(t *testing.T) {
	for _, e := range errnos {
		require.Equal(t, error(e.name), ParseErrno([]byte(string(e.name)+"\x00")))
		require.Equal(t, string(e.name)+"\x00", string(AppendErrno(nil, &OpError{"x", "", e.name})))
		require.NotEqual(t, string(e.name), e.name.Error(), "it says what it means")
	}
	for _, payload := range []string{"", "\x00", "EWHAT\x00", "enoent\x00", strings.Repeat("E", 4096), "\xff\xfe"} {
		err := ParseErrno([]byte(payload))
		require.ErrorIs(t, err, ErrUnknown)
		require.Less(t, len(err.Error()), 200)
		require.Equal(t, "EIO\x00", string(AppendErrno(nil, err)))
	}
}

func TestCheckPath(t *testing.T) {
	long := strings.Repeat("a", MaxRelPath)
	for path, ok := range map[string]bool{
		"/": true, "/a": true, "/a/b-c_d@e/9": true, "a": true, "a/b": true, "device/vif/0": true,
		"": false, "//": false, "/a/": false, "a/": false, "/a//b": false, "/a b": false, "/a.b": false, "/a\x00": false, "/ä": false,
		"@introduceDomain": false, "@": false, "/@a": true, "/+": false, "/local/domain/": false,
		long: true, long + "a": false,
		"/" + strings.Repeat("a", MaxAbsPath-1): true,
		"/" + strings.Repeat("a", MaxAbsPath):   false,
	} {
		require.Equal(t, ok, CheckPath(path) == nil, "%.40q %v", path, CheckPath(path))
	}
	require.NoError(t, CheckWatchPath(IntroduceDomain))
	require.NoError(t, CheckWatchPath("@releaseDomain/5"))
	require.Error(t, CheckWatchPath("@a b"))
	require.Less(t, len(CheckPath(strings.Repeat(" ", 9000)).Error()), 300)
}

func TestPathParts(t *testing.T) {
	require.Equal(t, "/local/domain/7", DomainPath(7))
	abs, err := Canonical("data/x", 7)
	require.NoError(t, err)
	require.Equal(t, "/local/domain/7/data/x", abs)
	for _, p := range []string{"/", "/a/b", ReleaseDomain} {
		abs, err = Canonical(p, 7)
		require.NoError(t, err)
		require.Equal(t, p, abs)
	}
	_, err = Canonical("a/", 7)
	require.ErrorIs(t, err, EINVAL)
	require.Equal(t, []string{"/", "/", "/a"}, []string{Parent("/"), Parent("/a"), Parent("/a/b")})
	require.Equal(t, []string{"", "a", "b", "c"}, []string{Base("/"), Base("/a"), Base("/a/b"), Base("c")})
	require.Equal(t, []string{"/a", "/a/b", "b", "/a"}, []string{Join("/", "a"), Join("/a", "b"), Join("", "b"), Join("/a", "")})
	require.True(t, Within("/a/b", "/a") && Within("/a", "/a") && Within("/a", "/") && Within("/", "/"))
	require.False(t, Within("/ab", "/a") || Within("/", "/a") || Within("@x", "/") || Within("", "/"))
}

func TestPerms(t *testing.T) {
	perms := []Perm{{0, AccessNone}, {5, AccessRead}, {3, AccessWrite}, {65535, AccessReadWrite}}
	payload := AppendPerms(nil, perms)
	require.Equal(t, "n0\x00r5\x00w3\x00b65535\x00", string(payload))
	got, err := ParsePerms(payload)
	require.NoError(t, err)
	require.Equal(t, perms, got)
	for _, bad := range []string{
		"", "\x00", "n", "n\x00", "x1\x00", "r-1\x00", "r+1\x00", "r 1\x00", "r65536\x00", "r1", "r0x1\x00", "n0\x00\x00", "r000001\x00",
	} {
		_, err := ParsePerms([]byte(bad))
		require.ErrorIs(t, err, EINVAL, "%q", bad)
	}
}

func TestXC06_Numbers(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "007": 7, "4294967295": 4294967295,
		"": -1, "4294967296": -1, "-1": -1, "+1": -1, " 1": -1, "1 ": -1, "0x1": -1, "1\x00": -1, "99999999999": -1, "١": -1,
	} {
		v, err := ParseUint32(s)
		if want < 0 {
			require.ErrorIs(t, err, EINVAL, "%q", s)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, int64(v))
	}
	dom, err := ParseDomID("65535")
	require.NoError(t, err)
	require.Equal(t, hypercall.DomID(65535), dom)
	_, err = ParseDomID("65536")
	require.ErrorIs(t, err, EINVAL)
}

func FuzzDecoder(f *testing.F) {
	f.Add(AppendMessage(nil, Header{Type: MsgRead, ReqID: 1}, []byte("/a\x00")), uint8(1))
	f.Add(AppendMessage(AppendMessage(nil, Header{Type: MsgWatchEvent}, []byte("a\x00b\x00")), Header{Type: MsgError}), uint8(7))
	f.Add(Header{Len: 4097}.Append(nil), uint8(255))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		whole, d1, err1 := feed(stream, func(rest int) int { return rest })
		parts, d2, err2 := feed(stream, func(int) int { return int(piece) })
		require.Equal(t, whole, parts)
		require.Equal(t, err1 == nil, err2 == nil)
		if err1 == nil {
			require.Equal(t, d1.Partial(), d2.Partial())
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"n0\x00r5\x00", "/local/domain/3", "@releaseDomain", "EINVAL\x00", "\x00", "b99999\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if perms, err := ParsePerms([]byte(s)); err == nil {
			again, err := ParsePerms(AppendPerms(nil, perms))
			require.NoError(t, err)
			require.Equal(t, perms, again)
		}
		if parts, err := SplitStrings([]byte(s)); err == nil {
			require.Equal(t, s, strings.Join(append(parts, ""), "\x00"))
		}
		if CheckPath(s) == nil {
			abs, err := Canonical(s, 65535)
			require.NoError(t, err)
			require.NoError(t, CheckPath(abs))
			require.True(t, Within(abs, Parent(abs)))
			if abs != "/" {
				require.Equal(t, abs, Join(Parent(abs), Base(abs)))
			}
		}
		v, err := ParseUint32(s)
		want, wantErr := strconv.ParseUint(s, 10, 32)
		require.Equal(t, wantErr == nil && len(s) <= 10, err == nil)
		if err == nil {
			require.Equal(t, want, uint64(v))
		}
		require.Error(t, ParseErrno([]byte(s)))
	})
}
