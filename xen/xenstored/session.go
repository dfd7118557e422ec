package xenstored

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hvkit/hvkit/internal/nowait"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// ring is what a [xenstore.RingConn] can beside being a stream.
type ring interface {
	Fail(code xenstore.RingErrorCode) error
	ResetAsked() bool
	Arrived() <-chan struct{}
	ResetDone()
}

var _ ring = (*xenstore.RingConn)(nil)

// session is one connection: a goroutine that reads requests, handles them under the server's lock and writes the replies itself where
// it can do that without waiting for the peer, and one that writes what could not be written so.
type session struct {
	s    *Server
	cn   *conn // the core's half; all but tag is guarded by s.mu
	ring ring  // nil where the stream is none
	dom  hypercall.DomID
	rw   io.ReadWriteCloser
	try  nowait.Writer // nil where the stream has none
	dec  xenstore.Decoder
	kick chan struct{} // of capacity 1: there is something for the writer
	room chan struct{} // of capacity 1: a paused reader should look again
	idle chan struct{} // of capacity 1: nobody writes any more
	done chan struct{} // closed by end
	over chan struct{} // closed when serve returns

	endOnce sync.Once
	why     error // why end was called; written before done is closed
}

func newSession(s *Server, rw io.ReadWriteCloser, dom hypercall.DomID) *session {
	ss := &session{
		s: s, dom: dom, rw: rw, try: nowait.For(rw),
		kick: make(chan struct{}, 1), room: make(chan struct{}, 1), idle: make(chan struct{}, 1),
		done: make(chan struct{}), over: make(chan struct{}),
	}
	ss.ring, _ = rw.(ring)
	return ss
}

// end ends the connection: whoever reads or writes returns. The first reason counts; nil says that the core knows it.
func (ss *session) end(why error) {
	ss.endOnce.Do(func() {
		ss.why = why
		close(ss.done)
		_ = ss.rw.Close() // the reason is known, and there is nobody to tell of another one
	})
}

// serve runs the connection to its end. [Server.begin] has counted it in s.work.
func (ss *session) serve(ctx context.Context) error {
	s := ss.s
	defer s.work.Done()
	defer close(ss.over)
	stop := context.AfterFunc(ctx, func() { ss.end(ctx.Err()) })
	defer stop()
	var writer sync.WaitGroup
	writer.Go(ss.writeLoop)
	s.log.Debug("xenstore connection", "domain", ss.dom)

	err := ss.readLoop()
	ss.violation(err)

	if ss.keep() {
		writer.Wait()
		return ErrFrozen
	}
	var w sends
	s.mu.Lock()
	ended := ss.cn.ended
	s.core.disconnect(ss.cn)
	delete(s.sessions, ss)
	delete(s.paused, ss)
	if s.rings[ss.dom] == ss {
		delete(s.rings, ss.dom)
	}
	s.collect(&w, nil)
	s.wakePaused()
	s.mu.Unlock()
	w.do()
	ss.end(err)
	writer.Wait()
	switch {
	case ended != nil:
		return ended
	case errors.Is(ss.why, io.EOF):
		return nil
	}
	return ss.why
}

// keep reports whether the connection has only been frozen: then it stays what it is in the core.
func (ss *session) keep() bool {
	select {
	case <-ss.done:
	default:
		return false // the stream has ended by itself
	}
	s := ss.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(ss.why, ErrFrozen) || ss.cn.ended != nil {
		return false
	}
	delete(s.sessions, ss)
	delete(s.paused, ss)
	return true
}

// violation tells a ring's client that it broke the protocol, and counts it.
func (ss *session) violation(err error) {
	var perr *xenstore.ProtocolError
	var rerr *xenstore.RingError
	code := xenstore.RingErrorProtocol
	switch {
	case errors.As(err, &perr):
	case errors.As(err, &rerr):
		code = rerr.Code
	case errors.Is(err, io.ErrUnexpectedEOF):
		code = xenstore.RingErrorNone
	default:
		return
	}
	ss.s.mu.Lock()
	ss.s.core.stats.Violations++
	ss.s.mu.Unlock()
	if ss.ring != nil && code != xenstore.RingErrorNone {
		_ = ss.ring.Fail(code) // the connection ends in any case
	}
}

// maxEmptyReads is how often in a row a stream may read nothing without an error.
const maxEmptyReads = 100

func (ss *session) readLoop() error {
	dec := &ss.dec
	if dec.Partial() > 0 { // what a server before this one has read
		if err := ss.process(dec, 0); err != nil {
			return err
		}
	}
	empty := 0
	for {
		n, err := ss.rw.Read(dec.Space())
		dec.Filled(n)
		if n > 0 {
			empty = 0
			if perr := ss.process(dec, n); perr != nil {
				err = perr
			}
		} else if empty++; err == nil && empty > maxEmptyReads {
			return io.ErrNoProgress
		}
		switch {
		case err == nil:
		case errors.Is(err, xenstore.ErrRingReset):
			if err := ss.restart(dec); err != nil {
				return err
			}
		case errors.Is(err, io.EOF) && dec.Partial() > 0:
			return io.ErrUnexpectedEOF
		default:
			return err
		}
	}
}

