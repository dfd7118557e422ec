package attach

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Version is the version of the protocol. A host answers a Hello of another version with an error.
const Version = 2

// MaxMessage is the largest message, in bytes. A larger one ends the connection.
const MaxMessage = 96 << 10

// MaxFDs is how many descriptors go with one message at most; the kernel's own limit is 253 (SCM_MAX_FD).
const MaxFDs = 128

// Kind says what a message is.
type Kind uint8

// The kinds of message. A process sends Hello first, and then requests, each with an id of its own; the host answers each with a Reply
// that has its id, in the order of the requests. Resumed, Paused, Unpaused and Ended come unasked, with id 0.
//
// A port's descriptors are one to watch for events (an [Ear]: an epoll descriptor, edge-triggered, which is not read) and one to write the
// 8-byte number 1 to, which sends an event (an [Event]: an eventfd); a virtual interrupt's port has the first only.
const (
	Hello     Kind = iota + 1 // to the host: Text is the token; or Text is empty and Name is a new domain's
	Welcome                   // from the host: Dom, Name, ABI, Port (Xenstore's); descriptors: grant table, Xenstore page, the port's two
	Hypercall                 // to the host: Call
	AddMemory                 // to the host: GFN, Pages, and a sealed memfd of that many
	FreeMem                   // to the host: GFN, Pages
	SetNotify                 // to the host: GFN, Offset, Port
	Locate                    // to the host: Places, of which the frame numbers count; the Reply says where they are
	Reply                     // from the host: Result, Errno or Text (an error), Stale, what the call wrote, Places; a port's descriptors
	Resumed                   // from the host: as Welcome; the domain runs again as another incarnation
	Paused                    // from the host: the domain is paused
	Unpaused                  // from the host: the domain goes on
	Ended                     // from the host: the domain was destroyed, or was refused; Text says why
	numKinds
)

var kindNames = [numKinds]string{
	"?", "hello", "welcome", "hypercall", "add memory", "free memory", "set notify", "locate", "reply", "resumed", "paused", "unpaused",
	"ended",
}

func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Place says where the page behind a frame number is: a page of one of the message's descriptors.
type Place struct {
	GFN      hypercall.GFN
	FD       int // index among the message's descriptors
	Page     int
	ReadOnly bool
}

// Message is one message, either way. Each kind uses the fields that its comment names; the others are zero.
type Message struct {
	Kind   Kind
	ID     uint32
	Gen    uint32 // the incarnation of the domain that the sender is in, but for Hello; a request or reply of another one is void
	Stale  bool   // of a Reply: the request was of another incarnation
	Dom    hypercall.DomID
	ABI    hypercall.ABI
	Name   string
	Text   string
	GFN    hypercall.GFN
	Pages  int
	Offset int
	Port   hypercall.Port
	Errno  hypercall.Errno
	Result uint64
	Call   *hypercall.Call
	Places []Place
}

// Append appends the message's bytes.
func (m *Message) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, byte(m.Kind), byte(m.ABI), flag(m.Stale))
	b = le.AppendUint16(b, uint16(m.Dom))
	b = le.AppendUint32(b, m.ID)
	b = le.AppendUint32(b, m.Gen)
	b = appendText(b, m.Name)
	b = appendText(b, m.Text)
	b = le.AppendUint64(b, uint64(m.GFN))
	b = le.AppendUint32(b, uint32(m.Pages))
	b = le.AppendUint32(b, uint32(int32(m.Offset)))
	b = le.AppendUint32(b, uint32(m.Port))
	b = le.AppendUint32(b, uint32(m.Errno))
	b = le.AppendUint64(b, m.Result)
	b = le.AppendUint32(b, uint32(len(m.Places)))
	for _, p := range m.Places {
		b = le.AppendUint64(b, uint64(p.GFN))
		b = append(b, byte(p.FD), flag(p.ReadOnly))
		b = le.AppendUint32(b, uint32(p.Page))
	}
	if m.Call == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	return appendCall(b, m.Call)
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendText(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(min(len(s), maxText)))
	return append(b, s[:min(len(s), maxText)]...)
}

const maxText = 4096 // bytes of a name, a token or an error

func appendCall(b []byte, c *hypercall.Call) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(c.Nr))
	b = append(b, byte(c.N), byte(c.Ptr))
	for _, a := range c.Args {
		b = le.AppendUint64(b, a)
	}
	return appendData(b, c.Data, c.Refs)
}

