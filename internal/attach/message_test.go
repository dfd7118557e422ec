package attach_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// someData draws what an address points at.
func someData(t *rapid.T, depth int) ([]byte, []hypercall.DataRef) {
	if rapid.Bool().Draw(t, "null") {
		return nil, nil
	}
	data := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "data")
	var refs []hypercall.DataRef
	for i := range rapid.IntRange(0, max(0, 3-depth)).Draw(t, "refs") {
		r := hypercall.DataRef{Off: 8 * i}
		r.Data, r.Refs = someData(t, depth+1)
		refs = append(refs, r)
	}
	return data, refs
}

func someMessage(t *rapid.T) *attach.Message {
	m := &attach.Message{
		Kind: attach.Kind(rapid.IntRange(1, int(attach.Ended)).Draw(t, "kind")), ID: rapid.Uint32().Draw(t, "id"),
		Gen: rapid.Uint32().Draw(t, "gen"), Stale: rapid.Bool().Draw(t, "stale"),
		Dom: hypercall.DomID(rapid.Uint16().Draw(t, "dom")), ABI: hypercall.ABI(rapid.IntRange(0, 2).Draw(t, "abi")),
		Name: rapid.StringN(0, 40, 100).Draw(t, "name"), Text: rapid.StringN(0, 40, 100).Draw(t, "text"),
		GFN: hypercall.GFN(rapid.Uint64().Draw(t, "gfn")), Pages: rapid.IntRange(0, 1<<31-1).Draw(t, "pages"),
		Offset: rapid.IntRange(-1<<31, 1<<31-1).Draw(t, "offset"), Port: hypercall.Port(rapid.Uint32().Draw(t, "port")),
		Errno: hypercall.Errno(rapid.IntRange(0, 4095).Draw(t, "errno")), Result: rapid.Uint64().Draw(t, "result"),
	}
	for range rapid.IntRange(0, 5).Draw(t, "places") {
		m.Places = append(m.Places, attach.Place{GFN: hypercall.GFN(rapid.Uint64().Draw(t, "gfn")), FD: rapid.IntRange(0, 255).Draw(t, "fd"),
			Page: rapid.IntRange(0, 1<<31-1).Draw(t, "page"), ReadOnly: rapid.Bool().Draw(t, "read-only")})
	}
	if rapid.Bool().Draw(t, "with a call") {
		m.Call = &hypercall.Call{Nr: hypercall.Number(rapid.Uint32().Draw(t, "nr")), N: rapid.IntRange(0, 5).Draw(t, "n"),
			Ptr: rapid.IntRange(0, 4).Draw(t, "ptr")}
		for i := range m.Call.Args {
			m.Call.Args[i] = rapid.Uint64().Draw(t, "arg")
		}
		m.Call.Data, m.Call.Refs = someData(t, 0)
	}
	return m
}

func TestMessagesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := someMessage(t)
		b := want.Append(nil)
		got, err := attach.Parse(b)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(want, got, cmpopts.EquateEmpty()))
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		_, err = attach.Parse(b[:cut])
		require.ErrorIs(t, err, attach.ErrMessage, "the first %d bytes of %d", cut, len(b))
		_, err = attach.Parse(append(b, 0))
		require.ErrorIs(t, err, attach.ErrMessage, "a byte too many")
	})
}

func TestCopyBack(t *testing.T) {
	call := func(fill byte, sizes ...int) *hypercall.Call {
		c := &hypercall.Call{Data: make([]byte, sizes[0])}
		for _, n := range sizes[1:] {
			c.Refs = append(c.Refs, hypercall.DataRef{Data: []byte{}})
			for range n {
				last := &c.Refs[len(c.Refs)-1]
				last.Data = append(last.Data, fill)
			}
		}
		for i := range c.Data {
			c.Data[i] = fill
		}
		return c
	}
	to := call(0, 4, 2, 3)
	require.True(t, attach.CopyBack(to, call(7, 4, 2, 3)))
	require.Equal(t, call(7, 4, 2, 3), to)
	for _, other := range []*hypercall.Call{call(1, 3, 2, 3), call(1, 4, 2), call(1, 4, 2, 4), call(1, 4, 2, 3, 1)} {
		require.False(t, attach.CopyBack(to, other))
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []*attach.Message{
		{Kind: attach.Hello, ID: attach.Version, Name: "guest"},
		{Kind: attach.Hypercall, ID: 1, Gen: 1, Call: hypercall.NewStructCall(hypercall.X86_64, hypercall.NrEventChannelOp,
			hypercall.EvtchnopAllocUnbound, &hypercall.EvtchnAllocUnbound{Dom: hypercall.DomSelf})},
		{Kind: attach.Reply, ID: 1, Places: []attach.Place{{GFN: 5, FD: 1, Page: 2, ReadOnly: true}}, Text: "no"},
	} {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := attach.Parse(b)
		if err != nil {
			require.ErrorIs(t, err, attach.ErrMessage)
			return
		}
		require.Equal(t, b, m.Append(nil), "each message has one encoding")
		if m.Call != nil {
			_ = m.Call.Validate(m.ABI)
		}
	})
}
