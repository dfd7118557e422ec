// Package explore runs the parties of a protocol in every order of their steps.
//
// A test of two goroutines sees the few orders that the scheduler happens to choose, and a fault that needs another one shows itself in a
// year, once. Here the parties are coroutines on one goroutine. Each access to watched shared memory, each notification, hypercall and
// wait is a point at which the next step may be another party's, and the explorer decides whose. It repeats the scenario until it has
// decided in every way that its bound allows:
//
//	writer        ───●─────●──────────────●────▶          one schedule
//	reader              ───────●────●─────────●▶
//
//	writer        ───●──────────●─────────●────▶          another one
//	reader              ───●──────────●───────●▶
//
// # A scenario
//
// A [Scenario] sets one run up: it makes the memory and the parties anew, has the regions watched ([World.Watch]) and names what must
// hold ([World.Always], [World.Finally]). The parties are the code that production runs, driven by small loops:
//
//	explore.Check(t, &explore.Config{Delays: 3}, func(w *explore.World) {
//		mem := shm.New(1)
//		w.Watch("page", mem, nil)
//		wake := w.Event("wake")
//		w.Go("writer", func(t *explore.Task) {
//			mem.Store32(0, 1) // a step
//			wake.Notify()     // a step
//		})
//		w.Go("reader", func(t *explore.Task) {
//			for mem.Load32(0).Is(0) { // a step each time
//				t.Wait(wake) // a step, when the event has come
//			}
//		})
//	})
//
// Between two steps a party runs alone, so what lies between them must not be shared with others by any way but watched memory and
// events. It must not block in any way that the explorer does not know of: no channel, no held lock across a step, no sleep.
//
// # Which orders
//
// A bounded search counts delays. There is one fixed order: a party goes on until it waits, then the next one in a circle that can.
// Every deviation costs as many delays as parties are passed over, also where a party waits (Emmi, Qadeer and Rakamarić,
// "Delay-bounded scheduling", 2011). With Delays: 3 every schedule of at most three delays is tried. [Unbounded] tries all of them, for
// tiny scenarios. Config.Random tries that many seeded random schedules instead, for long ones.
//
// A [World.Fault] is something that happens once, at any step and at no cost: a death, a close, a suspend. What a scenario chooses with
// [World.Choose] is tried in every way too.
//
// Config.Merge lets a search leave a schedule as soon as it comes to a state that was explored before. Then complete searches reach far
// larger scenarios; [World.Watch] and [Task.Settle] say what a state is.
//
// # What is found
//
// A run fails when an oracle does ([World.Always], [World.Finally], [Task.Fatalf]), when a party panics, when no party can go on and
// one has not ended (a deadlock; a lost wakeup where that party has something to do), or when it does not end within a number of steps (a
// livelock; with Config.Merge also when it comes back to a state that it was in). [Check] then makes the schedule shorter, prints it as a
// sequence diagram, and says how to replay it:
//
//	HVKIT_REPLAY='TestRing@+12=1,40=1' go test -run '^TestRing$' ./...
//
// A schedule is written as the points where it deviates from the fixed order. It stays valid as long as the code's steps do.
//
// [World.Reached] names rare states. A run of Check fails where one of Config.MustReach was never reached: an exploration that never
// fills the ring proves nothing about full rings.
//
// The same schedule has the same trace hash on every machine, so [Report.Hash] tells whether two explorations saw the same.
package explore
