package terminal

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1 KiB", 1536: "1.50 KiB", 256 << 20: "256 MiB", 1023 << 20: "1.00 GiB",
		10 << 30: "10 GiB", 1 << 62: "4 EiB",
	} {
		require.Equal(t, want, Bytes(n))
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ns", 999: "999 ns", 1234: "1.23 µs", 45678: "45.7 µs", 123456789: "123 ms", 90 * time.Second: "90.0 s",
	} {
		require.Equal(t, want, Duration(d))
	}
}

func TestLineFitsTheTerminal(t *testing.T) {
	for _, width := range []int{19, 40, 79, 100} {
		for _, done := range []int64{0, 1, 127 << 20, 256 << 20, 300 << 20} {
			for _, total := range []int64{0, 256 << 20} {
				got := line("sending", done, total, 3*time.Second, width)
				require.LessOrEqual(t, len(got), width)
			}
		}
	}
	require.Equal(t, "x [#####.....]  50% of 2 KiB 1 KiB/s", line("x", 1<<10, 2<<10, time.Second, 36))
}

func TestBarDrawsAndClears(t *testing.T) {
	var out bytes.Buffer
	b := newBar(&out, 80)
	b.Begin("work", 100)
	b.Set(50)
	b.Set(51) // too soon to be drawn
	b.Clear()
	b.Clear()
	require.Equal(t, 2, strings.Count(out.String(), "\r"))
	require.Contains(t, out.String(), " 50% of 100 B")
	require.True(t, strings.HasSuffix(out.String(), "\r\x1b[K"))
}

func TestNoBarWithoutTerminal(t *testing.T) {
	require.Nil(t, NewBar(new(bytes.Buffer)))
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer f.Close()
	require.Nil(t, NewBar(f))
	var none *Bar
	none.Begin("work", 1)
	none.Set(1)
	none.Clear()
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	Table(&out, [][]string{{"ring", "µs"}, {"1", "100"}, {"last"}}, true)
	require.Equal(t, "ring   µs\n1     100\nlast\n", out.String())
}
