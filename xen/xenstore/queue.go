package xenstore

// Event says that something under a watched path may have changed: a value, permissions, a node made or removed. The store says no more
// than that. Read what you want to know; events may come late, twice, or without a cause, and one at the start always does.
type Event struct {
	// Path is what has changed; relative if the watch is.
	Path string
	// Merged is how many further events of the same path came before this one was taken; they are in it.
	Merged uint64
	// Missed is not 0 where the queue was full: so many events of other paths came, and which paths is not known any more. Path is
	// then the watched one: look at everything under it.
	Missed uint64
}

// eventQueue holds the events of a watch that nobody has taken yet: at most limit paths, each once, in the order in which they first
// came, and one event of the watched path for all those that did not fit. It is a core.
type eventQueue struct {
	base   string
	limit  int
	events []Event
	head   int            // events[:head] were taken
	taken  int            // how many were ever taken
	places map[string]int // where the event of a path is: events[place-taken+head]
	marker int            // the place of the event for what did not fit, or -1
	merged uint64
	missed uint64
}

func newEventQueue(base string, limit int) eventQueue {
	return eventQueue{base: base, limit: limit, places: map[string]int{}, marker: -1}
}

func (q *eventQueue) len() int { return len(q.events) - q.head }

// push enters an event. It reports whether the queue was empty.
func (q *eventQueue) push(path []byte) bool {
	if place, ok := q.places[string(path)]; ok {
		q.events[place-q.taken+q.head].Merged++
		q.merged++
		return false
	}
	if len(q.places) < q.limit {
		s := string(path)
		q.places[s] = q.append(Event{Path: s})
		return q.len() == 1
	}
	q.missed++
	if q.marker < 0 {
		q.marker = q.append(Event{Path: q.base})
	}
	q.events[q.marker-q.taken+q.head].Missed++
	return false
}

func (q *eventQueue) append(e Event) (place int) {
	if q.head > 0 && len(q.events) == cap(q.events) {
		n := copy(q.events, q.events[q.head:])
		clear(q.events[n:])
		q.events, q.head = q.events[:n], 0
	}
	q.events = append(q.events, e)
	return q.taken + q.len() - 1
}

// pop takes the oldest event.
func (q *eventQueue) pop() (Event, bool) {
	if q.len() == 0 {
		return Event{}, false
	}
	e := q.events[q.head]
	q.events[q.head] = Event{}
	if q.taken == q.marker {
		q.marker = -1
	} else {
		delete(q.places, e.Path)
	}
	q.head++
	q.taken++
	if q.head == len(q.events) {
		q.events, q.head = q.events[:0], 0
	}
	return e, true
}
