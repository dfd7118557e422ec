package spin_test

import (
	"fmt"
	"sync/atomic"

	"github.com/hvkit/hvkit/internal/spin"
)

// One goroutine waits for a value that another stores, and is woken through a channel if it sleeps.
func Example() {
	var value atomic.Int64
	wake := make(chan struct{}, 1)
	go func() {
		value.Store(42)
		wake <- struct{}{}
	}()
	ready := func() bool { return value.Load() != 0 }
	w := spin.New(0)
	for !ready() {
		again, wait := w.Spin(ready, wake)
		if again {
			continue
		}
		<-wake
		w.Slept(wait)
	}
	fmt.Println(value.Load())
	// Output: 42
}
