package xenstore

import (
	"bytes"
	"fmt"
)

// core is what a client knows of its connection: which requests are under way, and who watches. It takes decoded messages in and says
// what they mean; it does not wait, write or wake.
type core struct {
	slots   []slot
	free    []uint8 // stack of the slots that are idle
	seq     uint64  // requests begun so far
	watches map[string]*Watch
	tokens  uint64
	stats   ClientStats
	err     error // why the connection is over
}

// slot is one place for a request under way. A request's id is its slot in the low 8 bits and the slot's generation above them, so an
// id is not used again soon after, and a reply finds its request without a search.
type slot struct {
	gen  uint32
	busy bool
	typ  MsgType
	seq  uint64   // when the request began
	req  *request // nil where the caller has given up: the reply is swallowed
}

const (
	slotBits       = 8
	slotMask       = 1<<slotBits - 1
	maxOutstanding = 1 << slotBits
)

// request is one call under way.
type request struct {
	id       uint32
	finished bool
	reply    []byte
	err      error
	watch    *Watch        // which a WATCH begins
	msg      []byte        // the encoded request
	wake     chan struct{} // of the shell, capacity 1: finished
	look     func() bool   // of the shell: whether there is something to do for the one who waits
}

func newCore(outstanding int) core {
	c := core{slots: make([]slot, outstanding), watches: map[string]*Watch{}}
	for i := outstanding - 1; i >= 0; i-- {
		c.free = append(c.free, uint8(i))
	}
	return c
}

// begin enters a request and gives it its id. The caller has made sure that there is a free slot.
func (c *core) begin(req *request, typ MsgType) error {
	if c.err != nil {
		return c.err
	}
	i := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	s := &c.slots[i]
	s.gen = (s.gen + 1) & (1<<(32-slotBits) - 1)
	if s.gen == 0 {
		s.gen = 1 // so that no id is 0, which old kernels put into replies of their own making
	}
	c.seq++
	s.busy, s.typ, s.seq, s.req = true, typ, c.seq, req
	req.id, req.finished, req.err = s.gen<<slotBits|uint32(i), false, nil
	c.stats.Requests++
	return nil
}

// abandon says that nobody waits for the request any more. The slot stays taken until the reply comes, because the server still
// counts the request. It reports whether the request was still under way.
func (c *core) abandon(req *request) bool {
	if req.finished {
		return false
	}
	if s := &c.slots[req.id&slotMask]; s.req == req {
		s.req = nil
	}
	return true
}

// outcome is what a message from the server means: a request that is finished, a slot that is free again, an event of a watch, watches
// that a reset has ended.
type outcome struct {
	done  *request
	freed bool
	watch *Watch
	path  []byte // of the event, inside the payload
	ended []*Watch
}

// receive takes a message from the server in. Events are told from replies by the type before anything else is looked at: old Linux
// leaves their request id undefined. An error ends the connection.
func (c *core) receive(h Header, payload []byte) (outcome, error) {
	if h.Type == MsgWatchEvent {
		return c.event(h, payload)
	}
	h = c.adoptID(h)
	s := c.find(h)
	if s == nil {
		return outcome{}, &ProtocolError{h, "reply to a request that is not under way"}
	}
	if h.Type != s.typ && h.Type != MsgError {
		return outcome{}, &ProtocolError{h, fmt.Sprintf("reply to a request of type %s", s.typ)}
	}
	req := s.req
	s.busy, s.req = false, nil
	c.free = append(c.free, uint8(h.ReqID&slotMask))
	c.stats.Replies++
	o := outcome{done: req, freed: true}
	if h.Type == MsgResetWatches {
		o.ended = c.resetDone()
	}
	if req == nil {
		c.stats.Late++
		return o, nil
	}
	if h.Type == MsgError {
		c.stats.Errors++
		req.err = ParseErrno(payload)
	} else {
		req.reply = append(req.reply[:0], payload...)
		if req.watch != nil {
			req.watch.begun = true
		}
	}
	req.finished = true
	return o, nil
}

// resetDone takes out the watches that the server had when it did a reset: those whose WATCH it had answered before, as it answers in
// order. One that is still under way is made after the reset, and goes on.
func (c *core) resetDone() (ended []*Watch) {
	for token, w := range c.watches {
		if w.begun {
			ended = append(ended, w)
			delete(c.watches, token)
		}
	}
	return ended
}

// find returns the slot that a reply is for, or nil.
func (c *core) find(h Header) *slot {
	if i := int(h.ReqID & slotMask); i < len(c.slots) && c.slots[i].busy && c.slots[i].gen == h.ReqID>>slotBits {
		return &c.slots[i]
	}
	return nil
}

// adoptID gives a reply with request id 0 that Linux before 4.18 makes up for WATCH and UNWATCH (xenbus_dev_frontend.c) the id of the
// oldest such request, as that kernel answers them in order.
func (c *core) adoptID(h Header) Header {
	if h.ReqID != 0 || h.Type != MsgWatch && h.Type != MsgUnwatch {
		return h
	}
	oldest := -1
	for i := range c.slots {
		if s := &c.slots[i]; s.busy && s.typ == h.Type && (oldest < 0 || s.seq < c.slots[oldest].seq) {
			oldest = i
		}
	}
	if oldest >= 0 {
		h.ReqID = c.slots[oldest].gen<<slotBits | uint32(oldest)
	}
	return h
}

// event finds the watch that an event is for: "<path>|<token>|". One for a token that nobody has is dropped and counted: a watch that
// has just been closed, or one of a kernel before this one.
func (c *core) event(h Header, payload []byte) (outcome, error) {
	path, rest, ok := bytes.Cut(payload, []byte{0})
	token, _, ok2 := bytes.Cut(rest, []byte{0})
	if !ok || !ok2 {
		return outcome{}, &ProtocolError{h, "event that is not a path and a token"}
	}
	if len(path) > MaxAbsPath {
		return outcome{}, &ProtocolError{h, fmt.Sprintf("event with a path longer than %d bytes", MaxAbsPath)}
	}
	c.stats.Events++
	w := c.watches[string(token)]
	if w == nil {
		c.stats.Stray++
	}
	return outcome{watch: w, path: path}, nil
}

// watch enters a watch under a token of its own.
func (c *core) watch(w *Watch) error {
	if c.err != nil {
		return c.err
	}
	c.tokens++
	w.token = fmt.Sprintf("hv%d", c.tokens)
	c.watches[w.token] = w
	return nil
}

// unwatch takes a watch out, and reports whether it was in.
func (c *core) unwatch(w *Watch) bool {
	if c.watches[w.token] != w {
		return false
	}
	delete(c.watches, w.token)
	return true
}

// takeWatches takes all watches out. Their order does not matter: each is only told that it has ended.
func (c *core) takeWatches() []*Watch {
	all := make([]*Watch, 0, len(c.watches))
	for _, w := range c.watches {
		all = append(all, w)
	}
	clear(c.watches)
	return all
}

// fail ends the connection: every request under way is finished with the error, the oldest slot first. Only the first error counts.
func (c *core) fail(err error) (done []*request) {
	if c.err != nil {
		return nil
	}
	c.err = err
	for i := range c.slots {
		s := &c.slots[i]
		if s.req != nil {
			s.req.err, s.req.finished = err, true
			done = append(done, s.req)
		}
		s.busy, s.req = false, nil
	}
	return done
}

// outstanding returns how many requests the server has not answered.
func (c *core) outstanding() int { return len(c.slots) - len(c.free) }
