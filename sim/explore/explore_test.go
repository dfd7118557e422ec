package explore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim/explore"
)

// Offsets of the smallest ring there is: a producer index and an event index, and no data.
const (
	offProd  = 0
	offEvent = 4
)

func ringField(off, _ int) string { return map[int]string{offProd: "prod", offEvent: "event"}[off] }

// ring is a producer and a consumer of so many messages. A late consumer asks for the event after its last look at the index, which is
// the classic mistake.
func ring(messages uint32, late bool) explore.Scenario {
	return func(w *explore.World) {
		mem := shm.New(1)
		mem.Store32(offEvent, 1)
		w.Watch("ring", mem, ringField)
		interrupt := w.Event("interrupt")
		w.Go("producer", func(t *explore.Task) {
			for i := range messages {
				t.Settle(uint64(i))
				mem.Store32(offProd, i+1)
				if mem.Load32(offEvent).Is(i + 1) {
					interrupt.Notify()
				}
			}
		})
		w.Go("consumer", func(t *explore.Task) {
			got := uint32(0)
			more := func() bool { return !mem.Load32(offProd).Is(got) }
			for got < messages {
				t.Settle(uint64(got))
				if p := mem.Load32(offProd).Unchecked(); p != got {
					got = p
					continue
				}
				mem.Store32(offEvent, got+1)
				if late || !more() {
					t.WaitFor(interrupt, more)
				}
			}
		})
	}
}

func TestCorrectRing(t *testing.T) {
	for _, cfg := range []explore.Config{
		{}, {Delays: 3}, {Delays: 3, Merge: true}, {Delays: explore.Unbounded, Merge: true}, {Random: 2000},
	} {
		for _, n := range []uint32{1, 2, 3, 16} {
			r, err := explore.Explore(&cfg, ring(n, false))
			require.NoError(t, err)
			require.True(t, r.Complete)
		}
	}
}

func TestLostWakeupIsFound(t *testing.T) {
	for _, cfg := range []explore.Config{
		{Delays: 3}, {Delays: 3, Merge: true}, {Delays: explore.Unbounded}, {Delays: explore.Unbounded, Merge: true}, {Random: 2000},
	} {
		_, err := explore.Explore(&cfg, ring(3, true))
		f, ok := errors.AsType[*explore.Failure](err)
		require.True(t, ok, "%+v: %v", cfg, err)
		require.Equal(t, explore.LostWakeup, f.Kind)
		require.LessOrEqual(t, f.Run, 200)
		require.Contains(t, f.Listing, "still waits for interrupt")

		cfg = explore.Config{Replay: f.Schedule}
		_, err = explore.Explore(&cfg, ring(3, true))
		again, ok := errors.AsType[*explore.Failure](err)
		require.True(t, ok, "the schedule %s does not replay", f.Schedule)
		require.Equal(t, f.Listing, again.Listing)
	}
}

func TestFewerDelaysThanTheFaultNeeds(t *testing.T) {
	for delays := range 3 {
		_, err := explore.Explore(&explore.Config{Delays: delays}, ring(3, true))
		require.NoError(t, err, "%d delays", delays)
	}
}

// Two explorations of the same are the same, whoever makes them. The figure is what every machine must come to.
func TestHashIsTheSameEverywhere(t *testing.T) {
	want := map[string]uint64{"search": 0x4d2c57a18ba4d786, "random": 0x776577a826185398}
	for name, cfg := range map[string]explore.Config{"search": {Delays: 3}, "random": {Random: 500, Seed: 7}} {
		cfg.Workers = 1
		first, err := explore.Explore(&cfg, ring(3, false))
		require.NoError(t, err)
		cfg.Workers = 3
		second, err := explore.Explore(&cfg, ring(3, false))
		require.NoError(t, err)
		require.Equal(t, first.Hash, second.Hash, name)
		require.Equal(t, first.Steps, second.Steps, name)
		require.Equal(t, fmt.Sprintf("%#x", want[name]), fmt.Sprintf("%#x", first.Hash), name)
	}
	other, err := explore.Explore(&explore.Config{Random: 500, Seed: 8}, ring(3, false))
	require.NoError(t, err)
	require.NotEqual(t, want["random"], other.Hash)
}

