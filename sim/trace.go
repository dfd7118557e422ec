package sim

import (
	"fmt"
	"io"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// TraceLen is how many events a host remembers.
const TraceLen = 512

// Event is something that happened on a host: a hypercall other than a send, a domain's birth or death, a connection.
type Event struct {
	Seq  uint64          // counts the host's events from 1
	Dom  hypercall.DomID // whom it is about
	Text string
}

func (e Event) String() string { return fmt.Sprintf("%6d d%-3d %s", e.Seq, e.Dom, e.Text) }

// trace remembers the last events. Texts are made when somebody asks, since most are never asked for.
type trace struct {
	mu sync.Mutex
	// +checklocks:mu
	seq uint64
	// +checklocks:mu
	ring [TraceLen]record
}

type record struct {
	seq    uint64
	dom    hypercall.DomID
	format string
	args   []any
}

func (t *trace) add(dom hypercall.DomID, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	t.ring[t.seq%TraceLen] = record{t.seq, dom, format, args}
}

// Trace returns the host's last events, the oldest first.
func (h *Host) Trace() []Event {
	t := h.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	var events []Event
	for i := range uint64(TraceLen) {
		r := t.ring[(t.seq+1+i)%TraceLen]
		if r.seq != 0 {
			events = append(events, Event{r.seq, r.dom, fmt.Sprintf(r.format, r.args...)})
		}
	}
	return events
}

// WriteTrace prints the host's last events, one a line.
func (h *Host) WriteTrace(w io.Writer) error {
	for _, e := range h.Trace() {
		if _, err := fmt.Fprintln(w, e); err != nil {
			return err
		}
	}
	return nil
}
