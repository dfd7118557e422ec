package spin

import "golang.org/x/sys/unix"

// yieldThread lets another thread that waits for this processor have it (sched_yield(2)). Where there is none it takes half a microsecond.
func yieldThread() { _, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