// Merging leaves out runs, never an outcome. The programs are random: parties that load, store, add, wait and notify.
func TestMergingLosesNoOutcome(t *testing.T) {
	type step struct{ kind, at, value int }
	rapid.Check(t, func(t *rapid.T) {
		delays := rapid.SampledFrom([]int{1, 2, explore.Unbounded}).Draw(t, "delays")
		parties, steps := 3, 3
		if delays == explore.Unbounded {
			parties, steps = 2, 2
		}
		var programs [][]step
		for range parties {
			programs = append(programs, rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
				return step{rapid.IntRange(0, 7).Draw(t, "kind"), rapid.IntRange(0, 1).Draw(t, "at"), rapid.IntRange(1, 3).Draw(t, "value")}
			}), 1, steps).Draw(t, "program"))
		}
		fault, killer := rapid.Bool().Draw(t, "a fault"), rapid.Bool().Draw(t, "it kills")
		outcomes := func(merge bool) []string {
			seen := make(map[string]bool)
			_, err := explore.Explore(&explore.Config{Delays: delays, Merge: merge}, func(w *explore.World) {
				mem := shm.New(1)
				w.Watch("memory", mem, nil)
				event := w.Event("event")
				sums, model := make([]uint32, len(programs)), uint32(0)
				w.State(func() uint64 { return uint64(model) })
				var tasks []*explore.Task
				for i, program := range programs {
					tasks = append(tasks, w.Go(fmt.Sprint("party ", i), func(task *explore.Task) {
						for _, s := range program {
							switch off := s.at * 4; s.kind {
							case 0:
								sums[i] = sums[i]*7 + mem.Load32(off).Unchecked()
							case 1:
								mem.Store32(off, uint32(s.value)+sums[i])
							case 2:
								sums[i] += mem.Or32(off, uint32(s.value)).Unchecked()
							case 3:
								event.Notify()
							case 4:
								mem.Store16(off+2, uint16(sums[i]))
							case 5:
								mem.CopyIn(off, []byte{byte(s.value), byte(sums[i])})
							case 6: // what is not memory, and known by State alone
								task.Step("model")
								model = model*5 + uint32(s.value)
							case 7:
								sums[i] += uint32(task.Choose("a number", 2) * s.value)
							}
						}
					}))
				}
				woken := uint32(0)
				w.Daemon("sleeper", func(t *explore.Task) {
					for {
						t.Wait(event)
						woken = woken*7 + mem.Or32(0, 4).Unchecked()
					}
				})
				if fault {
					f := w.Fault("fault", func() { mem.Store32(4, 100+mem.Load32(0).Unchecked()) })
					if killer {
						f.Kills(tasks[0])
						sums[0] = 0
					}
				}
				w.Finally("outcome", func() error {
					if killer {
						sums[0] = 0 // what a killed party knew is nobody's any more
					}
					seen[fmt.Sprint(sums, model, woken, mem.Load32(0), mem.Load32(4), event.Pending())] = true
					return nil
				})
			})
			require.NoError(t, err)
			return slices.Sorted(maps.Keys(seen))
		}
		require.Equal(t, outcomes(false), outcomes(true))
	})
}

