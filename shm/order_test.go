package shm_test

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
)

// signal is how one side tells the other that data is there, by one kind of store and load.
type signal struct {
	name string
	set  func(r *shm.Region, off int, v uint8)
	get  func(r *shm.Region, off int) uint8
}

func signals() []signal {
	return []signal{
		{"8 bits", func(r *shm.Region, off int, v uint8) { r.Store8(off, v) },
			func(r *shm.Region, off int) uint8 { return r.Load8(off).Unchecked() }},
		{"16 bits", func(r *shm.Region, off int, v uint8) { r.Store16(off, uint16(v)) },
			func(r *shm.Region, off int) uint8 { return uint8(r.Load16(off).Unchecked()) }},
		{"32 bits", func(r *shm.Region, off int, v uint8) { r.Store32(off, uint32(v)) },
			func(r *shm.Region, off int) uint8 { return uint8(r.Load32(off).Unchecked()) }},
		{"64 bits", func(r *shm.Region, off int, v uint8) { r.Store64(off, uint64(v)) },
			func(r *shm.Region, off int) uint8 { return uint8(r.Load64(off).Unchecked()) }},
		{"or and and, 8 bits", func(r *shm.Region, off int, v uint8) {
			if v == 0 {
				r.And8(off, 0)
				return
			}
			r.Or8(off, v)
		}, func(r *shm.Region, off int) uint8 { return r.Or8(off, 0).Unchecked() }},
		{"compare and swap, 16 bits", func(r *shm.Region, off int, v uint8) { r.CompareAndSwap16(off, uint16(^v&1), uint16(v)) },
			func(r *shm.Region, off int) uint8 { return uint8(r.Load16(off).Unchecked()) }},
	}
}

// Data that is copied in before a signal is there when the signal is seen. The race detector checks that it knows of the order: it
// would report the copies otherwise.
func TestSignalsOrderCopies(t *testing.T) {
	for name, r := range layouts(t) {
		for _, s := range signals() {
			t.Run(fmt.Sprintf("%s/%s", name, s.name), func(t *testing.T) { pingPong(t, r, s) })
		}
	}
}

func pingPong(t *testing.T, r *shm.Region, s signal) {
	const rounds, n, data = 300, 200, page - 100 // the data crosses a page border
	const sig = 2*page + 8
	r.Zero(sig, 8)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range rounds {
			for s.get(r, sig) != 0 {
				runtime.Gosched()
			}
			r.CopyIn(data, bytes.Repeat([]byte{byte(i)}, n))
			s.set(r, sig, 1)
		}
	})
	got := make([]byte, n)
	bad := 0
	for i := range rounds {
		for s.get(r, sig) != 1 {
			runtime.Gosched()
		}
		r.CopyOut(got, data)
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, n)) {
			bad++
		}
		s.set(r, sig, 0)
	}
	require.Zero(t, bad, "rounds whose data was not there when its signal was")
}

// Words side by side in the same 32 bits, each changed by its own goroutine in its own way, all end up as they should.
func TestNarrowWordsDoNotDisturbNeighbours(t *testing.T) {
	const rounds = 5000
	for name, r := range layouts(t) {
		r.Zero(page, 16)
		var wg sync.WaitGroup
		lost := make([]int, 4)
		wg.Go(func() { // a byte
			for i := range rounds {
				r.Store8(page, uint8(i))
				if !r.Load8(page).Is(uint8(i)) {
					lost[0]++
				}
			}
		})
		wg.Go(func() { // the byte beside it, bit by bit
			for i := range rounds {
				m := uint8(1) << (i % 8)
				if r.Or8(page+1, m).Bits(m) != 0 || r.And8(page+1, ^m).Bits(m) == 0 {
					lost[1]++
				}
			}
		})
		wg.Go(func() { // the two bytes after, as a counter
			for i := range rounds {
				if !r.CompareAndSwap16(page+2, uint16(i), uint16(i+1)) {
					lost[2]++
				}
			}
		})
		wg.Go(func() { // and the two after these
			for i := range rounds {
				r.Store16(page+4, uint16(i))
				if !r.Load16(page + 4).Is(uint16(i)) {
					lost[3]++
				}
			}
		})
		wg.Wait()
		require.Equal(t, make([]int, 4), lost, name)
		require.True(t, r.Load16(page+2).Is(rounds), name)
	}
}

// Counters shared by several goroutines lose no step.
func TestModifiesAreAtomic(t *testing.T) {
	const workers, rounds = 4, 2000
	r := scattered(1)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				increment(func() bool { v := r.Load16(2).Unchecked(); return r.CompareAndSwap16(2, v, v+1) })
				increment(func() bool { v := r.Load32(4).Unchecked(); return r.CompareAndSwap32(4, v, v+1) })
				increment(func() bool { v := r.Load64(8).Unchecked(); return r.CompareAndSwap64(8, v, v+1) })
			}
		})
	}
	wg.Wait()
	require.True(t, r.Load16(2).Is(workers*rounds))
	require.True(t, r.Load32(4).Is(workers*rounds))
	require.True(t, r.Load64(8).Is(workers*rounds))
}

func increment(try func() bool) {
	for !try() {
		runtime.Gosched()
	}
}

// Each of two goroutines stores its own flag and then loads the other's: sequential consistency forbids that both see nothing. This is
// what the notification of every ring relies on.
func TestStoreThenLoadIsSequentiallyConsistent(t *testing.T) {
	stores := map[string]func(r *shm.Region, off int){
		"8 bits":  func(r *shm.Region, off int) { r.Store8(off, 1) },
		"16 bits": func(r *shm.Region, off int) { r.Store16(off, 1) },
		"32 bits": func(r *shm.Region, off int) { r.Store32(off, 1) },
		"64 bits": func(r *shm.Region, off int) { r.Store64(off, 1) },
		"or":      func(r *shm.Region, off int) { r.Or8(off, 1) },
	}
	for name, store := range stores {
		r := shm.New(1)
		const rounds = 2000
		seen := [2][]bool{make([]bool, rounds), make([]bool, rounds)}
		var wg sync.WaitGroup
		for side := range 2 {
			wg.Go(func() {
				mine, theirs, turn := side*64, (1-side)*64, 1024+side*64
				for i := range rounds {
					// Both start a round together.
					r.Store32(turn, uint32(i+1))
					for r.Load32(1024+(1-side)*64).Unchecked() < uint32(i+1) {
						runtime.Gosched()
					}
					flag := 128 * (i % 8)
					store(r, mine+flag)
					seen[side][i] = !r.Load8(theirs + flag).Is(0)
					r.Zero(mine+128*((i+4)%8), 8)
				}
			})
		}
		wg.Wait()
		for i := range rounds {
			require.True(t, seen[0][i] || seen[1][i], "%s: round %d: neither side saw the other's store", name, i)
		}
	}
}
