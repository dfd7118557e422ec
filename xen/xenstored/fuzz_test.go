package xenstored

import (
	"testing"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// FuzzStream feeds raw bytes to a guest's connection, and to one of domain 0: whatever comes, there is one reply for each whole message,
// the books are right, and what is held is bounded.
func FuzzStream(f *testing.F) {
	msg := func(b []byte, typ xenstore.MsgType, tx uint32, payload string) []byte {
		return xenstore.AppendMessage(b, xenstore.Header{Type: typ, TxID: tx}, []byte(payload))
	}
	seed := msg(nil, xenstore.MsgTransactionStart, 0, "\x00")
	seed = msg(seed, xenstore.MsgWrite, 1, "a/b\x00value")
	seed = msg(seed, xenstore.MsgWatch, 0, "a\x00token\x00")
	seed = msg(seed, xenstore.MsgRemove, 1, "a\x00")
	seed = msg(seed, xenstore.MsgTransactionEnd, 1, "T\x00")
	f.Add(seed)
	seed = msg(nil, xenstore.MsgSetPerms, 0, "/local/domain/1\x00n1\x00b2\x00")
	seed = msg(seed, xenstore.MsgDirectoryPart, 0, "/local\x000\x00")
	seed = msg(seed, xenstore.MsgIntroduce, 0, "3\x001\x001\x00")
	seed = msg(seed, xenstore.MsgSetTarget, 0, "1\x002\x00")
	seed = msg(seed, xenstore.MsgRelease, 0, "1\x00")
	f.Add(seed)
	f.Add(msg(nil, xenstore.MsgRead, 0, "/local/domain/\x00"))
	f.Add(msg(nil, xenstore.MsgResetWatches, 1, "\x00"))
	f.Add(xenstore.Header{Type: xenstore.MsgRead, Len: 0xffffffff}.Append(nil))
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, privileged := range []bool{false, true} {
			r, host, one, _ := guestRig(t, Quota{})
			cn := one
			if privileged {
				cn = host
			}
			feed(r, cn, stream)
			r.check()
		}
	})
}

// feed handles a stream as a session would, in pieces of odd sizes.
func feed(r *rig, cn *conn, stream []byte) {
	var dec xenstore.Decoder
	for len(stream) > 0 {
		n := copy(dec.Space()[:min(1009, len(dec.Space()))], stream)
		dec.Filled(n)
		stream = stream[n:]
		for {
			h, payload, ok, err := dec.Next()
			if err != nil {
				r.disconnect(cn)
				return
			}
			if !ok {
				break
			}
			if err := r.handle(cn, h, payload); err != nil {
				return // a guest that released itself cannot be; domain 0 is not released
			}
			a := r.drain(cn)
			if a.replies != 1 || len(a.payload) > xenstore.MaxPayload {
				r.Fatalf("%v %q: %d replies, %d bytes", h, payload, a.replies, len(a.payload))
			}
		}
		if cn.dom.id != dom0 && cn.dom.memory > r.quota.Memory {
			r.Fatalf("holds %d bytes", cn.dom.memory)
		}
	}
}
