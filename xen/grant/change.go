package grant

import (
	"sync"
	"sync/atomic"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// change is a condition variable: what waits for something waits for any change, and looks again.
type change struct {
	sync.Cond
	count   atomic.Uint64
	awaiter hypercall.Awaiter // nil where goroutines wait by themselves
}

// Broadcast says that something has changed.
func (c *change) Broadcast() {
	c.count.Add(1)
	c.Cond.Broadcast()
}

// Wait lets the lock go until something has changed, and takes it again.
func (c *change) Wait() {
	seen := c.count.Load()
	if c.awaiter != nil && c.await(seen) {
		return
	}
	c.Cond.Wait()
}

// +checklocksignore: the caller holds the lock, as Cond.Wait's does.
func (c *change) await(seen uint64) bool {
	c.L.Unlock()
	defer c.L.Lock()
	return c.awaiter.Await("a change of the grant table", func() bool { return c.count.Load() != seen })
}
