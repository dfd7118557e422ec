package shm_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/hvkit/hvkit/shm"
)

// A producer and a consumer share a page: data, and an index that says how much of it is there. The consumer trusts neither.
func Example() {
	const (
		prod  = 0  // offset of the producer's index, free-running
		slots = 64 // offset of the first slot
		size  = 16 // of a slot
		n     = 8  // slots
	)
	r := shm.New(1)

	// The producer: data first, then the index.
	r.CopyIn(slots, []byte("hello"))
	r.Store32(prod, 1)

	// The consumer: the index first, once, and checked; then a copy of the data.
	cons := uint32(0)
	there, err := r.Load32(prod).Ahead(cons, n)
	if err != nil {
		fmt.Println("the producer is broken:", err)
		return
	}
	for range there {
		var slot [size]byte
		r.CopyOut(slot[:], slots+int(cons%n)*size)
		fmt.Printf("%s\n", bytes.TrimRight(slot[:], "\x00"))
		cons++
	}

	// A hostile producer.
	r.Store32(prod, 4_000_000_000)
	_, err = r.Load32(prod).Ahead(cons, n)
	fmt.Println("the producer is broken:", err)
	// Output:
	// hello
	// the producer is broken: value 3999999999 (0xee6b27ff) is not between 0 and 8
}

// Words a peer wrote must be checked before they are numbers.
func ExampleUntrusted() {
	r := shm.New(1)
	r.Store16(2, 5000)
	length := r.Load16(2)
	if _, err := length.AtMost(4096); err != nil {
		fmt.Println("length:", err)
	}
	n, err := length.Between(1, 8192)
	fmt.Println(n, err)
	// Output:
	// length: value 5000 (0x1388) is not between 0 and 4096
	// 5000 <nil>
}

// One page may be in a region twice.
func ExampleJoin() {
	a, b := shm.New(1), shm.New(1)
	r := shm.Join(a, b, a)
	r.Store8(0, 7)
	fmt.Println(r.Size(), r.Load8(2*shm.PageSize))
	// Output: 12288 7
}

// Late accesses are harmless.
func ExampleRegion_Close() {
	r := shm.New(1)
	r.Store32(0, 42)
	r.Close()
	r.Store32(4, 1)
	fmt.Println(r.Load32(0), r.LateAccesses())
	// Output: 0 2
}

// An event-channel style flag: set a bit, and learn whether it was set before.
func ExampleRegion_Or8() {
	r := shm.New(1)
	const notify = 1
	for range 2 {
		if r.Or8(20, notify).Bits(notify) == 0 {
			fmt.Println("was clear")
		} else {
			fmt.Println("was set")
		}
	}
	// Output:
	// was clear
	// was set
}

// Offsets are the program's own, so a wrong one is a mistake of the program.
func ExampleBoundsError() {
	defer func() {
		var e *shm.BoundsError
		if err, ok := recover().(error); ok && errors.As(err, &e) {
			fmt.Println(e)
		}
	}()
	shm.New(1).Load32(4090)
	// Output: shm: load of 4 bytes at offset 4090: not aligned
}

// tracer prints accesses.
type tracer struct{}

func (tracer) BeforeAccess(a shm.Access) { fmt.Println(a.Kind, a.Off, a.Len) }

// An observer is told of every access before it happens.
func ExampleRegion_Observe() {
	r := shm.New(1)
	r.Observe(tracer{})
	r.CopyIn(64, []byte("data"))
	r.Store32(0, 1)
	// Output:
	// copy in 64 4
	// store 0 4
}

// The kernel writes from the region to the descriptor; the bytes do not pass through the program.
func ExampleRegion_CopyOutTo() {
	pr, pw, err := os.Pipe()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pr.Close()
	r := shm.New(2)
	r.CopyIn(4090, []byte("over the page border"))
	n, err := r.CopyOutTo(pw, 4090, 20)
	fmt.Println(n, err)
	pw.Close()

	n, err = r.CopyInFrom(0, pr, 100)
	fmt.Println(n, err)
	got := make([]byte, n)
	r.CopyOut(got, 0)
	fmt.Printf("%s\n", got)
	_, err = r.CopyInFrom(0, pr, 100)
	fmt.Println(err)
	// Output:
	// 20 <nil>
	// 20 <nil>
	// over the page border
	// EOF
}
