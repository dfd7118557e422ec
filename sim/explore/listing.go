package explore

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// listing is a run, step by step, for people.
type listing struct {
	lines []line
	step  int
	old   []byte // what lay where the step under way writes
}

// line is what one party did.
type line struct {
	step int // 0 for a note
	task int // -1 for what no party did
	text string
}

// listedBytes is how many bytes of a copy are shown.
const listedBytes = 8

func (l *listing) before(t *Task, o *op) {
	l.step++
	var buf [64]byte
	if o.mem != nil {
		l.old = append(l.old[:0], peek(o.region, o.off, o.n, buf[:])...)
	}
}

func (l *listing) after(t *Task, o *op) {
	text := codeNames[o.code]
	switch {
	case o.mem != nil:
		var buf [64]byte
		now := peek(o.region, o.off, o.n, buf[:])
		text += " " + o.mem.describe(o.off, o.n)
		switch {
		case o.code == opCopyOut || o.code == opCopyIn:
			text += " " + bytesText(now, o.n)
		case o.code == opLoad:
			text += " = " + wordText(l.old)
		default:
			text += " " + wordText(l.old) + " → " + wordText(now)
		}
	case o.text != "":
		text = strings.TrimSpace(text + " " + o.text)
	}
	// Notes that the party made after its step stand below it.
	at := len(l.lines)
	for at > 0 && l.lines[at-1].step == 0 && l.lines[at-1].task == t.index {
		at--
	}
	l.lines = append(l.lines, line{})
	copy(l.lines[at+1:], l.lines[at:])
	l.lines[at] = line{l.step, t.index, text}
}

func (l *listing) note(t *Task, text string) {
	at := -1
	if t != nil {
		at = t.index
	}
	l.lines = append(l.lines, line{0, at, text})
}

func (l *listing) fault(name string) { l.lines = append(l.lines, line{0, -1, "*** " + name}) }

// wordText is a little-endian word.
func wordText(b []byte) string {
	v := uint64(0)
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	if v < 1<<16 {
		return fmt.Sprintf("%d", v)
	}
	return fmt.Sprintf("%#x", v)
}

func bytesText(b []byte, n int) string {
	if n <= listedBytes {
		return hex.EncodeToString(b)
	}
	return hex.EncodeToString(b[:min(len(b), listedBytes)]) + "…"
}

const (
	margin   = 6
	minWidth = 24
	// Of a long listing so many lines are shown at the beginning and at the end.
	listedFirst = 40
	listedLast  = 160
)

// String draws the run: time goes down, and each party has a lifeline.
func (l *listing) String(w *World) string {
	width := minWidth
	for _, e := range l.lines {
		if e.task >= 0 {
			width = max(width, utf8.RuneCountInString(e.text)+margin)
		}
	}
	var b strings.Builder
	names := strings.Repeat(" ", margin)
	for _, t := range w.tasks {
		names += pad(t.name, width)
	}
	b.WriteString(strings.TrimRight(names, " ") + "\n")
	lines := append(l.lines, lastLines(w)...)
	for i, e := range lines {
		switch left := len(lines) - listedLast; {
		case i < listedFirst || i >= left:
			l.draw(&b, e, w.tasks, width)
		case i == listedFirst:
			fmt.Fprintf(&b, "%*s... %d lines ...\n", margin, "", left-i)
		}
	}
	return b.String()
}

// lastLines say where the parties are at the end, and what went wrong.
func lastLines(w *World) []line {
	var lines []line
	for _, t := range w.tasks {
		if t.done || t.daemon {
			continue
		}
		text := "about to " + codeNames[t.next.code]
		switch t.next.code {
		case opWait, opUntil:
			text = "still waits for " + t.next.text
		case opStart, opStep:
			continue
		}
		lines = append(lines, line{0, t.index, text})
	}
	if w.failure != nil {
		first, _, _ := strings.Cut(w.failure.Text, "\n")
		lines = append(lines, line{0, -1, "*** " + w.failure.Kind.String() + ": " + first})
	}
	return lines
}

func (l *listing) draw(b *strings.Builder, e line, tasks []*Task, width int) {
	if e.task < 0 {
		fmt.Fprintf(b, "%*s%s\n", margin, "", e.text)
		return
	}
	number := ""
	if e.step > 0 {
		number = fmt.Sprintf("%*d  ", margin-2, e.step)
	}
	row := pad(number, margin)
	for i := range tasks {
		switch {
		case i != e.task:
			row += pad("│", width)
		case e.step > 0:
			row += pad("├─ "+e.text, width)
		default:
			row += pad("│    ("+e.text+")", width)
		}
	}
	b.WriteString(strings.TrimRight(row, " "))
	b.WriteByte('\n')
}

// pad fills s with spaces.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}
