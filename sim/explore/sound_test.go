package explore_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/explore"
)

// Scenarios in which something is wrong that a search could miss: because it takes different states for equal, or because what happens next
// covers it up. A search must find it whether it merges or not.
func TestNothingIsMissed(t *testing.T) {
	tests := []struct {
		name     string
		kind     explore.Kind
		scenario explore.Scenario
	}{
		{"what the set-up chose is part of the state", explore.Violation, func(w *explore.World) {
			k := w.Choose("k", 2)
			page := shm.New(1)
			w.Watch("page", page, nil)
			w.Go("a", func(t *explore.Task) {
				page.Store32(0, 1)
				if k == 1 {
					t.Fatalf("k is 1")
				}
			})
			w.Go("b", func(*explore.Task) { page.Store32(4, 1) })
		}},
		{"all of a long copy is part of what a party saw", explore.Violation, func(w *explore.World) {
			page := shm.New(1)
			w.Watch("page", page, nil)
			flag := func() bool { return page.Load32(200).Is(1) }
			w.Go("writer", func(*explore.Task) {
				page.Store32(100, 1)
				page.Store32(100, 0)
				page.Store32(200, 1)
			})
			w.Go("reader", func(t *explore.Task) {
				b := make([]byte, 128)
				page.CopyOut(b, 0)
				t.Until("the flag", flag)
				if b[100] != 0 {
					t.Fatalf("torn")
				}
			})
			w.Go("other", func(t *explore.Task) {
				t.Until("the flag", flag)
				page.Store32(300, 1)
			})
		}},
		{"two parties that wait for each other by looking", explore.Livelock, func(w *explore.World) {
			page := shm.New(1)
			w.Watch("page", page, nil)
			for off := range 2 {
				w.Go("spins", func(t *explore.Task) {
					for t.Settle(); page.Load32(4 * off).Is(0); t.Settle() {
					}
				})
			}
		}},
		{"faults come in any order, also when all are asleep", explore.Violation, func(w *explore.World) {
			wake, asleep, first := w.Event("wake"), false, ""
			w.Go("sleeper", func(t *explore.Task) {
				t.Step("goes to sleep")
				asleep = true
				t.Wait(wake)
				if first == "two" {
					t.Fatalf("two came first, and all were asleep")
				}
			})
			for _, name := range []string{"one", "two"} {
				w.Fault(name, func() {
					if first == "" && asleep {
						first = name
					}
					wake.Notify()
				}).When(func() bool { return asleep })
			}
		}},
		{"a wakeup that a fault would make good", explore.LostWakeup, func(w *explore.World) {
			page := shm.New(1)
			w.Watch("page", page, nil)
			bell := w.Event("bell")
			w.Go("sender", func(*explore.Task) {
				page.Store32(0, 1)
				if page.Load32(4).Is(1) {
					bell.Notify()
				}
			})
			w.Go("receiver", func(t *explore.Task) {
				if page.Load32(0).Is(0) {
					page.Store32(4, 1)
					t.WaitFor(bell, func() bool { return page.Load32(0).Is(1) })
				}
			})
			w.Fault("close", func() { bell.Notify() })
		}},
	}
	for _, test := range tests {
		for _, merge := range []bool{false, true} {
			_, err := explore.Explore(&explore.Config{Delays: explore.Unbounded, Merge: merge, MaxSteps: 200}, test.scenario)
			f, ok := errors.AsType[*explore.Failure](err)
			require.True(t, ok, "%s, merge %v: %v", test.name, merge, err)
			require.Equal(t, test.kind, f.Kind, "%s, merge %v: %v", test.name, merge, f)
		}
	}
}

// What merging cannot see, it refuses.
func TestWhatMergingRefuses(t *testing.T) {
	for text, scenario := range map[string]explore.Scenario{
		"what a hypercall changes is no part of the state": func(w *explore.World) {
			h := sim.NewHost(nil)
			w.Cleanup(func() { _ = h.Close() })
			_, m, err := h.NewBare(nil)
			require.NoError(w, err)
			w.Machine("domain", m)
		},
		"the first region that was watched as page was closed": func(w *explore.World) {
			page := shm.New(1)
			w.Watch("page", page, nil)
			w.Fault("closed", func() { page.Close() })
		},
	} {
		_, err := explore.Explore(&explore.Config{Merge: true}, scenario)
		f, ok := errors.AsType[*explore.Failure](err)
		require.True(t, ok, text)
		require.Equal(t, explore.Panic, f.Kind)
		require.Contains(t, f.Text, text)
	}
}
