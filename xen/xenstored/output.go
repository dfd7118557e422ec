package xenstored

import (
	"bytes"
	"errors"
	"hash/maphash"

	"github.com/hvkit/hvkit/xen/xenstore"
)

// ErrOverflow is why the server ended a privileged connection that does not read what it is sent: more than Config.MaxQueued bytes were
// waiting. (Unprivileged ones lose events instead, as their quota of memory says.)
var ErrOverflow = errors.New("xenstored: the peer does not read what it is sent")

// queue is what waits to be sent on a connection: whole messages, one after the other, in two parts. What take returned is in flight;
// what came later waits behind it.
type queue struct {
	buf    []byte
	items  []item
	flight []byte // what is left to write of what was taken
	taken  []item
	spare  [2][]byte           // the buffer of the flight before, and the buffer that flight began in
	events map[uint64]struct{} // hashes of the events in buf; nil where none was looked for among many
	busy   bool                // somebody writes
	deaf   bool                // events were not taken in time, and the queue has not been empty since: nobody waits for it any more
}

// item is a message in a queue.
type item struct {
	off, size int // in queue.buf, header included
	event     bool
	cause     *request // whose request it answers or was caused by, if that is counted
	at        int64    // core.now when it was queued
}

// request is a request of an unprivileged connection that is outstanding until its reply and all events it caused have been taken or
// dropped.
type request struct {
	dom  *domain
	refs int
}

// Bounds of buffers that are kept for the next messages.
const (
	keepBytes = 64 << 10
	keepItems = 1024
	fewEvents = 16 // up to so many queued events are searched one by one for a double
)

// reply queues the answer to a request.
func (c *core) reply(cn *conn, req *call, t xenstore.MsgType, parts ...string) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	switch {
	case n > xenstore.MaxPayload:
		c.fail(cn, req, xenstore.E2BIG)
		return
	case n > smallReply && c.overMemory(cn.dom, n+xenstore.HeaderSize):
		c.fail(cn, req, xenstore.ENOMEM)
		return
	}
	c.enqueue(cn, xenstore.Header{Type: t, ReqID: req.hdr.ReqID, TxID: req.hdr.TxID, Len: uint32(n)}, req, parts...)
}

// smallReply is the size up to which a reply is sent whatever the quota of memory says, so that there is a way to say so.
const smallReply = 16

// fail queues an error as the answer to a request.
func (c *core) fail(cn *conn, req *call, e xenstore.Errno) {
	c.stats.Errors++
	h := xenstore.Header{Type: xenstore.MsgError, ReqID: req.hdr.ReqID, TxID: req.hdr.TxID, Len: uint32(len(e) + 1)}
	c.enqueue(cn, h, req, string(e), "\x00")
}

func (c *core) enqueue(cn *conn, h xenstore.Header, req *call, parts ...string) {
	if cn.ended != nil {
		return
	}
	q := &cn.out
	it := item{off: len(q.buf), event: h.Type == xenstore.MsgWatchEvent, at: c.now}
	if req != nil && req.cause != nil && !(it.event && q.deaf) {
		it.cause = req.cause
		it.cause.refs++
		if it.event {
			c.caused++
		}
	}
	q.buf = h.Append(q.buf)
	for _, p := range parts {
		q.buf = append(q.buf, p...)
	}
	it.size = len(q.buf) - it.off
	q.items = append(q.items, it)
	cn.dom.memory += it.size
	cn.dom.queued += it.size
	c.markDirty(cn)
	if cn.privileged() && len(q.buf) > c.maxQueued {
		c.stats.Violations++
		c.end(cn, ErrOverflow)
	}
}

// event queues a watch event, unless the same is waiting already or it cannot be sent.
func (c *core) event(cn *conn, req *call, path, token string) {
	if cn.ended != nil {
		return
	}
	n := len(path) + len(token) + 2
	if path[0] != '@' && cn.out.pending(path, token) {
		c.stats.EventsMerged++
		return
	}
	if n > xenstore.MaxPayload || c.overMemory(cn.dom, n+xenstore.HeaderSize) {
		c.stats.EventsDropped++
		return
	}
	c.stats.Events++
	if q := &cn.out; q.events != nil {
		q.events[hashEvent(path, token)] = struct{}{}
	}
	c.enqueue(cn, xenstore.Header{Type: xenstore.MsgWatchEvent, Len: uint32(n)}, req, path, "\x00", token, "\x00")
}

