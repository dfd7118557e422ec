package hypercall

import "fmt"

// The commands of console_io(cmd, count, buffer) (CONSOLEIO_* in public xen.h).
const (
	ConsoleioWrite = 0
	ConsoleioRead  = 1
)

// MaxConsoleWrite is how many bytes [ConsoleWrite] gives Xen in one hypercall.
const MaxConsoleWrite = 4096

// ConsoleWrite writes p to Xen's own console, which is meant for messages of last resort: Xen must allow it (debug builds, or the
// guest_loglvl option), drops what is not printable, and keeps text back until a newline.
func ConsoleWrite(c Caller, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), MaxConsoleWrite)
		s := consoleScratch(ConsoleioWrite, n)
		copy(s.buf, p)
		_, err := c.Hypercall(&s.call)
		s.free()
		if err != nil {
			return &OpError{Op: "CONSOLEIO_write", On: fmt.Sprintf("%d bytes", n), Err: err}
		}
		p = p[n:]
	}
	return nil
}

// ConsoleRead reads what was typed on Xen's own console. It returns 0 if there is nothing.
func ConsoleRead(c Caller, p []byte) (int, error) {
	n := min(len(p), MaxConsoleWrite)
	if n == 0 {
		return 0, nil
	}
	s := consoleScratch(ConsoleioRead, n)
	defer s.free()
	clear(s.buf)
	r, err := c.Hypercall(&s.call)
	if err != nil {
		return 0, &OpError{Op: "CONSOLEIO_read", On: fmt.Sprintf("%d bytes", n), Err: err}
	}
	return copy(p, s.buf[:min(r, uint64(n))]), nil
}

func consoleScratch(cmd uint64, n int) *scratch {
	s := newScratch(NrConsoleIO, cmd, n)
	s.call.Args[1], s.call.N, s.call.Ptr = uint64(n), 3, 2
	return s
}
