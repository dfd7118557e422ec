package explore_test

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim/explore"
)

// A doorbell that is looked at and then waited for, with nothing that looks again: the ring in between is lost.
func Example() {
	_, err := explore.Explore(&explore.Config{Delays: 2}, func(w *explore.World) {
		page := shm.New(1)
		w.Watch("page", page, func(off, n int) string { return map[int]string{0: "mail", 4: "asleep"}[off] })
		bell := w.Event("bell")
		w.Go("sender", func(t *explore.Task) {
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
	})
	if f, ok := errors.AsType[*explore.Failure](err); ok {
		fmt.Print(f.Listing)
	}
	// Output:
	//       sender                  receiver
	//    1  ├─ start                │
	//    2  │                       ├─ start
	//    3  │                       ├─ load mail = 0
	//    4  ├─ store mail 0 → 1     │
	//    5  ├─ load asleep = 0      │
	//    6  │                       ├─ store asleep 0 → 1
	//       │                       │    (still waits for bell)
	//       *** lost wakeup: receiver waits for bell; it has something to do
}
