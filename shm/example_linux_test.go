package shm_test

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
)

// Two processes share a memfd. Whoever receives one from somebody else verifies it first: a file that can shrink would kill those who
// map it.
func ExampleMap() {
	f, err := shm.NewFile("ring", 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	mine, err := shm.Map(true, shm.Extent{FD: int(f.Fd()), Pages: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mine.Close()

	// In the other process, which got the descriptor over a Unix socket:
	if err := shm.VerifySealed(f, 2); err != nil {
		fmt.Println(err)
		return
	}
	theirs, err := shm.Map(false, shm.Extent{FD: int(f.Fd()), First: 1, Pages: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer theirs.Close()

	mine.Store32(shm.PageSize, 1)
	fmt.Println(theirs.Load32(0), theirs.Writable())
	fmt.Println(shm.VerifySealed(f, 3))
	// Output:
	// 1 false
	// shm: ring is not a sealed memfd: it has 8192 bytes, and 12288 are needed
}