func TestKindsOfFailure(t *testing.T) {
	tests := []struct {
		kind     explore.Kind
		text     string
		scenario explore.Scenario
	}{
		{explore.Deadlock, "sleeper waits for nothing", func(w *explore.World) {
			e := w.Event("nothing")
			w.Go("sleeper", func(t *explore.Task) { t.Wait(e) })
		}},
		{explore.Livelock, "no end after 100 steps; the last was of spinner", func(w *explore.World) {
			w.Go("spinner", func(t *explore.Task) {
				for {
					t.Step("spin")
				}
			})
		}},
		{explore.Panic, "boom", func(w *explore.World) {
			w.Go("bomb", func(*explore.Task) { panic("boom") })
		}},
		{explore.Panic, "the set-up", func(*explore.World) { panic("boom") }},
		{explore.Violation, "by a party", func(w *explore.World) {
			w.Go("party", func(t *explore.Task) { t.Fatalf("by a party") })
		}},
		{explore.Violation, "Not equal", func(w *explore.World) {
			w.Go("party", func(t *explore.Task) { require.Equal(t, 1, 2) })
		}},
		{explore.Violation, "in the set-up", func(w *explore.World) { require.Fail(w, "in the set-up"); w.FailNow() }},
		{explore.Violation, "always wrong", func(w *explore.World) {
			w.Go("party", func(t *explore.Task) { t.Step("a step") })
			w.Always("oracle", func() error { return errors.New("always wrong") })
		}},
		{explore.Violation, "finally wrong", func(w *explore.World) {
			w.Go("party", func(t *explore.Task) { t.Step("a step") })
			w.Finally("oracle", func() error { return errors.New("finally wrong") })
		}},
	}
	for _, test := range tests {
		_, err := explore.Explore(&explore.Config{MaxSteps: 100}, test.scenario)
		f, ok := errors.AsType[*explore.Failure](err)
		require.True(t, ok, "%v %s: %v", test.kind, test.text, err)
		require.Equal(t, test.kind, f.Kind, f.Error())
		require.Contains(t, f.Error(), test.text)
	}
}

// A fault happens before every step, and at the latest when nobody can go on.
func TestFaultComesAtEveryStep(t *testing.T) {
	at := make(map[uint32]int)
	scenario := func(w *explore.World) {
		mem := shm.New(1)
		w.Watch("memory", mem, nil)
		done := w.Event("fault")
		party := w.Go("party", func(*explore.Task) {
			for i := range uint32(4) {
				mem.Store32(0, i+1)
			}
		})
		w.Fault("fault", func() {
			at[mem.Load32(0).Unchecked()]++
			done.Notify()
		}).Kills(party)
		w.Go("waits for it", func(t *explore.Task) { t.Wait(done) })
	}
	_, err := explore.Explore(nil, scenario)
	require.NoError(t, err)
	require.Equal(t, []uint32{0, 1, 2, 3, 4}, slices.Sorted(maps.Keys(at)))
}

func TestChoicesAreTriedInEveryWay(t *testing.T) {
	seen := make(map[string]bool)
	_, err := explore.Explore(nil, func(w *explore.World) {
		a := w.Choose("a", 3)
		w.Go("party", func(t *explore.Task) {
			t.Step("first")
			seen[fmt.Sprint(a, t.Choose("b", 2))] = true
		})
	})
	require.NoError(t, err)
	require.Len(t, seen, 6)
}

func TestStatesMustBeReached(t *testing.T) {
	scenario := func(w *explore.World) { w.Reached("one") }
	r, err := explore.Explore(&explore.Config{MustReach: []string{"one"}}, scenario)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"one": 1}, r.States)
	_, err = explore.Explore(&explore.Config{MustReach: []string{"one", "another"}}, scenario)
	require.EqualError(t, err, "explore: 1 runs never reached another (reached: one)")
}

func TestTooManyRuns(t *testing.T) {
	_, err := explore.Explore(&explore.Config{Delays: explore.Unbounded, MaxRuns: 10}, ring(3, false))
	require.EqualError(t, err, "explore: not complete after 10 runs")
}

func TestBadSchedules(t *testing.T) {
	for _, s := range []string{"x", "12=1", "+a=1", "+1", "+3=1,2=1", "+-1=1"} {
		_, err := explore.Explore(&explore.Config{Replay: s}, ring(1, false))
		require.ErrorContains(t, err, "is not a schedule", s)
	}
	// One of other code: ways that are not there are not taken.
	_, err := explore.Explore(&explore.Config{Replay: "+0=9,5=7,1000=1"}, ring(1, false))
	require.NoError(t, err)
}

// fakeT records what Check does to a test.
type fakeT struct {
	name, fatal string
}

func (f *fakeT) Helper()             {}
func (f *fakeT) Name() string        { return f.name }
func (f *fakeT) Logf(string, ...any) {}
func (f *fakeT) Fatalf(format string, args ...any) {
	f.fatal = fmt.Sprintf(format, args...)
}

