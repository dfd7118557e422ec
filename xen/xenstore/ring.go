package xenstore

import (
	"errors"
	"fmt"
	"net"

	"github.com/hvkit/hvkit/shm"
)

// Layout of the shared page (struct xenstore_domain_interface in io/xs_wire.h), in bytes.
const (
	RingSize = 1024 // bytes of each of the two rings (XENSTORE_RING_SIZE)

	OffReq            = 0    // the ring of requests, client to server
	OffRsp            = 1024 // the ring of replies and events, server to client
	OffReqCons        = 2048 // free-running indices
	OffReqProd        = 2052
	OffRspCons        = 2056
	OffRspProd        = 2060
	OffServerFeatures = 2064 // bits that only the server sets and nobody clears
	OffConnection     = 2068
	OffError          = 2072
	OffEvtchnPort     = 2076 // filled in by Xen for domains that it makes itself at boot
)

// Bits of the word at [OffServerFeatures].
const (
	FeatureReconnection = 1 // the connection word is valid: the client may ask for a reset
	FeatureError        = 2 // the error word is valid
	FeatureWatchDepth   = 4 // WATCH takes a depth
	FeatureDomIDAny     = 8 // permissions may name DOMID_ANY
)

// Values of the word at [OffConnection].
const (
	Connected = 0
	Reconnect = 1 // the client, or who built it, asks for a reset; the server answers by writing Connected
)

// RingErrorCode is a value of the word at [OffError]: why the server gave the connection up.
type RingErrorCode uint32

// Why a server gives a connection up.
const (
	RingErrorNone     RingErrorCode = 0
	RingErrorComm     RingErrorCode = 1 // the event channel does not work
	RingErrorIndex    RingErrorCode = 2 // an index of the client's is impossible
	RingErrorProtocol RingErrorCode = 3 // a message of the client's is too long
)

func (c RingErrorCode) String() string {
	switch c {
	case RingErrorNone:
		return "no error"
	case RingErrorComm:
		return "communication problem"
	case RingErrorIndex:
		return "invalid ring index"
	case RingErrorProtocol:
		return "protocol violation"
	}
	return fmt.Sprintf("error code %d", uint32(c))
}

// RingRole says which end of a ring page somebody is.
type RingRole uint8

// The ends of a ring page.
const (
	RoleClient RingRole = iota // a guest
	RoleServer                 // the store
)

func (r RingRole) String() string {
	if r == RoleServer {
		return "server"
	}
	return "client"
}

// RingError says how the other end broke the ring, or that it says so of us. The ring cannot be used any more.
type RingError struct {
	Role  RingRole      // of the end that noticed
	Field string        // of the page: "req_prod", "req_cons", "rsp_prod", "rsp_cons", "error"
	Code  RingErrorCode // what a server puts into the error word for it, or found there by a client
	Err   error         // what was wrong with the field
}

func (e *RingError) Error() string {
	return fmt.Sprintf("xenstore: ring: %s of the %s's peer: %v", e.Field, e.Role, e.Err)
}

// Unwrap returns what was wrong with the field.
func (e *RingError) Unwrap() error { return e.Err }

var (
	// ErrRingReset is what the server's end of a ring answers when the client has asked for a reset, until [Ring.ResetDone].
	ErrRingReset = errors.New("xenstore: ring: the client asks for a reset of the connection")

	errReconnecting = errors.New("xenstore: ring: reconnecting")
)

// Ring is one end of a shared page: a stream of bytes each way. It is a core: it does not wait. One goroutine may read while another
// one writes; all else belongs to one at a time.
//
// The indices are free-running 32-bit counters that wrap, and need not begin at 0. The end's own two are kept privately and only ever
// stored; the peer's are loaded once each time and checked: the producer may be at most 1024 ahead of the consumer.
type Ring struct {
	page     *shm.Region
	role     RingRole
	features uint32 // of a server: what it advertises

	in  half // from the peer
	out half // to the peer
}

// half is what one direction needs.
type half struct {
	data     int    // where the bytes are
	own      uint32 // our index
	ownOff   int    // where we publish it
	peerOff  int    // where the peer's index is
	peerName string
	synced   bool  // own was taken from the page
	err      error // sticky
}

