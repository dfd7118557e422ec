package leaktest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what the tests ended may take to go.
const patience = 10 * time.Second

// Main runs the tests and ends the process: with 1 if they left something behind.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for those who have something to do after it. It returns what to exit with.
func Run(m *testing.M) int {
	before := take()
	code := m.Run()
	if code != 0 || fuzzing() {
		return code // what failed did not clean up
	}
	if left := before.left(patience); left != "" {
		fmt.Fprintln(os.Stderr, "leaktest: the tests left behind:\n"+left)
		return 1
	}
	return 0
}

// fuzzing reports whether a fuzzer runs, which has goroutines and pipes of its own.
func fuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// state is what a process has.
type state struct {
	goroutines  int
	descriptors []string
}

func take() state {
	startNetpoll()
	return state{runtime.NumGoroutine(), descriptors()}
}

// startNetpoll has the Go runtime open the descriptors of its poller, which stay.
func startNetpoll() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
}

// left says what there is now and was not before, once nothing more goes away, or "".
func (before state) left(patience time.Duration) string {
	deadline := time.Now().Add(patience)
	for {
		now := state{runtime.NumGoroutine(), descriptors()}
		if now.goroutines <= before.goroutines && len(now.descriptors) <= len(before.descriptors) {
			return ""
		}
		if time.Now().After(deadline) {
			return before.compare(now)
		}
		runtime.Gosched()
	}
}

func (before state) compare(now state) string {
	var b strings.Builder
	if n := len(now.descriptors) - len(before.descriptors); n > 0 {
		fmt.Fprintf(&b, "%d descriptors; before: %v; now: %v\n", n, before.descriptors, now.descriptors)
	}
	if n := now.goroutines - before.goroutines; n > 0 {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(&b, "%d goroutines, among these:\n%s\n", n, stacks[:runtime.Stack(stacks, true)])
	}
	return b.String()
}
