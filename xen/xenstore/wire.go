package xenstore

import (
	"encoding/binary"
	"fmt"
)

// Sizes of the wire protocol (io/xs_wire.h).
const (
	HeaderSize = 16   // bytes of the header before every message (struct xsd_sockmsg)
	MaxPayload = 4096 // most bytes after the header, both ways (XENSTORE_PAYLOAD_MAX); a peer that sends more is cut off
	MaxMessage = HeaderSize + MaxPayload
)

// MsgType says what a message is (enum xsd_sockmsg_type).
type MsgType uint32

// The types of messages. 20 was RESTRICT and is not used any more.
const (
	MsgControl          MsgType = 0 // also called DEBUG
	MsgDirectory        MsgType = 1
	MsgRead             MsgType = 2
	MsgGetPerms         MsgType = 3
	MsgWatch            MsgType = 4
	MsgUnwatch          MsgType = 5
	MsgTransactionStart MsgType = 6
	MsgTransactionEnd   MsgType = 7
	MsgIntroduce        MsgType = 8
	MsgRelease          MsgType = 9
	MsgGetDomainPath    MsgType = 10
	MsgWrite            MsgType = 11
	MsgMkdir            MsgType = 12
	MsgRemove           MsgType = 13 // XS_RM
	MsgSetPerms         MsgType = 14
	MsgWatchEvent       MsgType = 15 // only from the server
	MsgError            MsgType = 16 // only from the server
	MsgIsIntroduced     MsgType = 17 // XS_IS_DOMAIN_INTRODUCED
	MsgResume           MsgType = 18
	MsgSetTarget        MsgType = 19
	MsgResetWatches     MsgType = 21
	MsgDirectoryPart    MsgType = 22
	MsgGetFeature       MsgType = 23
	MsgSetFeature       MsgType = 24
	MsgGetQuota         MsgType = 25
	MsgSetQuota         MsgType = 26
	MsgInvalid          MsgType = 0xffff // never valid
)

var msgNames = [...]string{
	MsgControl: "CONTROL", MsgDirectory: "DIRECTORY", MsgRead: "READ", MsgGetPerms: "GET_PERMS", MsgWatch: "WATCH",
	MsgUnwatch: "UNWATCH", MsgTransactionStart: "TRANSACTION_START", MsgTransactionEnd: "TRANSACTION_END",
	MsgIntroduce: "INTRODUCE", MsgRelease: "RELEASE", MsgGetDomainPath: "GET_DOMAIN_PATH", MsgWrite: "WRITE", MsgMkdir: "MKDIR",
	MsgRemove: "RM", MsgSetPerms: "SET_PERMS", MsgWatchEvent: "WATCH_EVENT", MsgError: "ERROR",
	MsgIsIntroduced: "IS_DOMAIN_INTRODUCED", MsgResume: "RESUME", MsgSetTarget: "SET_TARGET", MsgResetWatches: "RESET_WATCHES",
	MsgDirectoryPart: "DIRECTORY_PART", MsgGetFeature: "GET_FEATURE", MsgSetFeature: "SET_FEATURE", MsgGetQuota: "GET_QUOTA",
	MsgSetQuota: "SET_QUOTA",
}

// Known reports whether the protocol defines the type.
func (t MsgType) Known() bool { return t < MsgType(len(msgNames)) && msgNames[t] != "" }

// String returns the protocol's name of the type.
func (t MsgType) String() string {
	if t.Known() {
		return msgNames[t]
	}
	return fmt.Sprintf("MsgType(%d)", uint32(t))
}

// Header stands before every message, as four little-endian words.
type Header struct {
	Type  MsgType
	ReqID uint32 // chosen by the client; the reply repeats it
	TxID  uint32 // 0, or a transaction that TRANSACTION_START answered
	Len   uint32 // bytes of payload that follow
}