// pending reports whether an event of this path and token waits. Where many wait it keeps an index of them: of hashes, so that it takes
// no more memory for long paths, under a seed that guests do not know.
func (q *queue) pending(path, token string) bool {
	if q.events == nil && len(q.items) <= fewEvents {
		for _, it := range q.items {
			if it.event && sameEvent(q.buf[it.off+xenstore.HeaderSize:it.off+it.size], path, token) {
				return true
			}
		}
		return false
	}
	if q.events == nil {
		q.events = map[uint64]struct{}{}
		for _, it := range q.items {
			if it.event {
				q.events[maphash.Bytes(hashSeed, q.buf[it.off+xenstore.HeaderSize:it.off+it.size])] = struct{}{}
			}
		}
	}
	_, ok := q.events[hashEvent(path, token)]
	return ok
}

// hashEvent hashes the payload of an event.
func hashEvent(path, token string) uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	for _, s := range []string{path, token} {
		_, _ = h.WriteString(s) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

func sameEvent(payload []byte, path, token string) bool {
	i := bytes.IndexByte(payload, 0)
	return string(payload[:i]) == path && string(payload[i+1:len(payload)-1]) == token
}

// take returns bytes to write next, if there are any and nobody else writes. The caller reports with wrote. The bytes stay the same
// until then.
func (q *queue) take() []byte {
	if q.busy {
		return nil
	}
	if len(q.flight) == 0 {
		if len(q.buf) == 0 {
			return nil
		}
		q.flight, q.buf, q.spare = q.buf, q.spare[0], [2][]byte{nil, q.buf}
		q.items, q.taken = q.taken[:0], q.items
		q.events = nil
	}
	q.busy = true
	return q.flight
}

// wrote says that n bytes of what take returned are written.
func (c *core) wrote(cn *conn, n int) {
	q := &cn.out
	q.busy = false
	q.flight = q.flight[n:]
	if len(q.flight) > 0 {
		return
	}
	q.deaf = q.deaf && len(q.buf) > 0
	c.release(cn, q.taken)
	clear(q.taken)
	q.taken = q.taken[:0]
	if cap(q.taken) > keepItems {
		q.taken = nil
	}
	if cap(q.spare[1]) <= keepBytes {
		q.spare[0] = q.spare[1][:0]
	}
	q.spare[1] = nil
}

// release ends the accounting of messages.
func (c *core) release(cn *conn, items []item) {
	for i := range items {
		cn.dom.memory -= items[i].size
		cn.dom.queued -= items[i].size
		c.settle(&items[i])
	}
}

// settle says that the request that caused a message need not wait for it any more.
func (c *core) settle(it *item) {
	if it.cause == nil {
		return
	}
	if it.event {
		c.caused--
	}
	it.cause.done()
	it.cause = nil
}

// done says that one message of the request has been taken or dropped.
func (r *request) done() {
	if r.refs--; r.refs == 0 {
		r.dom.outstanding--
	}
}

// discard drops all output of a connection that has ended.
func (c *core) discard(cn *conn) {
	q := &cn.out
	c.release(cn, q.items)
	c.release(cn, q.taken)
	q.items, q.taken, q.buf, q.events, q.deaf = nil, nil, nil, nil, false
}

// restart forgets all that belongs to the stream of a connection that begins anew: watches, transactions and output. Nobody may be
// writing.
func (c *core) restart(cn *conn) {
	c.reset(cn)
	c.discard(cn)
	cn.out.flight = nil
	cn.stale = false
}

// expire ends the wait of requests for events that were queued before a time. Unprivileged receivers lose the event, unless it is being
// written, and are not waited for again until they have taken all that is left; privileged ones keep it.
func (c *core) expire(cn *conn, before int64) {
	q := &cn.out
	for i := range q.taken {
		if it := &q.taken[i]; it.event && it.cause != nil && it.at < before {
			c.settle(it)
			q.deaf = !cn.privileged()
		}
	}
	kept, buf := q.items[:0], q.buf[:0]
	for _, it := range q.items {
		msg := q.buf[it.off : it.off+it.size]
		if it.event && it.cause != nil && it.at < before {
			c.settle(&it)
			if !cn.privileged() {
				c.stats.EventsDropped++
				cn.dom.memory -= it.size
				cn.dom.queued -= it.size
				q.events, q.deaf = nil, true
				continue
			}
		}
		it.off = len(buf)
		buf = append(buf, msg...)
		kept = append(kept, it)
	}
	clear(q.items[len(kept):])
	q.items, q.buf = kept, buf
}
