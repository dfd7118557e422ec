package explore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is what went wrong in a run.
type Kind uint8

// The kinds of failure.
const (
	Violation  Kind = iota // an oracle failed, or a party saw what it must not see
	Deadlock               // nobody can go on, and somebody has not ended
	LostWakeup             // a deadlock in which somebody who waits has something to do
	Livelock               // a run does not end
	Panic                  // a party panicked
)

func (k Kind) String() string {
	return [...]string{"violation", "deadlock", "lost wakeup", "livelock", "panic"}[k]
}

// Failure is a run that went wrong. It is an error.
type Failure struct {
	Kind     Kind
	Oracle   string // the name of the oracle or the party, if it was one
	Text     string
	Run      int    // the number of the run, from 1
	Schedule string // the run, as Config.Replay takes it
	Listing  string // the run as a sequence diagram
}

func (f *Failure) Error() string {
	if f.Oracle != "" {
		return fmt.Sprintf("explore: %v, found after %d runs: %s: %s", f.Kind, f.Run, f.Oracle, f.Text)
	}
	return fmt.Sprintf("explore: %v, found after %d runs: %s", f.Kind, f.Run, f.Text)
}

// Report is what an exploration did.
type Report struct {
	Runs     int            // made
	Merged   int            // of these, ended early in a state that was explored before
	Steps    int            // in all runs
	Longest  int            // steps of the longest run
	States   map[string]int // in how many runs each rare state was reached
	Hash     uint64         // of all runs' traces
	Complete bool           // all was tried that the bound allows
	Elapsed  time.Duration
}

// String says it in a line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d runs, %d steps (at most %d a run)", r.Runs, r.Steps, r.Longest)
	if r.Merged > 0 {
		fmt.Fprintf(&b, ", %d runs merged", r.Merged)
	}
	fmt.Fprintf(&b, ", %v, trace hash %016x", r.Elapsed.Round(time.Millisecond), r.Hash)
	if !r.Complete {
		b.WriteString(", not complete")
	}
	return b.String()
}

// add takes over what a run did.
func (r *Report) add(w *World, run uint64) {
	r.Runs++
	r.Steps += w.steps
	r.Longest = max(r.Longest, w.steps)
	if w.merged {
		r.Merged++
	}
	for _, s := range w.reached {
		r.States[s]++
	}
	r.Hash += mix(w.hash, run) // the same sum in whatever order runs come
}

// Explore tries the schedules that the configuration asks for, and returns what it did. The error is a [*Failure] for the first run that
// went wrong, or says that there was none and the exploration is not what it was asked to be: a state was not reached, there were too many
// runs.
func Explore(c *Config, s Scenario) (*Report, error) {
	cfg := c.withDefaults()
	began := time.Now()
	x := &exploration{cfg: cfg, scenario: s, report: Report{States: make(map[string]int)}}
	x.explore()
	x.report.Elapsed = time.Since(began)
	if x.failed != nil {
		return &x.report, x.failure()
	}
	return &x.report, x.shortfall()
}

// exploration is an Explore under way.
type exploration struct {
	cfg      Config
	scenario Scenario
	report   Report
	failed   *failed
	problem  error // why there was nothing to explore
}

// failed is a run that went wrong, and how to have it again.
type failed struct {
	run      int
	schedule schedule
	failure  *Failure
}

func (x *exploration) explore() {
	switch {
	case x.cfg.Replay != "":
		x.replay()
	case x.cfg.Random > 0:
		x.random()
	default:
		x.search()
	}
}

// world makes a run with the picker.
func (x *exploration) world(p picker) *World {
	return &World{pick: p, limit: x.cfg.MaxSteps}
}

func (x *exploration) replay() {
	s, err := parseSchedule(x.cfg.Replay)
	if err != nil {
		x.problem = err
		return
	}
	w := x.world(&replay{schedule: s})
	w.run(x.scenario)
	x.report.add(w, 1)
	if w.failure != nil {
		x.failed = &failed{1, s, w.failure}
	}
}