func appendData(b, data []byte, refs []hypercall.DataRef) []byte {
	le := binary.LittleEndian
	b = append(b, flag(data != nil))
	b = le.AppendUint32(b, uint32(len(data)))
	b = append(b, data...)
	b = le.AppendUint32(b, uint32(len(refs)))
	for i := range refs {
		b = le.AppendUint32(b, uint32(refs[i].Off))
		b = appendData(b, refs[i].Data, refs[i].Refs)
	}
	return b
}

// ErrMessage is what a message that is no message is refused with.
var ErrMessage = errors.New("attach: malformed message")

// Limits of what a message may make its reader build. What a call may be beyond that is for hypercall.Call.Validate to say.
const (
	maxRefs   = hypercall.MaxCallRefs // in one call, at all depths
	maxDepth  = hypercall.MaxRefDepth // of addresses in what addresses point at
	maxPlaces = 1024
)

// Parse decodes a message. The message's data are slices of b.
func Parse(b []byte) (*Message, error) {
	r := reader{b: b}
	m := &Message{Kind: Kind(r.u8()), ABI: hypercall.ABI(r.u8()), Stale: r.flag(), Dom: hypercall.DomID(r.u16()), ID: r.u32(), Gen: r.u32()}
	if m.Kind == 0 || m.Kind >= numKinds || m.ABI > hypercall.ARM64 {
		r.bad = true
	}
	m.Name, m.Text = r.text(), r.text()
	m.GFN = hypercall.GFN(r.u64())
	m.Pages, m.Offset = int(r.u32()), int(int32(r.u32()))
	m.Port, m.Errno, m.Result = hypercall.Port(r.u32()), hypercall.Errno(r.u32()), r.u64()
	if n := r.count(maxPlaces); n > 0 {
		m.Places = make([]Place, n)
		for i := range m.Places {
			m.Places[i] = Place{GFN: hypercall.GFN(r.u64()), FD: int(r.u8()), ReadOnly: r.flag(), Page: int(r.u32())}
		}
	}
	if r.flag() {
		m.Call = r.call()
	}
	if r.bad || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: %v of %d bytes", ErrMessage, m.Kind, len(b))
	}
	return m, nil
}

// reader takes numbers and bytes off a message. After the first that is not there it yields zeros, and is bad.
type reader struct {
	b    []byte
	refs int
	bad  bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) number(n int) uint64 {
	var v uint64
	for i, c := range r.take(n) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

func (r *reader) u8() uint8   { return uint8(r.number(1)) }
func (r *reader) u16() uint16 { return uint16(r.number(2)) }
func (r *reader) u32() uint32 { return uint32(r.number(4)) }
func (r *reader) u64() uint64 { return r.number(8) }

// flag reads a byte that is 0 or 1, so that each message has one encoding.
func (r *reader) flag() bool {
	v := r.u8()
	r.bad = r.bad || v > 1
	return v == 1
}

func (r *reader) text() string {
	n := int(r.u16())
	if n > maxText {
		r.bad = true
	}
	return string(r.take(n))
}

// count reads how many elements follow.
func (r *reader) count(most int) int {
	n := r.u32()
	if n > uint32(most) || int(n) > len(r.b) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) call() *hypercall.Call {
	c := &hypercall.Call{Nr: hypercall.Number(r.u32()), N: int(r.u8()), Ptr: int(r.u8())}
	for i := range c.Args {
		c.Args[i] = r.u64()
	}
	if c.N > len(c.Args) || c.Ptr >= len(c.Args) {
		r.bad = true
	}
	c.Data, c.Refs = r.data(0)
	return c
}

func (r *reader) data(depth int) ([]byte, []hypercall.DataRef) {
	there := r.flag()
	data := r.take(r.count(MaxMessage))
	if !there {
		r.bad = r.bad || len(data) != 0
		data = nil
	}
	n := r.count(maxRefs - r.refs)
	r.refs += n
	if n == 0 || r.bad || depth == maxDepth {
		r.bad = r.bad || n != 0
		return data, nil
	}
	refs := make([]hypercall.DataRef, n)
	for i := range refs {
		refs[i].Off = int(r.u32())
		refs[i].Data, refs[i].Refs = r.data(depth + 1)
	}
	return data, refs
}

// CopyBack copies what a call wrote, as a reply has it, into the call that was made. It reports whether the two have the same shape.
func CopyBack(to, from *hypercall.Call) bool {
	return copyData(to.Data, from.Data) && copyRefs(to.Refs, from.Refs)
}

func copyData(to, from []byte) bool {
	return len(to) == len(from) && copy(to, from) == len(to)
}

func copyRefs(to, from []hypercall.DataRef) bool {
	if len(to) != len(from) {
		return false
	}
	for i := range to {
		if !copyData(to[i].Data, from[i].Data) || !copyRefs(to[i].Refs, from[i].Refs) {
			return false
		}
	}
	return true
}
