package explore

import (
	"fmt"
	"iter"

	"github.com/hvkit/hvkit/shm"
)

// code says what a step does.
type code uint8

const (
	opStart code = iota
	opLoad
	opStore
	opModify
	opCopyOut
	opCopyIn
	opNotify
	opWait
	opUntil
	opStep
	opChoose
)

var codes = [...]code{shm.Load: opLoad, shm.Store: opStore, shm.Modify: opModify, shm.CopyOut: opCopyOut, shm.CopyIn: opCopyIn}

var codeNames = [...]string{
	opStart: "start", opLoad: "load", opStore: "store", opModify: "modify", opCopyOut: "copy out", opCopyIn: "copy in",
	opNotify: "notify", opWait: "wait", opUntil: "until", opStep: "", opChoose: "choose",
}

// reads reports whether the step sees memory, and writes whether it may change it.
func (c code) reads() bool  { return c == opLoad || c == opModify || c == opCopyOut }
func (c code) writes() bool { return c == opStore || c == opModify || c == opCopyIn }

// op is a step that a party is about to make.
type op struct {
	code   code
	mem    *memory
	region *shm.Region
	off, n int
	text   string
	event  *Event
	ready  func() bool // of opWait: whether there is something to do; of opUntil: the condition
}

// Task is one party of a run. Its methods are for the party's own function, and are steps unless they say otherwise.
type Task struct {
	w      *World
	index  int
	name   string
	daemon bool

	resume func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool

	next    op     // what it does when it is resumed
	history uint64 // hash of what it has seen since Settle
	done    bool
	killed  bool
}

// stopped is the panic that unwinds a party whose run has ended.
type stopped struct{}

// Go adds a party. Parties take turns in the order in which they were added.
func (w *World) Go(name string, f func(t *Task)) *Task {
	t := &Task{w: w, index: len(w.tasks), name: name}
	t.history = mixString(0, name)
	t.resume, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer w.recover(name)
		f(t)
	})
	w.tasks = append(w.tasks, t)
	return t
}

// Daemon adds a party that need not end, such as one that takes in interrupts: a run has ended when all others have and no daemon can go
// on. What a daemon waits for never counts as a deadlock.
func (w *World) Daemon(name string, f func(t *Task)) *Task {
	t := w.Go(name, f)
	t.daemon = true
	return t
}

// step is where others may come first.
func (t *Task) step(o op) {
	if t.w.unwinding {
		panic(stopped{})
	}
	t.next = o
	if !t.yield(struct{}{}) {
		panic(stopped{})
	}
}

// Name returns the party's name. It is no step.
func (t *Task) Name() string { return t.name }

// Step is a step of the scenario's own, such as an operation of a model that others see.
func (t *Task) Step(what string) { t.step(op{code: opStep, text: what}) }

// Step is Task.Step for code that a party calls and that does not know which, such as an event handler; outside of parties it does
// nothing.
func (w *World) Step(what string) {
	if t := w.current; t != nil {
		t.Step(what)
	}
}

// Wait waits for the event and takes it. The party must then look whether there is anything to do: events merge, and come for nothing.
func (t *Task) Wait(e *Event) { t.WaitFor(e, nil) }

// WaitFor is Wait of a party that has something to do where ready says so: if it still waits when nobody can go on, its wakeup was lost.
// ready makes no steps.
func (t *Task) WaitFor(e *Event, ready func() bool) {
	t.step(op{code: opWait, event: e, ready: ready, text: e.name})
	e.pending = false
}

// Until waits until the condition is true, which makes no steps. It is for what a scenario's own parties wait for; a condition must be
// one of watched memory or of events where Config.Merge is set.
func (t *Task) Until(what string, cond func() bool) {
	t.step(op{code: opUntil, text: what, ready: cond})
}

// Choose returns a number below n, each of them in some run. It is no step of its own.
func (t *Task) Choose(what string, n int) int {
	k := t.w.choose(n)
	t.history = mix(t.history, uint64(k))
	t.w.hash = mix(t.w.hash, uint64(k))
	t.w.note(t, fmt.Sprintf("%s: %d of %d", what, k, n))
	return k
}

// Settle says that what the party does from here on depends on these values alone, not on what it saw before. It makes states equal that
// came about in different ways, for Config.Merge. It is no step.
func (t *Task) Settle(values ...uint64) {
	t.history = mixString(1, t.name)
	for _, v := range values {
		t.history = mix(t.history, v)
	}
}

// Logf adds a note to the listing. It is no step.
func (t *Task) Logf(format string, args ...any) {
	if t.w.tracing() {
		t.w.note(t, fmt.Sprintf(format, args...))
	}
}

// Fatalf ends the run as failed: the party saw what it must not see.
func (t *Task) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	t.FailNow()
}

// Errorf and FailNow make a Task what package require takes for a test.
func (t *Task) Errorf(format string, args ...any) {
	t.w.fail(Violation, t.name, fmt.Sprintf(format, args...))
}

// FailNow ends the run; see Errorf.
func (t *Task) FailNow() { panic(stopped{}) }

// Kill ends a party where it is, as kill -9 does: it makes no further step, and where its deferred functions come to one they end, too.
// What they do beside steps is done. It is for faults.
func (t *Task) Kill() {
	if t.done {
		return
	}
	t.w.note(t, "killed")
	t.done, t.killed = true, true
	t.unwind()
}

// unwind ends the party's function.
func (t *Task) unwind() {
	t.w.unwinding = true
	defer func() { t.w.unwinding = false }()
	t.stop()
}

// Done reports whether the party has ended. It is no step.
func (t *Task) Done() bool { return t.done }

// runnable reports whether the party's next step can be made.
func (t *Task) runnable() bool {
	switch {
	case t.done:
		return false
	case t.next.code == opWait:
		return t.next.event.pending
	case t.next.code == opUntil:
		return t.next.ready()
	}
	return true
}
