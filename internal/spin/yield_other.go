//go:build !linux

package spin

import "runtime"

// yieldThread lets other goroutines run: there is no way here to yield to a thread.
func yieldThread() { runtime.Gosched() }
