package evtchn

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

var abis = []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64}

// forEachABI runs a test on each layout of shared_info.
func forEachABI(t *testing.T, test func(t *testing.T, abi hypercall.ABI)) {
	for _, abi := range abis {
		t.Run(abi.String(), func(t *testing.T) { test(t, abi) })
	}
}

func newCore(t require.TestingT, x *fakeXen) *TwoLevel {
	c, err := NewTwoLevel(x.abi, x.info, 1)
	require.NoError(t, err)
	return c
}

// drain scans as long as there is something, and returns what arrived.
func drain(c *TwoLevel) (ports []hypercall.Port) {
	for c.Begin() {
		for p, ok := c.Next(); ok; p, ok = c.Next() {
			ports = append(ports, p)
		}
	}
	return ports
}

func TestTwoLevelBounds(t *testing.T) {
	x := newFakeXen(hypercall.X86_64)
	_, err := NewTwoLevel(x.abi, nil, 1)
	require.Error(t, err)
	_, err = NewTwoLevel(x.abi, x.info.ReadOnly(), 1)
	require.Error(t, err)
	_, err = NewTwoLevel(x.abi, x.info, 33)
	require.Error(t, err)
	_, err = NewTwoLevel(x.abi, x.info, 0)
	require.Error(t, err)
	_, err = NewTwoLevel(hypercall.ARM64, x.info, 2)
	require.Error(t, err)
}

func TestTwoLevelEveryPort(t *testing.T) {
	forEachABI(t, func(t *testing.T, abi hypercall.ABI) {
		x := newFakeXen(abi)
		c := newCore(t, x)
		require.Equal(t, map[bool]int{true: 1024, false: 4096}[abi == hypercall.X86_32], c.Ports())
		for p := range c.Ports() {
			require.Equal(t, p == 0, x.pend(hypercall.Port(p)), "port %d interrupts", p)
		}
		got := drain(c)
		require.Len(t, got, c.Ports())
		for i, p := range got {
			require.Equal(t, hypercall.Port(i), p)
		}
		require.Empty(t, drain(c))
		for p := range c.Ports() {
			require.False(t, c.Pending(hypercall.Port(p)))
		}
	})
}

// A scan begins after the port where the last one ended, so that low ports are not always first.
func TestTwoLevelRotates(t *testing.T) {
	forEachABI(t, func(t *testing.T, abi hypercall.ABI) {
		x := newFakeXen(abi)
		c := newCore(t, x)
		x.pend(70)
		require.Equal(t, []hypercall.Port{70}, drain(c))
		for _, p := range []hypercall.Port{1, 69, 70, 71, 200, 900} {
			x.pend(p)
		}
		require.Equal(t, []hypercall.Port{71, 200, 900, 1, 69, 70}, drain(c))
	})
}

func TestTwoLevelUnfinishedScan(t *testing.T) {
	x := newFakeXen(hypercall.X86_64)
	c := newCore(t, x)
	x.pend(70)
	drain(c)
	want := map[hypercall.Port]bool{}
	for _, p := range []hypercall.Port{64, 69, 70, 71, 72, 128, 4095} {
		x.pend(p)
		want[p] = true
	}
	for range 7 { // each scan is given up after one port
		require.True(t, c.Begin())
		p, ok := c.Next()
		require.True(t, ok)
		require.True(t, want[p], "port %d", p)
		delete(want, p)
	}
	require.Empty(t, want)
	require.Empty(t, drain(c))
}

// E-08: an event that came while the port was masked is delivered when it is unmasked, wherever in Unmask it comes.
func TestE08_PendingWhileMasked(t *testing.T) {
	forEachABI(t, func(t *testing.T, abi hypercall.ABI) {
		for at := range 12 {
			x := newFakeXen(abi)
			c := newCore(t, x)
			c.MaskAll()
			// The event comes before the at-th access of what follows.
			x.info.Observe(&injector{x: x, at: at, port: 77})
			if c.Unmask(77) {
				x.unmask(77)
			}
			got := drain(c)
			x.info.Observe(nil)
			if len(got) == 0 {
				x.pend(77) // what follows had fewer accesses
				got = drain(c)
			}
			require.Contains(t, got, hypercall.Port(77), "event before access %d", at)
			require.False(t, c.Masked(77))
		}
	})
}

