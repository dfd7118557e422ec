package explore

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
)

// picker decides how a run goes on where there is more than one way.
type picker interface {
	// task chooses among parties, of which the first is whose turn it is, and faults, a set of bits: fault i is way parties+i.
	task(parties int, faults uint32) int
	// choice chooses below n.
	choice(n int) int
	// fresh reports whether the present point was not yet there in an earlier run of the search.
	fresh() bool
	// budget is how many delays are left.
	budget() int
}

// point is a place in a schedule where there is more than one way to go on.
type point struct {
	picked  int
	parties int    // the first so many ways cost as many delays as their number; the others nothing
	faults  uint32 // which of the others there are
	choices int    // of a choice: how many ways
	left    int    // delays, before
}

// ways returns one more than the last way.
func (p *point) ways() int { return max(p.choices, p.parties+bits.Len32(p.faults)) }

// open reports whether there is the way, with the delays that are left.
func (p *point) open(k int) bool {
	if p.parties > 0 && k >= p.parties {
		return p.faults>>(k-p.parties)&1 != 0
	}
	return p.cost(k) <= p.left
}

func (p *point) cost(k int) int {
	if k < p.parties {
		return k
	}
	return 0
}

// search is a depth-first search: each run follows the path and then takes the first way everywhere.
type search struct {
	delays int
	path   []point
	at     int
	left   int
}

func newSearch(delays int) *search { return &search{delays: delays, left: delays} }

func (s *search) task(parties int, faults uint32) int { return s.pick(parties, faults, 0) }
func (s *search) choice(n int) int                    { return s.pick(0, 0, n) }
func (s *search) fresh() bool                         { return s.at >= len(s.path) }
func (s *search) budget() int                         { return s.left }

func (s *search) pick(parties int, faults uint32, choices int) int {
	if s.at == len(s.path) {
		s.path = append(s.path, point{parties: parties, faults: faults, choices: choices, left: s.left})
	}
	p := &s.path[s.at]
	if p.choices != choices || p.parties != parties || p.faults&^faults != 0 {
		panic(fmt.Sprintf("explore: the scenario is not deterministic: point %d had %d parties, faults %#x and %d choices; now %d, %#x and %d",
			s.at, p.parties, p.faults, p.choices, parties, faults, choices))
	}
	s.at++
	if s.delays < Unbounded {
		s.left = p.left - p.cost(p.picked)
	}
	return p.picked
}

// next prepares the next run, and reports whether there is one.
func (s *search) next() bool {
	// What the run did not come to, because it ended before, is not part of the path.
	s.path = s.path[:s.at]
	for len(s.path) > 0 {
		p := &s.path[len(s.path)-1]
		for p.picked++; p.picked < p.ways(); p.picked++ {
			if p.open(p.picked) {
				s.at, s.left = 0, s.delays
				return true
			}
		}
		s.path = s.path[:len(s.path)-1]
	}
	return false
}

// random is a seeded random schedule.
type random struct {
	rng   *rand.Rand
	turns uint64 // a party is changed at one of so many points
	fault uint64 // a fault happens at one of so many points
}

func newRandom(seed, run uint64) *random {
	r := &random{rng: rand.New(rand.NewPCG(seed, run))}
	// Each run draws how restless it is: some faults need many changes of turn, others a few at the right place.
	r.turns = 1 << r.rng.Uint64N(6)
	r.fault = 4 << r.rng.Uint64N(8)
	return r
}

func (r *random) task(parties int, faults uint32) int {
	if faults != 0 && r.rng.Uint64N(r.fault) == 0 {
		for skip := r.rng.Uint64N(uint64(bits.OnesCount32(faults))); skip > 0; skip-- {
			faults &= faults - 1
		}
		return parties + bits.TrailingZeros32(faults)
	}
	if parties < 2 || r.rng.Uint64N(r.turns) != 0 {
		return 0
	}
	return int(r.rng.Uint64N(uint64(parties)))
}

func (r *random) choice(n int) int { return int(r.rng.Uint64N(uint64(n))) }
func (r *random) fresh() bool      { return true }
func (r *random) budget() int      { return 0 }

// recorder notes what another picker does.
type recorder struct {
	picker
	schedule schedule
	at       int
}

func (r *recorder) task(parties int, faults uint32) int {
	return r.note(r.picker.task(parties, faults))
}
func (r *recorder) choice(n int) int { return r.note(r.picker.choice(n)) }

func (r *recorder) note(k int) int {
	if k != 0 {
		r.schedule = append(r.schedule, deviation{r.at, k})
	}
	r.at++
	return k
}

// deviation is a point of a run where it did not take the first way.
type deviation struct {
	point, way int
}

// schedule is a run, as its deviations from the fixed order.
type schedule []deviation

// String returns the form that Config.Replay takes: "+12=1,40=2".
func (s schedule) String() string {
	parts := make([]string, len(s))
	for i, d := range s {
		parts[i] = fmt.Sprintf("%d=%d", d.point, d.way)
	}
	return "+" + strings.Join(parts, ",")
}

func parseSchedule(text string) (schedule, error) {
	var s schedule
	list, ok := strings.CutPrefix(text, "+")
	if !ok {
		return nil, fmt.Errorf("explore: %q is not a schedule: it does not begin with a +", text)
	}
	if list == "" {
		return nil, nil
	}
	for _, part := range strings.Split(list, ",") {
		a, b, ok := strings.Cut(part, "=")
		point, err1 := strconv.Atoi(a)
		way, err2 := strconv.Atoi(b)
		if !ok || err1 != nil || err2 != nil || point < 0 || way < 0 || len(s) > 0 && s[len(s)-1].point >= point {
			return nil, fmt.Errorf("explore: %q is not a schedule: it has a %q", text, part)
		}
		s = append(s, deviation{point, way})
	}
	return s, nil
}

// replay follows a schedule. Where there is no such way any more it takes the first: the code's steps have changed since.
type replay struct {
	schedule schedule
	at       int
}

func (r *replay) task(parties int, faults uint32) int {
	return r.pick(&point{parties: parties, faults: faults, left: Unbounded})
}
func (r *replay) choice(n int) int { return r.pick(&point{choices: n, left: Unbounded}) }
func (r *replay) fresh() bool      { return true }
func (r *replay) budget() int      { return 0 }

func (r *replay) pick(p *point) int {
	at := r.at
	r.at++
	for len(r.schedule) > 0 && r.schedule[0].point < at {
		r.schedule = r.schedule[1:]
	}
	if len(r.schedule) == 0 || r.schedule[0].point != at {
		return 0
	}
	if k := r.schedule[0].way; k < p.ways() && p.open(k) {
		return k
	}
	return 0
}

// visited is the states from which everything was tried, and with how many delays left.
type visited map[uint64]int32

// before reports whether everything was tried from the state with as many delays left, and notes that it is now.
func (v visited) before(state uint64, left int) bool {
	more := int32(left) + 1 // not 0, which is what states that are not there have
	if v[state] >= more {
		return true
	}
	v[state] = more
	return false
}