// Append appends the 16 bytes of the header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Type))
	b = binary.LittleEndian.AppendUint32(b, h.ReqID)
	b = binary.LittleEndian.AppendUint32(b, h.TxID)
	return binary.LittleEndian.AppendUint32(b, h.Len)
}

// DecodeHeader decodes a header from the first 16 bytes of b, of which there must be so many. It does not judge them.
func DecodeHeader(b []byte) Header {
	_ = b[HeaderSize-1]
	return Header{
		Type:  MsgType(binary.LittleEndian.Uint32(b)),
		ReqID: binary.LittleEndian.Uint32(b[4:]),
		TxID:  binary.LittleEndian.Uint32(b[8:]),
		Len:   binary.LittleEndian.Uint32(b[12:]),
	}
}

// AppendMessage appends a message to b: a header of the type and ids of h and the right length, and the parts as payload, one after the
// other. The caller keeps the payload within [MaxPayload].
func AppendMessage(b []byte, h Header, parts ...[]byte) []byte {
	h.Len = 0
	for _, p := range parts {
		h.Len += uint32(len(p))
	}
	b = h.Append(b)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// ProtocolError says how a peer broke the protocol. The connection cannot be used any more: where one message ends and the next begins,
// or which request a reply belongs to, is not known.
type ProtocolError struct {
	Header Header // of the message that was wrong
	What   string // what was wrong with it
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("xenstore: protocol violation: %s (type %s, request %d, transaction %d, length %d)",
		e.What, e.Header.Type, e.Header.ReqID, e.Header.TxID, e.Header.Len)
}

// decoderSize holds a whole message and what comes with it in one read.
const decoderSize = 2 * MaxMessage

// Decoder cuts a stream of bytes into messages. It never holds more than 8 KiB. The zero value is ready; it belongs to one goroutine.
//
// Read into [Decoder.Space], say how much came with [Decoder.Filled], then call [Decoder.Next] until it has no message.
type Decoder struct {
	buf  []byte
	r, w int // buf[r:w] is not yet taken
	err  error
}

// Space returns where the next bytes of the stream go. It is never empty after Next has said that there is no message. It ends the life
// of payloads that Next returned.
func (d *Decoder) Space() []byte {
	if d.buf == nil {
		d.buf = make([]byte, decoderSize)
	}
	if d.r > 0 {
		d.w = copy(d.buf, d.buf[d.r:d.w])
		d.r = 0
	}
	return d.buf[d.w:]
}

// Filled says that n bytes of the stream were put at the beginning of Space.
func (d *Decoder) Filled(n int) { d.w += n }

// Next returns the next message, if it is there whole. The payload is good until the next call of Space. A length above [MaxPayload] is
// a *ProtocolError, now and ever after.
func (d *Decoder) Next() (h Header, payload []byte, ok bool, err error) {
	if d.err != nil || d.w-d.r < HeaderSize {
		return Header{}, nil, false, d.err
	}
	h = DecodeHeader(d.buf[d.r:d.w])
	if h.Len > MaxPayload {
		d.err = &ProtocolError{h, fmt.Sprintf("payload longer than %d bytes", MaxPayload)}
		return Header{}, nil, false, d.err
	}
	end := d.r + HeaderSize + int(h.Len)
	if end > d.w {
		return Header{}, nil, false, nil
	}
	payload = d.buf[d.r+HeaderSize : end : end]
	d.r = end
	return h, payload, true, nil
}

// Partial returns how many bytes of a message that is not whole yet are held: where a stream ends, it ended in mid message if this is
// not 0.
func (d *Decoder) Partial() int { return d.w - d.r }

// Rest returns what [Decoder.Next] has not returned yet. It is good until the next call of Space.
func (d *Decoder) Rest() []byte { return d.buf[d.r:d.w:d.w] }

// Reset forgets what was held, as after a reset of the connection.
func (d *Decoder) Reset() { d.r, d.w, d.err = 0, 0, nil }
