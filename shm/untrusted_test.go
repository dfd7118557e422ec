package shm_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hvkit/hvkit/shm"
)

func TestUntrusted(t *testing.T) {
	u := shm.FromPeer[uint16](300)
	v, err := u.AtMost(300)
	require.NoError(t, err)
	require.EqualValues(t, 300, v)
	_, err = u.AtMost(299)
	require.Equal(t, &shm.RangeError{Value: 300, Min: 0, Max: 299}, err)
	require.EqualError(t, err, "value 300 (0x12c) is not between 0 and 299")
	v, err = u.Between(300, 300)
	require.NoError(t, err)
	require.EqualValues(t, 300, v)
	v, err = u.Between(301, math.MaxUint16)
	require.Error(t, err)
	require.Zero(t, v, "a refused value came out")
	require.EqualValues(t, 0x12c&0xf0, u.Bits(0xf0))
	require.True(t, u.Is(300))
	require.False(t, u.Is(301))
	require.Equal(t, "300", fmt.Sprint(u))
}

func TestAhead(t *testing.T) {
	for _, c := range []struct {
		value, base, max uint32
		ahead            uint32
		ok               bool
	}{
		{10, 10, 0, 0, true}, {11, 10, 0, 0, false}, {12, 10, 2, 2, true}, {13, 10, 2, 0, false},
		{3, math.MaxUint32 - 1, 8, 5, true},                  // the counter went round
		{9, 10, 100, 0, false},                               // behind is very far ahead
		{0x8000_0000, 0x7fff_ffff, 1, 1, true},               // the sign bit means nothing
		{math.MaxUint32, 0, math.MaxUint32, 1<<32 - 1, true}, // every distance is allowed
	} {
		d, err := shm.FromPeer(c.value).Ahead(c.base, c.max)
		require.Equal(t, c.ok, err == nil, "%+v", c)
		require.Equal(t, c.ahead, d, "%+v", c)
	}
}

// What a check lets through is in the range that was asked for, whatever the peer wrote.
func TestChecksHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, lo, hi := rapid.Uint64().Draw(t, "value"), rapid.Uint64().Draw(t, "min"), rapid.Uint64().Draw(t, "max")
		u := shm.FromPeer(x)
		if v, err := u.Between(lo, hi); err == nil && (v != x || v < lo || v > hi) {
			t.Fatalf("Between(%d, %d) let %d through as %d", lo, hi, x, v)
		}
		if d, err := u.Ahead(lo, hi); err == nil && (d > hi || lo+d != x) {
			t.Fatalf("Ahead(%d, %d) of %d is %d", lo, hi, x, d)
		}
		if u.Bits(hi)&^hi != 0 {
			t.Fatalf("Bits(%#x) of %#x is %#x", hi, x, u.Bits(hi))
		}
	})
}
