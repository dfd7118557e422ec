package sim_test

import (
	"os"
	"sort"
)

// descriptors says what this process has open, but for what the Go runtime and the reading of this list have.
func descriptors() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	var open []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" {
			open = append(open, e.Name()+" "+target)
			continue
		}
		if err == nil {
			open = append(open, target)
		}
	}
	sort.Strings(open)
	return open
}
