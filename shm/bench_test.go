package shm_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hvkit/hvkit/shm"
)

// What each access costs, and how many times that of the plain operation it stands for. Both are measured in turns in the same run, so
// that the ratio means something on a busy machine:
//
//	go test ./shm -run '^$' -bench .

var sink uint64

// against runs n rounds of access, reports its time, and the ratio of the fastest of several turns of either function. The functions
// loop by themselves, so that a call through a pointer is not what is measured.
func against(b *testing.B, access, plain func(n int)) {
	b.Helper()
	b.ReportAllocs()
	const turns = 20
	n := 1
	for clock(access, n) < 200*time.Microsecond {
		n *= 2
	}
	a, p := time.Duration(1<<62), time.Duration(1<<62)
	for range turns {
		a, p = min(a, clock(access, n)), min(p, clock(plain, n))
	}
	for b.Loop() {
		access(1)
	}
	b.ReportMetric(float64(a)/float64(n), "access-ns")
	b.ReportMetric(float64(p)/float64(n), "plain-ns")
	b.ReportMetric(float64(a)/float64(max(p, 1)), "ratio")
}

func clock(f func(n int), n int) time.Duration {
	start := time.Now()
	f(n)
	return time.Since(start)
}

func BenchmarkWords(b *testing.B) {
	r := shm.New(1)
	words := make([]uint64, 512)
	w32 := new([1024]uint32)
	b.Run("Load8", func(b *testing.B) {
		against(b, func(n int) {
			for range n {
				sink += uint64(r.Load8(65).Unchecked())
			}
		}, func(n int) {
			for range n {
				sink += uint64(atomic.LoadUint32(&w32[16]))
			}
		})
	})
	b.Run("Load16", func(b *testing.B) {
		against(b, func(n int) {
			for range n {
				sink += uint64(r.Load16(66).Unchecked())
			}
		}, func(n int) {
			for range n {
				sink += uint64(atomic.LoadUint32(&w32[16]))
			}
		})
	})
	b.Run("Load32", func(b *testing.B) {
		against(b, func(n int) {
			for range n {
				sink += uint64(r.Load32(64).Unchecked())
			}
		}, func(n int) {
			for range n {
				sink += uint64(atomic.LoadUint32(&w32[16]))
			}
		})
	})
	b.Run("Load64", func(b *testing.B) {
		against(b, func(n int) {
			for range n {
				sink += r.Load64(64).Unchecked()
			}
		}, func(n int) {
			for range n {
				sink += atomic.LoadUint64(&words[8])
			}
		})
	})
	b.Run("Load32Observed", func(b *testing.B) {
		seen := shm.New(1)
		seen.Observe(observer(func(shm.Access) {}))
		against(b, func(n int) {
			for range n {
				sink += uint64(seen.Load32(64).Unchecked())
			}
		}, func(n int) {
			for range n {
				sink += uint64(r.Load32(64).Unchecked())
			}
		})
	})
	b.Run("Store8", func(b *testing.B) {
		against(b, func(n int) {
			for i := range n {
				r.Store8(65, uint8(i))
			}
		}, func(n int) {
			for i := range n {
				atomic.StoreUint32(&w32[16], uint32(i))
			}
		})
	})
	b.Run("Store16", func(b *testing.B) {
		against(b, func(n int) {
			for i := range n {
				r.Store16(66, uint16(i))
			}
		}, func(n int) {
			for i := range n {
				atomic.StoreUint32(&w32[16], uint32(i))
			}
		})
	})
	b.Run("Store32", func(b *testing.B) {
		against(b, func(n int) {
			for i := range n {
				r.Store32(64, uint32(i))
			}
		}, func(n int) {
			for i := range n {
				atomic.StoreUint32(&w32[16], uint32(i))
			}
		})
	})
	b.Run("Store64", func(b *testing.B) {
		against(b, func(n int) {
			for i := range n {
				r.Store64(64, uint64(i))
			}
		}, func(n int) {
			for i := range n {
				atomic.StoreUint64(&words[8], uint64(i))
			}
		})
	})
	b.Run("Or8", func(b *testing.B) {
		against(b, func(n int) {
			for range n {
				sink += uint64(r.Or8(65, 1).Unchecked())
			}
		}, func(n int) {
			for range n {
				sink += uint64(atomic.OrUint32(&w32[16], 1))
			}
		})
	})
	b.Run("CompareAndSwap16", func(b *testing.B) {
		r.Store16(66, 0)
		against(b, func(n int) {
			for range n {
				r.CompareAndSwap16(66, 0, 0)
			}
		}, func(n int) {
			for range n {
				atomic.CompareAndSwapUint32(&w32[17], 0, 0)
			}
		})
	})
}

func BenchmarkCopies(b *testing.B) {
	const pages = 17
	for _, layout := range []struct {
		name string
		r    *shm.Region
	}{{"flat", shm.New(pages)}, {"scattered", scattered(pages)}} {
		r := layout.r
		for _, size := range []int{64, 4 << 10, 64 << 10} {
			const off = 128
			buf, plain := make([]byte, size), make([]byte, pages*page)
			b.Run(fmt.Sprintf("CopyIn/%s/%d", layout.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				against(b, func(n int) {
					for range n {
						r.CopyIn(off, buf)
					}
				}, func(n int) {
					for range n {
						copy(plain[off:], buf)
					}
				})
			})
			b.Run(fmt.Sprintf("CopyOut/%s/%d", layout.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				against(b, func(n int) {
					for range n {
						r.CopyOut(buf, off)
					}
				}, func(n int) {
					for range n {
						copy(buf, plain[off:])
					}
				})
			})
		}
	}
}
