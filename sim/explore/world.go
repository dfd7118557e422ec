package explore

import (
	"fmt"
	"runtime/debug"
)

// Scenario sets a run up. It is called anew for each run, and makes everything anew.
type Scenario func(w *World)

// World is one run of a scenario.
type World struct {
	tasks    []*Task
	memories []*memory
	events   []*Event
	faults   []*Fault
	always   []oracle
	finally  []oracle
	states   []func() uint64
	cleanup  []func()

	pick    picker
	merge   bool
	limit   int // of steps
	current *Task
	last    int // the party that made the last step
	steps   int
	points  int   // where there was more than one way to go on
	moved   *Task // the party that made the last step, where it was the last thing that happened
	hash    uint64
	chosen  uint64          // hash of what the set-up chose
	path    map[uint64]bool // the states of this run, since it left the path of earlier ones
	reached []string
	failure *Failure
	ending  bool
	// concluded is whether the oracles of the end were asked, and are content.
	concluded bool
	unwinding bool // a party's function is being ended
	seen      visited
	merged    bool
	listing   *listing // nil where nobody reads it

	runnable []int // of the present point, kept to save garbage
	scratch  [64]byte
}

// oracle is something that must hold.
type oracle struct {
	name  string
	check func() error
}

// Always names an oracle that is asked after every step. It makes no steps: accesses to watched memory are free in it.
func (w *World) Always(name string, check func() error) {
	w.always = append(w.always, oracle{name, check})
}

// Finally names an oracle that is asked when all parties have ended.
func (w *World) Finally(name string, check func() error) {
	w.finally = append(w.finally, oracle{name, check})
}

// Choose returns a number below n, each of them in some run: for what the scenario is set up with.
func (w *World) Choose(what string, n int) int {
	k := w.choose(n)
	w.hash = mix(w.hash, uint64(k))
	w.chosen = mix(w.chosen, uint64(k))
	w.note(nil, fmt.Sprintf("%s: %d of %d", what, k, n))
	return k
}

// Reached says that a rare state was reached in this run.
func (w *World) Reached(state string) {
	for _, s := range w.reached {
		if s == state {
			return
		}
	}
	w.reached = append(w.reached, state)
}

// State adds something to what makes two states different, where Config.Merge is set.
func (w *World) State(f func() uint64) { w.states = append(w.states, f) }

// Cleanup registers what is done after the run, whatever came of it. It makes no steps.
func (w *World) Cleanup(f func()) { w.cleanup = append(w.cleanup, f) }

// Errorf and FailNow make a World what package require takes for a test: for the set-up, for faults, and for what parties call.
func (w *World) Errorf(format string, args ...any) {
	w.fail(Violation, "", fmt.Sprintf(format, args...))
}

// FailNow ends the run; see Errorf.
func (w *World) FailNow() { panic(stopped{}) }

// run makes the run, from the set-up to the end.
func (w *World) run(s Scenario) {
	defer w.end()
	defer w.recover("the set-up or a fault")
	s(w)
	if w.merge {
		w.lookAll()
	}
	for w.failure == nil && w.advance() {
	}
}

// recover turns a panic into the run's failure. It must be deferred itself.
func (w *World) recover(who string) {
	switch r := recover(); r {
	case nil, stopped{}:
	default:
		w.fail(Panic, "", fmt.Sprintf("%s: %v\n%s", who, r, debug.Stack()))
	}
}

// end unwinds what is left. What the clean-up finds counts where the run went to its end: else it finds things half done.
func (w *World) end() {
	w.ending = true
	for _, t := range w.tasks {
		if !t.done {
			t.unwind()
		}
	}
	w.ending = !w.concluded
	for i := len(w.cleanup) - 1; i >= 0; i-- {
		w.cleanUp(w.cleanup[i])
	}
}

func (w *World) cleanUp(f func()) {
	defer w.recover("the clean-up")
	f()
}

// advance makes one step, and reports whether there may be another.
func (w *World) advance() bool {
	w.look()
	offered := w.offered()
	if len(w.runnable) == 0 {
		return w.stuck()
	}
	k := 0
	if len(w.runnable) > 1 || offered != 0 {
		if w.merge && w.pick.fresh() {
			if state := w.state(); w.path[state] {
				w.fail(Livelock, "", "the parties come back to where they were, and would for ever")
				return false
			} else if w.path[state] = true; w.seen.before(state, w.pick.budget()) {
				w.merged = true
				return false
			}
			offered = w.unseen(offered)
		}
		k = w.pick.task(len(w.runnable), offered)
		w.points++
	}
	if k >= len(w.runnable) {
		w.fire(w.faults[k-len(w.runnable)])
		return w.check()
	}
	return w.move(w.tasks[w.runnable[k]])
}

// look finds who can go on, from the party that made the last step on.
func (w *World) look() {
	w.runnable = w.runnable[:0]
	for i := range w.tasks {
		j := w.last + i
		if j >= len(w.tasks) {
			j -= len(w.tasks)
		}
		if w.tasks[j].runnable() {
			w.runnable = append(w.runnable, j)
		}
	}
}

// over reports whether all parties have ended that must.
func (w *World) over() bool {
	for _, t := range w.tasks {
		if !t.done && !t.daemon {
			return false
		}
	}
	return true
}