// restart begins the connection anew, as the client of a ring has asked for.
func (ss *session) restart(dec *xenstore.Decoder) error {
	if ss.ring == nil {
		return xenstore.ErrRingReset
	}
	s := ss.s
	dec.Reset()
	s.mu.Lock()
	for ss.cn.out.busy { // the writer meets the reset too, and gives up what it has
		s.mu.Unlock()
		select {
		case <-ss.idle:
		case <-ss.done:
			return net.ErrClosed
		}
		s.mu.Lock()
	}
	s.core.restart(ss.cn)
	s.wakePaused()
	s.mu.Unlock()
	ss.ring.ResetDone()
	return nil
}

// process handles all whole messages that have been read.
func (ss *session) process(dec *xenstore.Decoder, n int) error {
	for {
		b := ss.batch(dec, n)
		n = 0
		if b.intro != nil {
			ss.s.introduce(b.intro)
		}
		if b.own {
			ss.flush()
		}
		b.sends.do()
		if b.err != nil {
			return b.err
		}
		if b.wait {
			if err := ss.pause(b.until); err != nil {
				return err
			}
			continue
		}
		if !b.more {
			return nil
		}
	}
}

// batch is what came of handling some messages.
type batch struct {
	sends sends
	intro *introduction // the last one needs the shell
	own   bool          // there is something for this connection to send
	more  bool          // not all messages were handled
	wait  bool          // the rest has to wait for room, or for until
	until time.Duration // how long, 0: until there is room
	err   error
}

// maxBatch is how many messages are handled while others wait for the lock.
const maxBatch = 16

// batch handles some messages.
func (ss *session) batch(dec *xenstore.Decoder, n int) (b batch) {
	s := ss.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock()
	c := s.core
	c.stats.BytesIn += uint64(n)
	b.more = true
	if ss.cn.stale {
		b.err = xenstore.ErrRingReset
		return b
	}
	for range maxBatch {
		if c.full(ss.cn) {
			b.wait = true
			s.paused[ss] = struct{}{}
			break
		}
		if t := c.pausedUntil(ss.cn); t > 0 {
			b.wait, b.until = true, time.Duration(t-c.now)
			break
		}
		h, payload, ok, err := dec.Next()
		if err != nil || !ok {
			b.more, b.err = false, err
			break
		}
		if err := c.handle(ss.cn, h, payload); err != nil {
			var pending bool
			if b.intro, pending = err.(*introduction); !pending { // errors.As would have b allocated
				b.err = err
			}
			break
		}
	}
	s.collect(&b.sends, ss)
	b.own = ss.cn.ended == nil && len(ss.cn.out.buf) > 0
	return b
}

// pause waits for a time or, if it is 0, until there may be room. A reset that the client asks for ends it: what was waited for will not
// be needed, or will never come.
func (ss *session) pause(d time.Duration) error {
	defer ss.unpaused()
	var timeout <-chan time.Time
	room := ss.room
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout, room = t.C, nil
	}
	var event <-chan struct{}
	if ss.ring != nil {
		event = ss.ring.Arrived()
	}
	for ss.ring == nil || !ss.ring.ResetAsked() {
		select {
		case <-event:
		case <-room:
			return nil
		case <-timeout:
			return nil
		case <-ss.done:
			return net.ErrClosed
		}
	}
	return xenstore.ErrRingReset
}

func (ss *session) unpaused() {
	ss.s.mu.Lock()
	defer ss.s.mu.Unlock()
	delete(ss.s.paused, ss)
}

// flush writes what waits as far as that goes without waiting for the peer, and leaves the rest to the writer.
func (ss *session) flush() {
	if ss.try == nil {
		wake(ss.kick)
		return
	}
	for range 2 {
		buf := ss.take()
		if buf == nil {
			return
		}
		n, err := ss.try.TryWrite(buf)
		more := ss.wrote(n, err)
		if err != nil {
			ss.fail(err)
			return
		}
		if n < len(buf) {
			wake(ss.kick)
			return
		}
		if !more {
			return
		}
	}
	wake(ss.kick)
}

// writeLoop writes what flush leaves.
func (ss *session) writeLoop() {
	for {
		select {
		case <-ss.kick:
		case <-ss.done:
			return
		}
		for buf := ss.take(); buf != nil; buf = ss.take() {
			n, err := ss.rw.Write(buf)
			ss.wrote(n, err)
			if err != nil {
				ss.fail(err)
				break
			}
		}
	}
}

// fail ends the connection after a failed write. A reset is not a failure: the reader sees to it.
func (ss *session) fail(err error) {
	if !errors.Is(err, xenstore.ErrRingReset) {
		ss.violation(err)
		ss.end(err)
	}
}

func (ss *session) take() []byte {
	ss.s.mu.Lock()
	defer ss.s.mu.Unlock()
	return ss.cn.out.take()
}

// wrote notes that n of the bytes taken are written, and reports whether there are more.
func (ss *session) wrote(n int, err error) bool {
	s := ss.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.core.stats.BytesOut += uint64(n)
	s.core.wrote(ss.cn, n)
	if n > 0 && len(s.paused) > 0 {
		s.wakePaused()
	}
	if errors.Is(err, xenstore.ErrRingReset) {
		ss.cn.stale = true
		wake(ss.room)
	}
	wake(ss.idle)
	return len(ss.cn.out.buf) > 0
}
