package explore

import (
	"errors"
	"os"
	"regexp"
	"strings"
)

// replayVariable names a schedule for [Check] to run alone: the test's name and the schedule, with an @ between them.
const replayVariable = "HVKIT_REPLAY"

// TB is what Check needs of a test; *testing.T is one.
type TB interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Check explores, and fails the test where Explore returns an error: with the failed run as a sequence diagram, and what to type to have
// that run again. A test checks one scenario; several are subtests.
func Check(t TB, c *Config, s Scenario) *Report {
	t.Helper()
	cfg := c.withDefaults()
	if name, schedule, ok := strings.Cut(os.Getenv(replayVariable), "@"); ok && name == t.Name() {
		cfg.Replay = schedule
	}
	r, err := Explore(&cfg, s)
	f, wrong := errors.AsType[*Failure](err)
	switch {
	case wrong:
		t.Fatalf("%v\n\n%s\nTo have this run again: %s='%s@%s' go test -run '%s'", f, f.Listing, replayVariable, t.Name(), f.Schedule,
			pattern(t.Name()))
	case err != nil:
		t.Fatalf("%v", err)
	default:
		t.Logf("explored: %v", r)
	}
	return r
}

// pattern is the -run argument for a test and no other.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}