// NewRing returns the end of the page in the role. A server advertises the features ([FeatureReconnection], [FeatureError], ...), which
// may be none; a client passes 0. Where the connection word is [Reconnect], as whoever built the domain may have left it, a server
// without FeatureReconnection sets it to [Connected], and one with it answers [ErrRingReset] first. The region has at least one page,
// and must be writable.
func NewRing(page *shm.Region, role RingRole, features uint32) (*Ring, error) {
	if page.Size() < shm.PageSize || !page.Writable() {
		return nil, fmt.Errorf("xenstore: ring: the region must be one writable page: %w", EINVAL)
	}
	r := &Ring{page: page, role: role}
	r.in = half{data: OffRsp, ownOff: OffRspCons, peerOff: OffRspProd, peerName: "rsp_prod"}
	r.out = half{data: OffReq, ownOff: OffReqProd, peerOff: OffReqCons, peerName: "req_cons"}
	if role == RoleServer {
		r.features = features
		r.in = half{data: OffReq, ownOff: OffReqCons, peerOff: OffReqProd, peerName: "req_prod"}
		r.out = half{data: OffRsp, ownOff: OffRspProd, peerOff: OffRspCons, peerName: "rsp_cons"}
		r.page.Store32(OffServerFeatures, features)
		if features&FeatureReconnection == 0 {
			r.page.Store32(OffConnection, Connected) // nobody will look at the word any more, and the client waits for it
		}
	}
	return r, nil
}

// Features returns what the server advertises, unknown bits included.
func (r *Ring) Features() uint32 {
	if r.role == RoleServer {
		return r.features
	}
	return r.page.Load32(OffServerFeatures).Unchecked()
}

// RequestReset, of a client, asks the server for a reset, if the server can: both rings then wait until it has been done. The caller
// notifies. It is for a client that finds the page in use by one before it, as after kexec.
func (r *Ring) RequestReset() bool {
	if r.role != RoleClient || r.Features()&FeatureReconnection == 0 {
		return false
	}
	r.in.synced, r.out.synced = false, false
	r.page.Store32(OffConnection, Reconnect)
	return true
}

// ResetDone, of a server, empties both rings and tells the client that the reset it asked for has been done. The caller notifies.
func (r *Ring) ResetDone() {
	for _, off := range []int{OffReqCons, OffReqProd, OffRspCons, OffRspProd} {
		r.page.Store32(off, 0)
	}
	for _, h := range []*half{&r.in, &r.out} {
		h.own, h.synced, h.err = 0, true, nil
	}
	r.page.Store32(OffError, uint32(RingErrorNone))
	r.page.Store32(OffConnection, Connected)
}

// Fail, of a server, gives the connection up and tells the client why. The caller notifies.
func (r *Ring) Fail(code RingErrorCode) {
	if r.role == RoleServer {
		r.page.Store32(OffError, uint32(code))
	}
}

// shut ends the use of the page.
func (r *Ring) shut() { r.in.err, r.out.err = net.ErrClosed, net.ErrClosed }

// sync makes a half ready: while a reset goes on it is not, and after that its own index is what the page says.
func (r *Ring) sync(h *half) error {
	if h.err != nil {
		return h.err
	}
	if r.resetAsked() {
		return ErrRingReset
	}
	if h.synced {
		return nil
	}
	// As Linux does, a client waits whenever the word is 1, also before the server has advertised anything: a domain that Xen
	// itself built finds it so (dom0less).
	if r.role == RoleClient && r.page.Load32(OffConnection).Is(Reconnect) {
		return errReconnecting
	}
	h.own = r.page.Load32(h.ownOff).Unchecked() // any value is as good as any other; the peer's must be near it
	h.synced = true
	return nil
}

// resetAsked reports whether the client asks for a reset that this server has promised.
func (r *Ring) resetAsked() bool {
	return r.role == RoleServer && r.features&FeatureReconnection != 0 && r.page.Load32(OffConnection).Is(Reconnect)
}

// ResetAsked, of a server, reports whether Read would answer [ErrRingReset].
func (r *Ring) ResetAsked() bool { return r.in.err == nil && r.resetAsked() }

