package hypercalltest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Func is a Caller that is a function. Answer must be safe for concurrent use if the Caller is used so.
type Func struct {
	Layout hypercall.ABI
	Answer func(*hypercall.Call) (uint64, error)
}

var _ hypercall.Caller = (*Func)(nil)

// ABI returns Layout.
func (f *Func) ABI() hypercall.ABI { return f.Layout }

// Hypercall calls Answer. A nil Answer answers 0 to everything.
func (f *Func) Hypercall(c *hypercall.Call) (uint64, error) {
	if f.Answer == nil {
		return 0, nil
	}
	return f.Answer(c)
}

// Recorder is a Caller that passes calls to another and keeps what was said. It is safe for concurrent use; calls that are made at
// the same time are kept in the order in which they came back.
type Recorder struct {
	caller hypercall.Caller

	mu sync.Mutex
	// +checklocks:mu
	exchanges []Exchange
}

var _ hypercall.Caller = (*Recorder)(nil)

// NewRecorder returns a recorder in front of c.
func NewRecorder(c hypercall.Caller) *Recorder { return &Recorder{caller: c} }

// ABI returns the ABI of the caller behind the recorder.
func (r *Recorder) ABI() hypercall.ABI { return r.caller.ABI() }

// Hypercall passes the call on.
func (r *Recorder) Hypercall(c *hypercall.Call) (uint64, error) {
	e := Exchange{Call: cloneCall(c)}
	value, err := r.caller.Hypercall(c)
	e.Reply, e.Value = cloneCall(c), value
	if errno, ok := errors.AsType[hypercall.Errno](err); ok {
		e.Errno = errno
	} else if err != nil {
		e.Failure = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, e)
	return value, err
}

// Exchanges returns what was recorded so far. The slice is the caller's; what it points at is not to be changed.
func (r *Recorder) Exchanges() []Exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.exchanges)
}

// Reset forgets what was recorded.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = nil
}

// UnexpectedError says that a [Playback] was asked something else than its record has.
type UnexpectedError struct {
	Index int       // which call it was, counted from 0
	Got   Exchange  // the call; there is no reply
	Want  *Exchange // what the record has there; nil where it has ended
}

func (e *UnexpectedError) Error() string {
	if e.Want == nil {
		return fmt.Sprintf("hypercalltest: call %d, %s, is past the end of the record", e.Index, e.Got)
	}
	return fmt.Sprintf("hypercalltest: call %d is %s, the record has %s", e.Index, e.Got, e.Want)
}

// Playback is a Caller that answers from a record, in its order. A call that is not the next of the record gets an
// [*UnexpectedError], and so does each one after it. It is safe for concurrent use.
type Playback struct {
	abi hypercall.ABI

	mu sync.Mutex
	// +checklocks:mu
	record []Exchange
	// +checklocks:mu
	next int
	// +checklocks:mu
	failed error
}

var _ hypercall.Caller = (*Playback)(nil)

// NewPlayback returns a Caller that answers from a record. The record is not changed.
func NewPlayback(abi hypercall.ABI, record ...Exchange) *Playback {
	return &Playback{abi: abi, record: slices.Clone(record)}
}

// ABI returns the ABI that the record is in.
func (p *Playback) ABI() hypercall.ABI { return p.abi }

// Hypercall answers from the record.
func (p *Playback) Hypercall(c *hypercall.Call) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return 0, p.failed
	}
	if p.next >= len(p.record) {
		p.failed = &UnexpectedError{Index: p.next, Got: unanswered(c)}
		return 0, p.failed
	}
	e := &p.record[p.next]
	if !sameCall(c, &e.Call) {
		p.failed = &UnexpectedError{Index: p.next, Got: unanswered(c), Want: e}
		return 0, p.failed
	}
	p.next++
	copy(c.Data, e.Reply.Data)
	answerRefs(c.Refs, e.Reply.Refs)
	switch {
	case e.Failure != "":
		return e.Value, errors.New(e.Failure)
	case e.Errno != 0:
		return e.Value, e.Errno
	}
	return e.Value, nil
}

// unanswered is a call that got no answer, as an exchange.
func unanswered(c *hypercall.Call) Exchange {
	call := cloneCall(c)
	return Exchange{Call: call, Reply: call, Failure: "unexpected"}
}

func answerRefs(refs, reply []hypercall.DataRef) {
	for i := range min(len(refs), len(reply)) {
		copy(refs[i].Data, reply[i].Data)
		answerRefs(refs[i].Refs, reply[i].Refs)
	}
}

// Close returns an error if something unexpected was asked, or if the record has not been used up. It may be called again.
func (p *Playback) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return p.failed
	}
	if p.next < len(p.record) {
		return fmt.Errorf("hypercalltest: %d of %d calls of the record were not made; the next is %s",
			len(p.record)-p.next, len(p.record), p.record[p.next])
	}
	return nil
}