// stuck sees to a run in which nobody can go on: what has not happened happens now; else the run has ended, well or not. A wakeup that was
// lost before is not made good by a fault that wakes everybody.
func (w *World) stuck() bool {
	if left := w.unfired(); len(left) > 0 && !w.overslept() {
		w.fire(left[w.choose(len(left))])
		return w.check()
	}
	if w.over() {
		w.conclude()
		return false
	}
	kind, who := Deadlock, ""
	for _, t := range w.tasks {
		if t.done || t.daemon {
			continue
		}
		who += fmt.Sprintf("%s waits for %s; ", t.name, t.next.text)
		if t.next.code == opWait && t.next.ready != nil && t.next.ready() {
			kind = LostWakeup
			who += "it has something to do; "
		}
	}
	w.fail(kind, "", who[:len(who)-2])
	return false
}

// overslept reports whether somebody waits who has something to do.
func (w *World) overslept() bool {
	for _, t := range w.tasks {
		if !t.done && !t.daemon && t.next.code == opWait && t.next.ready != nil && t.next.ready() {
			return true
		}
	}
	return false
}

func (w *World) conclude() {
	for _, o := range w.finally {
		if err := o.check(); err != nil {
			w.fail(Violation, o.name, err.Error())
			return
		}
	}
	w.concluded = true
}

// lookAll takes over what a fault may have written anywhere.
func (w *World) lookAll() {
	for _, m := range w.memories {
		m.look(0, m.region.Size())
	}
}

// move has a party make its next step, and go on to the one after.
func (w *World) move(t *Task) bool {
	if w.steps++; w.steps > w.limit {
		w.fail(Livelock, "", fmt.Sprintf("no end after %d steps; the last was of %s", w.limit, t.name))
		return false
	}
	o := t.next
	w.last, w.moved = t.index, t
	w.witness(t, &o)
	if w.listing != nil {
		w.listing.before(t, &o)
	}
	w.current = t
	_, alive := t.resume()
	w.current = nil
	if !alive {
		t.done = true
	}
	if w.merge && o.code.writes() {
		o.mem.look(o.off, o.n)
	}
	if w.listing != nil {
		w.listing.after(t, &o)
	}
	return w.failure == nil && w.check()
}

// witness folds the step, and what it will see, into the hashes of the run and of the party.
func (w *World) witness(t *Task, o *op) {
	h := uint64(o.code)<<56 | uint64(t.index)<<48
	if o.mem != nil {
		h |= uint64(o.mem.index)<<40 | uint64(o.off)<<8 | uint64(min(o.n, 255))
	}
	saw := uint64(0)
	if o.code.reads() {
		saw = w.seenBytes(o)
	}
	w.hash = mix(mix(w.hash, h), saw)
	t.history = mix(mix(t.history, h), saw)
}

// seenBytes hashes all that a step sees of memory.
func (w *World) seenBytes(o *op) (h uint64) {
	for off, end := o.off, o.off+o.n; off < end; off += len(w.scratch) {
		h = mixBytes(h, peek(o.region, off, end-off, w.scratch[:]))
	}
	return h
}

// check asks the oracles.
func (w *World) check() bool {
	if w.failure != nil {
		return false
	}
	for _, o := range w.always {
		if err := o.check(); err != nil {
			w.fail(Violation, o.name, err.Error())
			return false
		}
	}
	return true
}

// state hashes what the rest of the run depends on.
func (w *World) state() uint64 { return w.stateAfter(nil) }

// stateAfter hashes what the rest of the run depends on if the fault happens now: not on what the parties saw that it kills.
func (w *World) stateAfter(fault *Fault) uint64 {
	h := mix(w.chosen, uint64(w.last))
	if fault != nil {
		h = mixString(h, fault.name)
	}
	for _, m := range w.memories {
		h = mix(h, m.sum)
	}
	for _, t := range w.tasks {
		o := &t.next
		switch {
		case t.killed || fault != nil && fault.kills(t):
			h = mix(h, 0) // nobody knows any more what it knew
		case t.done:
			h = mix(mix(h, t.history), 1) // an oracle may ask later what it came to
		default:
			h = mix(mix(h, t.history), uint64(o.code)<<56|uint64(o.off)<<8|uint64(o.n&0xff))
		}
	}
	for i, e := range w.events {
		if e.pending {
			h = mix(h, uint64(i))
		}
	}
	for i, f := range w.faults {
		if f.fired {
			h = mix(h, 1<<32|uint64(i))
		}
	}
	for _, f := range w.states {
		h = mix(h, f())
	}
	return h
}

func (w *World) choose(n int) int {
	if n < 2 {
		return 0
	}
	w.points++
	return w.pick.choice(n)
}

func (w *World) tracing() bool { return w.listing != nil }

func (w *World) note(t *Task, text string) {
	if w.listing != nil {
		w.listing.note(t, text)
	}
}

// fail records the first failure.
func (w *World) fail(kind Kind, oracle, text string) {
	if w.failure == nil && !w.ending {
		w.failure = &Failure{Kind: kind, Oracle: oracle, Text: text}
	}
}