// broken makes an error sticky.
func (r *Ring) broken(h *half, err error) error {
	h.err = &RingError{Role: r.role, Field: h.peerName, Code: RingErrorIndex, Err: err}
	r.Fail(RingErrorIndex)
	return h.err
}

// Read takes bytes from the peer into p, as many as there are and fit, and reports whether the peer must be told, because it may wait
// for room. 0 bytes without an error mean that there are none.
func (r *Ring) Read(p []byte) (n int, notify bool, err error) {
	h := &r.in
	if err := r.sync(h); err != nil {
		return 0, false, r.waiting(err)
	}
	avail, err := r.page.Load32(h.peerOff).Ahead(h.own, RingSize)
	if err != nil {
		return 0, false, r.broken(h, err)
	}
	if n = min(int(avail), len(p)); n == 0 {
		return 0, false, nil
	}
	r.copyOut(p[:n], h)
	old := h.own
	h.own += uint32(n)
	r.page.Store32(h.ownOff, h.own)
	// A peer that found the ring full may sleep. It published its producer before it looked at our consumer, and we published the
	// consumer before we look at its producer: one of the two sees the other (Linux, xenbus_comms.c, has the same rule).
	return n, r.page.Load32(h.peerOff).Unchecked()-old >= RingSize, nil
}

// Write puts bytes of p into the ring, as many as have room, and reports whether the peer must be told, because it may wait for them.
// 0 bytes without an error mean that the ring is full.
func (r *Ring) Write(p []byte) (n int, notify bool, err error) {
	h := &r.out
	if err := r.sync(h); err != nil {
		return 0, false, r.waiting(err)
	}
	used, err := r.used(h)
	if err != nil {
		return 0, false, r.broken(h, err)
	}
	if n = min(int(RingSize-used), len(p)); n == 0 {
		return 0, false, nil
	}
	r.copyIn(h, p[:n])
	old := h.own
	h.own += uint32(n)
	r.page.Store32(h.ownOff, h.own)
	if r.role == RoleServer {
		return n, true, nil // guests of every age and kind read this: tell them always, as the C server does
	}
	// A peer that has not yet reached what was there before will find what is there now without being told (Linux has the same rule).
	return n, r.page.Load32(h.peerOff).Unchecked()-old <= uint32(n), nil
}

// used returns how many bytes the peer has yet to take: our producer minus its consumer.
func (r *Ring) used(h *half) (uint32, error) {
	room, err := r.page.Load32(h.peerOff).Ahead(h.own-RingSize, RingSize)
	return RingSize - room, err
}

// waiting hides that a reset goes on: to the caller the ring has nothing to read and no room.
func (r *Ring) waiting(err error) error {
	if err == errReconnecting {
		return nil
	}
	return err
}

// Readable reports whether Read would return bytes or an error.
func (r *Ring) Readable() bool {
	if err := r.sync(&r.in); err != nil {
		return err != errReconnecting
	}
	return !r.page.Load32(r.in.peerOff).Is(r.in.own)
}

// PeerError returns the error that the server left in the page for its client, or nil.
func (r *Ring) PeerError() error {
	if r.role != RoleClient || r.Features()&FeatureError == 0 {
		return nil
	}
	if r.page.Load32(OffConnection).Is(Reconnect) {
		return nil // nothing else is valid now
	}
	code := RingErrorCode(r.page.Load32(OffError).Unchecked())
	if code == RingErrorNone {
		return nil
	}
	return &RingError{Role: r.role, Field: "error", Code: code, Err: errors.New("the server gave the connection up: " + code.String())}
}

func (r *Ring) copyOut(p []byte, h *half) {
	at := int(h.own % RingSize)
	n := min(len(p), RingSize-at)
	r.page.CopyOut(p[:n], h.data+at)
	if n < len(p) {
		r.page.CopyOut(p[n:], h.data)
	}
}

func (r *Ring) copyIn(h *half, p []byte) {
	at := int(h.own % RingSize)
	n := min(len(p), RingSize-at)
	r.page.CopyIn(h.data+at, p[:n])
	if n < len(p) {
		r.page.CopyIn(h.data, p[n:])
	}
}
