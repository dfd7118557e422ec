package explore

import "math/bits"

// maxFaults bounds the faults of a scenario: they are kept as bits.
const maxFaults = 32

// Fault is something that happens once in a run, at any step, at no cost in delays, and at the latest when nobody can go on.
type Fault struct {
	w       *World
	name    string
	happen  func()
	when    func() bool
	victims []*Task
	fired   bool
}

// Fault names a fault: f makes no steps; it may kill parties and add others.
func (w *World) Fault(name string, f func()) *Fault {
	if len(w.faults) == maxFaults {
		panic("explore: a scenario has at most 32 faults")
	}
	x := &Fault{w: w, name: name, happen: f}
	w.faults = append(w.faults, x)
	return x
}

// Kills says that the fault ends these parties where they are, as kill -9 does, before its function runs. Otherwise what it does must
// depend on watched memory, events and other parties alone. With Config.Merge a search then tries it only where these differ.
func (f *Fault) Kills(victims ...*Task) *Fault {
	f.victims = append(f.victims, victims...)
	return f
}

// When says where the fault can make a difference, and so need be tried: elsewhere it is as if it happened later. The scenario answers
// for that.
func (f *Fault) When(cond func() bool) *Fault {
	f.when = cond
	return f
}

// Moved returns the party whose step was the last thing that happened, or nil if that was no step. It is for When.
func (w *World) Moved() *Task { return w.moved }

// Idle reports whether the party is about to wait, or to make a [Task.Step] of that text. It is for When.
func (t *Task) Idle(step string) bool {
	return !t.done && (t.next.code == opWait || t.next.code == opStep && t.next.text == step)
}

func (f *Fault) kills(t *Task) bool {
	for _, v := range f.victims {
		if v == t {
			return true
		}
	}
	return false
}

// offered returns which faults may happen at this point, as bits.
func (w *World) offered() (set uint32) {
	for i, f := range w.faults {
		if !f.fired && (f.when == nil || f.when()) {
			set |= 1 << i
		}
	}
	return set
}

// unfired returns the faults that have not happened.
func (w *World) unfired() (left []*Fault) {
	for _, f := range w.faults {
		if !f.fired {
			left = append(left, f)
		}
	}
	return left
}

// unseen leaves out those that lead to where the search was before.
func (w *World) unseen(set uint32) uint32 {
	for rest := set; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros32(rest)
		if f := w.faults[i]; len(f.victims) > 0 && w.seen.before(w.stateAfter(f), w.pick.budget()) {
			set &^= 1 << i
		}
	}
	return set
}

// fire has a fault happen.
func (w *World) fire(f *Fault) {
	f.fired = true
	w.moved = nil
	w.hash = mixString(w.hash, f.name)
	if w.listing != nil {
		w.listing.fault(f.name)
	}
	for _, t := range f.victims {
		t.Kill()
	}
	f.happen()
	if w.merge {
		w.lookAll()
	}
}