func (x *exploration) search() {
	p, seen := newSearch(x.cfg.Delays), make(visited)
	for {
		rec := &recorder{picker: p}
		w := x.world(rec)
		w.merge, w.seen, w.path = x.cfg.Merge, seen, make(map[uint64]bool)
		w.run(x.scenario)
		x.report.add(w, uint64(x.report.Runs))
		if w.failure != nil {
			x.failed = &failed{x.report.Runs, rec.schedule, w.failure}
			return
		}
		if !p.next() {
			x.report.Complete = true
			return
		}
		if x.cfg.MaxRuns > 0 && x.report.Runs >= x.cfg.MaxRuns {
			return
		}
	}
}

// random makes the random runs, each worker every so many-th.
func (x *exploration) random() {
	reports := make([]Report, x.cfg.Workers)
	fails := make([]*failed, x.cfg.Workers)
	var all sync.WaitGroup
	for i := range x.cfg.Workers {
		all.Go(func() { reports[i], fails[i] = x.work(i) })
	}
	all.Wait()
	for i, r := range reports {
		x.report.Runs += r.Runs
		x.report.Steps += r.Steps
		x.report.Longest = max(x.report.Longest, r.Longest)
		x.report.Hash += r.Hash
		for state, n := range r.States {
			x.report.States[state] += n
		}
		if f := fails[i]; f != nil && (x.failed == nil || f.run < x.failed.run) {
			x.failed = f
		}
	}
	x.report.Complete = x.failed == nil
}

func (x *exploration) work(first int) (r Report, f *failed) {
	r.States = make(map[string]int)
	for run := first; run < x.cfg.Random; run += x.cfg.Workers {
		rec := &recorder{picker: newRandom(x.cfg.Seed, uint64(run))}
		w := x.world(rec)
		w.run(x.scenario)
		r.add(w, uint64(run))
		if w.failure != nil {
			return r, &failed{run + 1, rec.schedule, w.failure}
		}
	}
	return r, nil
}

// failure makes the failed run shorter, and lists it.
func (x *exploration) failure() *Failure {
	f := x.failed
	if x.cfg.Replay == "" {
		f = x.shorten(f)
	}
	list := new(listing)
	w := x.world(&replay{schedule: f.schedule})
	w.listing = list
	w.run(x.scenario)
	out := f.failure
	if w.failure != nil {
		out = w.failure
		out.Listing = list.String(w)
	} else {
		out.Listing = "The run did not fail again: what the scenario does depends on something beside the schedule.\n"
	}
	out.Run, out.Schedule = f.run, f.schedule.String()
	return out
}

// shortenTries bounds the runs that making a failed run shorter takes.
const shortenTries = 5000

// shorten leaves out deviations, in halves, quarters and so on, as long as the run still goes wrong in the same way.
func (x *exploration) shorten(f *failed) *failed {
	tries := 0
	for size := len(f.schedule); size > 0; {
		cut := false
		for at := 0; at < len(f.schedule) && tries < shortenTries; {
			end := min(at+size, len(f.schedule))
			less := slices.Concat(f.schedule[:at:at], f.schedule[end:])
			rec := &recorder{picker: &replay{schedule: less}}
			w := x.world(rec)
			w.run(x.scenario)
			tries++
			if w.failure.same(f.failure) && len(rec.schedule) < len(f.schedule) {
				f = &failed{f.run, rec.schedule, w.failure}
				cut = true
				continue
			}
			at = end
		}
		if tries >= shortenTries {
			break
		}
		if !cut {
			size /= 2
		}
	}
	return f
}

// same reports whether a run went wrong as another one did.
func (f *Failure) same(other *Failure) bool {
	return f != nil && f.Kind == other.Kind && f.Oracle == other.Oracle
}

// shortfall says in what the exploration is less than it was asked to be.
func (x *exploration) shortfall() error {
	if x.cfg.Replay != "" {
		return x.problem
	}
	if !x.report.Complete {
		return fmt.Errorf("explore: not complete after %d runs", x.report.Runs)
	}
	var missed []string
	for _, s := range x.cfg.MustReach {
		if x.report.States[s] == 0 {
			missed = append(missed, s)
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("explore: %d runs never reached %s (reached: %s)", x.report.Runs, strings.Join(missed, ", "),
			strings.Join(slices.Sorted(maps.Keys(x.report.States)), ", "))
	}
	return nil
}
