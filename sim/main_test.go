package sim_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain runs the tests, and then sees to it that nothing of them is left: no goroutine and no descriptor. With childEnv set it is a
// process that is a domain instead; see child_linux_test.go.
func TestMain(m *testing.M) {
	if runChild() {
		return
	}
	startNetpoll()
	before := descriptors()
	code := m.Run()
	if code == 0 {
		code = checkLeft(before)
	}
	os.Exit(code)
}

// startNetpoll has the Go runtime open the descriptors of its poller, which stay.
func startNetpoll() {
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
}

// checkLeft waits until what the tests closed has gone, for it may be going still.
func checkLeft(before []string) int {
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > 1 || len(descriptors()) > len(before) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			fmt.Fprintf(os.Stderr, "tests left goroutines or descriptors behind\nbefore: %v\nafter: %v\n%s\n", before, descriptors(), stacks)
			return 1
		}
		runtime.Gosched()
	}
	return 0
}
