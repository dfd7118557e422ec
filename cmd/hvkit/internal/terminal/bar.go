package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	redraw     = 100 * time.Millisecond // between two drawings
	maxColumns = 100
	minColumns = 20
)

// Columns returns how wide the terminal behind w is. ok is false where w is no terminal.
func Columns(w any) (n int, ok bool) {
	f, isFile := w.(*os.File)
	if !isFile {
		return 0, false
	}
	n, ok = columns(f)
	if ok && n < minColumns {
		n = 80 // some terminals do not know their size
	}
	return n, ok
}

// Bar shows how far a long work is, in one line of a terminal that is drawn again and again. A nil *Bar shows nothing. It is safe for
// concurrent use.
type Bar struct {
	mu sync.Mutex
	// +checklocks:mu
	w io.Writer
	// +checklocks:mu
	width int
	// +checklocks:mu
	label string
	// +checklocks:mu
	total int64
	// +checklocks:mu
	drawn time.Time
	// +checklocks:mu
	start time.Time
}

// NewBar returns a bar on w, or nil where w is no terminal.
func NewBar(w io.Writer) *Bar {
	n, ok := Columns(w)
	if !ok {
		return nil
	}
	return newBar(w, n)
}

func newBar(w io.Writer, columns int) *Bar {
	return &Bar{w: w, width: min(columns-1, maxColumns)} // a full last column would break the line
}

// Begin starts a work of total bytes; 0 stands for an unknown number.
func (b *Bar) Begin(label string, total int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.label, b.total, b.start, b.drawn = label, total, time.Now(), time.Time{}
}

// Set shows that done bytes of the work are done.
func (b *Bar) Set(done int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.drawn) < redraw {
		return
	}
	b.drawn = now
	io.WriteString(b.w, "\r"+line(b.label, done, b.total, now.Sub(b.start), b.width)+"\x1b[K")
}

// Clear removes the bar, so that other things can be printed.
func (b *Bar) Clear() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.drawn.IsZero() {
		io.WriteString(b.w, "\r\x1b[K")
		b.drawn = time.Time{}
	}
}

// line draws the bar in at most width columns.
func line(label string, done, total int64, took time.Duration, width int) string {
	right := fmt.Sprintf(" %s", Bytes(done))
	if total > 0 {
		right = fmt.Sprintf(" %3d%% of %s", min(100, done*100/total), Bytes(total))
	}
	if s := took.Seconds(); s > 0.05 {
		right += fmt.Sprintf(" %s/s", Bytes(int64(float64(done)/s)))
	}
	bar := width - len(label) - len(right) - 3
	if total <= 0 || bar < 5 {
		text := label + right
		return text[:min(len(text), width)]
	}
	full := int(int64(bar) * min(done, total) / total)
	return label + " [" + strings.Repeat("#", full) + strings.Repeat(".", bar-full) + "]" + right
}
