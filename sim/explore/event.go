package explore

// Event is something that parties wait for: an event channel's pending bit, an interrupt. Arrivals merge: several before a Wait are one.
type Event struct {
	w       *World
	name    string
	pending bool
}

// Event makes an event with a name for listings.
func (w *World) Event(name string) *Event {
	e := &Event{w: w, name: name}
	w.events = append(w.events, e)
	return e
}

// Notify makes the event arrive. It is a step, where a party calls it.
func (e *Event) Notify() { e.w.Notify(e.name, e) }

// Pending reports whether the event has come and nobody has waited for it since. It is no step: it is for oracles.
func (e *Event) Pending() bool { return e.pending }

// Notify makes several events arrive in one step, as one that several parties wait for: name stands for it in listings.
func (w *World) Notify(name string, events ...*Event) {
	if t := w.current; t != nil {
		t.step(op{code: opNotify, text: name})
	}
	for _, e := range events {
		e.pending = true
	}
}
