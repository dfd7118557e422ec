package explore

import "runtime"

// Unbounded as Config.Delays tries every schedule.
const Unbounded = 1 << 30

// DefaultMaxSteps is Config.MaxSteps where that is zero.
const DefaultMaxSteps = 20_000

// Config says which schedules to try. The zero value tries the fixed order only.
type Config struct {
	// Delays is how many delays a schedule may have, or Unbounded. It does not matter where Random is not zero.
	Delays int
	// Random is how many seeded random schedules to try in place of a search.
	Random int
	// Seed is where random schedules begin: run i of a seed is the same in every exploration.
	Seed uint64
	// Merge ends a schedule of a search where it comes to a state from which everything was tried already, with as many delays left. Two
	// states are taken for equal if 64-bit hashes of them are: of the watched memory, and for each party of what it has seen since
	// [Task.Settle]. It is for scenarios whose parties share nothing but watched memory and events; hypercalls are not covered.
	Merge bool
	// MaxSteps is how many steps a run may have before it counts as a livelock. DefaultMaxSteps if zero.
	MaxSteps int
	// MaxRuns ends a search that has become larger than it should be, with an error. None if zero.
	MaxRuns int
	// MustReach names states that some run must reach; see [World.Reached].
	MustReach []string
	// Workers is how many goroutines make random runs: GOMAXPROCS if zero. The scenario must then be safe to be set up by several at a
	// time. The report of runs that do not fail does not depend on it.
	Workers int
	// Replay is a schedule, as a [Failure] names it, to run in place of all others.
	Replay string
}

func (c *Config) withDefaults() Config {
	var cfg Config
	if c != nil {
		cfg = *c
	}
	if cfg.MaxSteps <= 0 {
		cfg.MaxSteps = DefaultMaxSteps
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	return cfg
}