// injector has an event come before a certain access to shared_info.
type injector struct {
	x       *fakeXen
	at, n   int
	port    hypercall.Port
	running bool
}

func (i *injector) BeforeAccess(shm.Access) {
	if i.running {
		return
	}
	if i.n == i.at {
		i.running = true
		i.x.pend(i.port)
		i.running = false
	}
	i.n++
}

// E-07: an event that comes anywhere in a scan, for the same port, for another of its word or of another word, is seen by that scan or
// interrupts for another.
func TestE07_EventDuringScan(t *testing.T) {
	forEachABI(t, func(t *testing.T, abi hypercall.ABI) {
		for _, port := range []hypercall.Port{5, 6, 200} {
			for at := range 16 {
				x := newFakeXen(abi)
				c := newCore(t, x)
				x.pend(5)
				x.info.Observe(&injector{x: x, at: at, port: port})
				var got []hypercall.Port
				for x.info.Load8(x.layout.UpcallPending).Unchecked() != 0 { // Xen interrupts while this is set
					c.Begin()
					for p, ok := c.Next(); ok; p, ok = c.Next() {
						got = append(got, p)
					}
				}
				x.info.Observe(nil)
				require.NotEmpty(t, got)
				require.False(t, c.Pending(port), "event at port %d before access %d is left behind", port, at)
			}
		}
	})
}

// The bitmaps against a model: whatever is done in whatever order, no event is lost and none is made up.
func TestTwoLevelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		abi := rapid.SampledFrom(abis).Draw(t, "abi")
		x := newFakeXen(abi)
		c := newCore(t, x)
		// Few ports, in words that share and in words that do not, so that they meet.
		port := rapid.SampledFrom([]hypercall.Port{1, 2, 31, 32, 63, 64, 65, 1000, 1023})
		owed := map[hypercall.Port]bool{}
		masked := map[hypercall.Port]bool{}
		interrupted := false
		t.Repeat(map[string]func(*rapid.T){
			"event": func(t *rapid.T) {
				p := port.Draw(t, "port")
				owed[p] = true
				interrupted = x.pend(p) || interrupted
			},
			"mask": func(t *rapid.T) {
				p := port.Draw(t, "port")
				c.Mask(p)
				masked[p] = true
			},
			"unmask": func(t *rapid.T) {
				p := port.Draw(t, "port")
				if c.Unmask(p) {
					interrupted = x.unmask(p) || interrupted
				}
				masked[p] = false
			},
			"drop": func(t *rapid.T) {
				p := port.Draw(t, "port")
				require.Equal(t, owed[p], c.ClearPending(p))
				owed[p] = false
			},
			"scan some": func(t *rapid.T) {
				if !interrupted {
					return
				}
				c.Begin()
				for range rapid.IntRange(0, 3).Draw(t, "ports") {
					p, ok := c.Next()
					if !ok {
						interrupted = x.info.Load8(x.layout.UpcallPending).Unchecked() != 0
						break
					}
					require.True(t, owed[p], "port %d arrived twice", p)
					owed[p] = false
				}
			},
			"": func(t *rapid.T) {
				for p, want := range owed {
					require.Equal(t, want, c.Pending(p), "port %d", p)
				}
				for p, want := range masked {
					require.Equal(t, want, c.Masked(p), "port %d", p)
				}
			},
		})
		// Unmask all, as a guest does, and take in what Xen tells of.
		for p := range masked {
			if c.Unmask(p) {
				interrupted = x.unmask(p) || interrupted
			}
		}
		if interrupted {
			for _, p := range drain(c) {
				require.True(t, owed[p])
				owed[p] = false
			}
		}
		for p, left := range owed {
			require.False(t, left, "event of port %d was lost", p)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("%d_events", n), func(b *testing.B) {
			x := newFakeXen(hypercall.X86_64)
			c := newCore(b, x)
			b.ReportAllocs()
			for b.Loop() {
				for i := range n {
					x.pend(hypercall.Port(1 + i*61))
				}
				for c.Begin() {
					for _, ok := c.Next(); ok; _, ok = c.Next() {
					}
				}
			}
		})
	}
}