func TestCheckSaysHowToReplay(t *testing.T) {
	f := &fakeT{name: "TestDriver/queue"}
	explore.Check(f, &explore.Config{Delays: 3}, ring(2, true))
	require.Contains(t, f.fatal, "consumer waits for interrupt; it has something to do")
	_, command, ok := strings.Cut(f.fatal, "HVKIT_REPLAY='")
	require.True(t, ok, f.fatal)
	value, _, ok := strings.Cut(command, "' go test -run '^TestDriver$/^queue$'")
	require.True(t, ok, f.fatal)

	t.Setenv("HVKIT_REPLAY", value)
	again := &fakeT{name: f.name}
	explore.Check(again, &explore.Config{Random: 1}, ring(2, true))
	require.Contains(t, again.fatal, "explore: lost wakeup, found after 1 runs")
	other := &fakeT{name: "TestOther"}
	explore.Check(other, &explore.Config{}, ring(1, true))
	require.Empty(t, other.fatal, "the schedule is another test's")
}

func TestWanted(t *testing.T) {
	for value, want := range map[string]explore.Effort{"": explore.Quick, "thorough": explore.Thorough, "nightly": explore.Nightly} {
		t.Setenv("HVKIT_EXPLORE", value)
		require.Equal(t, want, explore.Wanted())
		require.Equal(t, int(want), explore.Pick(0, 1, 2))
	}
	require.NoError(t, os.Unsetenv("HVKIT_EXPLORE"))
}

// What a clean-up finds after a run that went well is a failure, and after another is not worth a word.
func TestCleanupFinds(t *testing.T) {
	leak := func(w *explore.World) {
		w.Cleanup(func() { require.Equal(w, "nothing", "a page", "what is left") })
	}
	_, err := explore.Explore(nil, func(w *explore.World) {
		leak(w)
		w.Go("party", func(*explore.Task) {})
	})
	require.ErrorContains(t, err, "what is left")
	_, err = explore.Explore(nil, func(w *explore.World) {
		leak(w)
		w.Go("party", func(t *explore.Task) { t.Fatalf("the reason") })
	})
	require.ErrorContains(t, err, "the reason")
	require.NotContains(t, err.Error(), "what is left")
}

// What is killed does not close what it has open, even where it meant to.
func TestKillRunsNoDeferredStep(t *testing.T) {
	_, err := explore.Explore(&explore.Config{Delays: 2}, func(w *explore.World) {
		mem := shm.New(1)
		w.Watch("memory", mem, nil)
		killed := false
		victim := w.Go("victim", func(t *explore.Task) {
			defer mem.Store32(0, 2)
			mem.Store32(0, 1)
			t.Step("works")
		})
		w.Fault("kill -9", func() { killed = !victim.Done() }).Kills(victim)
		w.Finally("the last word", func() error {
			if killed && mem.Load32(0).Is(2) {
				return errors.New("it stored after it was killed")
			}
			return nil
		})
	})
	require.NoError(t, err)
}

// Faults come in the middle of random runs, not only where nobody can go on.
func TestRandomFaultsComeAtAnyStep(t *testing.T) {
	r, err := explore.Explore(&explore.Config{Random: 200, Seed: 3}, func(w *explore.World) {
		steps := 0
		w.Go("party", func(t *explore.Task) {
			for range 5 {
				t.Step("works")
				steps++
			}
		})
		w.Fault("fault", func() { w.Reached(fmt.Sprint("after ", steps)) })
	})
	require.NoError(t, err)
	require.Subset(t, slices.Collect(maps.Keys(r.States)), []string{"after 1", "after 2", "after 3"})
}

// A run that does not go wrong again is said to be one.
func TestFailureThatDoesNotComeAgain(t *testing.T) {
	runs := 0
	_, err := explore.Explore(nil, func(w *explore.World) {
		runs++
		w.Go("party", func(t *explore.Task) {
			if runs == 1 {
				t.Fatalf("once")
			}
		})
	})
	f, ok := errors.AsType[*explore.Failure](err)
	require.True(t, ok)
	require.Contains(t, f.Listing, "did not fail again")
}
