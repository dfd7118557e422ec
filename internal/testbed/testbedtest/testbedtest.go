// Package testbedtest is the testbed for tests: a host that is booted once for a test binary, and packages whose tests run inside.
package testbedtest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
)

// Env is the environment variable that lets tests boot hosts: 1 to skip where QEMU or packages cannot be had, require to fail there.
const Env = "HVKIT_TESTBED"

// shared are the hosts of this process.
var shared struct {
	mu sync.Mutex
	// +checklocks:mu
	hosts map[string]*testbed.Host
}

// Main runs the tests and then ends the hosts that they booted. A TestMain that calls it is optional: hosts die with the process.
func Main(m *testing.M) int {
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for _, h := range shared.hosts {
		h.Close()
	}
	return code
}

// Need skips the test, or fails it, where there is to be no testbed.
func Need(tb testing.TB) {
	tb.Helper()
	switch v := os.Getenv(Env); v {
	case "1", "require":
	case "":
		tb.Skipf("boots Xen under QEMU; %s=1 enables it", Env)
	default:
		tb.Fatalf("%s=%s: it is 1 or require", Env, v)
	}
}

// Host returns a host of that recipe that tests of this process share.
func Host(tb testing.TB, r *testbed.Recipe) *testbed.Host {
	tb.Helper()
	Need(tb)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	h := shared.hosts[r.Name]
	if h == nil {
		var err error
		if h, err = testbed.Boot(context.Background(), r, &testbed.Config{Log: tb.Output()}); err != nil {
			if _, ok := errors.AsType[*testbed.MissingError](err); ok && os.Getenv(Env) != "require" {
				tb.Skipf("%v (%s=require makes this a failure)", err, Env)
			}
			tb.Fatal(err)
		}
		if shared.hosts == nil {
			shared.hosts = make(map[string]*testbed.Host)
		}
		shared.hosts[r.Name] = h
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Log(h.Evidence())
		}
	})
	return h
}

// insideTimeout is how long the tests of a package may take inside, unless -test.timeout is given.
const insideTimeout = "-test.timeout=5m"

// Run runs the tests of a package in a domain, with flags for the test binary (-test.run and the like). Each test there is a subtest here:
// it passes, fails or is skipped as that did, and logs what that wrote.
func Run(t *testing.T, d *testbed.Domain, pkg string, flags ...string) {
	t.Helper()
	ctx := t.Context()
	bin, err := testbed.BuildTest(ctx, pkg, d.Arch(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	run := newRun()
	args := append([]string{"-test.v=test2json", insideTimeout}, flags...)
	start := time.Now()
	convert, done := toEvents(ctx, run)
	err = d.RunBinary(ctx, bin, &guest.Cmd{Args: args, Stdout: convert, Stderr: convert})
	err = errors.Join(err, convert.Close(), <-done)
	t.Logf("%s in %s: %v", pkg, d.Name(), time.Since(start).Round(time.Millisecond))
	run.report(t, err)
}
