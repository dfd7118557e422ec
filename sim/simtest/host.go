package simtest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hvkit/hvkit/sim"
)

// patience is how long the host may take to notice what was closed a moment ago, in another process or on another goroutine.
const patience = 2 * time.Second

// pollEvery is how often CheckLeaks looks again.
const pollEvery = 5 * time.Millisecond

// NewHost starts a host for the test; cfg may be nil. When the test ends the host is checked as CheckLeaks does and closed. If the test
// failed its last events are printed.
func NewHost(t testing.TB, cfg *sim.HostConfig) *sim.Host {
	t.Helper()
	h := sim.NewHost(cfg)
	t.Cleanup(func() {
		CheckLeaks(t, h)
		if t.Failed() {
			printTrace(t, h)
		}
		if err := h.Close(); err != nil {
			t.Errorf("simtest: close the host: %v", err)
		}
	})
	return h
}

// NewDomain makes a domain of this process. It is destroyed with its host; a test may destroy it before.
func NewDomain(t testing.TB, h *sim.Host, name string) *sim.Domain {
	t.Helper()
	return NewDomainConfig(t, h, &sim.DomainConfig{Name: name})
}

// NewDomainConfig is NewDomain with a configuration.
func NewDomainConfig(t testing.TB, h *sim.Host, cfg *sim.DomainConfig) *sim.Domain {
	t.Helper()
	d, err := h.NewDomain(cfg)
	if err != nil {
		t.Fatalf("simtest: %v", err)
	}
	return d
}

// CheckLeaks fails the test if the host's domains have something that they should have given back; see [sim.Host.Leaks]. It waits a
// little for what is being given back. A test that destroys domains calls it before, since dead domains have nothing.
func CheckLeaks(t testing.TB, h *sim.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		leaks := h.Leaks()
		if len(leaks) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("simtest: the host's domains left behind:\n\t%s", strings.Join(leaks, "\n\t"))
			return
		}
	}
}

// printTrace prints the host's last events to the test's output.
func printTrace(t testing.TB, h *sim.Host) {
	w := t.Output()
	if _, err := w.Write([]byte("simtest: the host's last events:\n")); err != nil {
		return
	}
	_ = h.WriteTrace(w) // a test's output that cannot be written to has no other place to say so
}
