package terminal

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Bytes writes a number of bytes with a binary unit and, where that is not exact, three digits: "64 KiB", "1.50 GiB".
func Bytes(n int64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	if v == math.Trunc(v) { // exact, as sizes that people choose are
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return Digits(v) + " " + units[unit]
}

var units = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// Digits writes a number with three digits, and no more of them after the point than that leaves.
func Digits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Duration writes a duration with three digits.
func Duration(d time.Duration) string {
	switch v := float64(d.Nanoseconds()); {
	case v < 1e3:
		return fmt.Sprintf("%.0f ns", v)
	case v < 1e6:
		return Digits(v/1e3) + " µs"
	case v < 1e9:
		return Digits(v/1e6) + " ms"
	default:
		return Digits(v/1e9) + " s"
	}
}

// Table prints rows in columns. The first column is left-aligned; the others are too, unless right is set.
func Table(w io.Writer, rows [][]string, right bool) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				b.WriteString(cell + pad)
			case right:
				b.WriteString("  " + pad + cell)
			default:
				b.WriteString("  " + cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}
