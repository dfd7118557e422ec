package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
	"github.com/hvkit/hvkit/xen/vchan"
)

// stdioFlags say what is at this end of a connection.
type stdioFlags struct {
	Exec  string `placeholder:"COMMAND" help:"Connect this command, run by the shell, in place of standard input and output."`
	AtEOF string `name:"at-eof" enum:"auto,close,wait" default:"auto" help:"What the end of input does: ${enum} (${default})."`
}

func (f *stdioFlags) check() error {
	if f.Exec != "" && runtime.GOOS == "windows" {
		return fmt.Errorf("--exec needs a Unix shell: %w", errors.ErrUnsupported)
	}
	return nil
}

// bounded calls f, and gives up waiting for it when ctx ends: the process is about to end then, and with it the domain and all that it
// has, so that nothing remains to be taken down in order.
func bounded(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// handle moves bytes between this end and the connection, and closes it.
func (f *stdioFlags) handle(ctx context.Context, conn *vchan.Conn, flags *connFlags, s *streams) error {
	start := time.Now()
	var err error
	if f.Exec != "" {
		err = firstError(execOn(ctx, f.Exec, conn, s.err), conn.Close())
	} else {
		err = f.copyStdio(conn, s)
	}
	flags.report(s.err, conn, time.Since(start))
	return plainConnError(err)
}

// plainConnError says how a connection ended without the numbers of both ends.
func plainConnError(err error) error {
	switch {
	case errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the peer closed, or died, before it took everything (%w)", lastCause(err))
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("the peer's domain is gone (%w)", lastCause(err))
	}
	return inner(err)
}

// firstError returns the first error that is one: those that follow are its consequences.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// copied is the end of one direction.
type copied struct {
	n   int64
	err error
}

// copyStdio copies standard input to the connection and the connection to standard output, until the peer closes, or the input ends and
// that ends it. It closes the connection.
func (f *stdioFlags) copyStdio(conn *vchan.Conn, s *streams) error {
	bar := stdioBar(s)
	defer bar.Clear()
	received, sent := make(chan copied, 1), make(chan copied, 1)
	go func() {
		n, err := io.Copy(&progressWriter{w: s.out, bar: bar.of(s.out)}, conn)
		received <- copied{n, err}
	}()
	go func() {
		n, err := io.Copy(&progressWriter{w: conn, bar: bar.of(s.in)}, s.in)
		sent <- copied{n, err}
	}()
	select {
	case in := <-received: // the peer has closed, or is gone
		unsent := f.restOfInput(sent, s.in)
		return firstError(in.err, unsent, conn.Close())
	case out := <-sent:
		if out.err != nil || !f.closes(out.n, s.in) { // what the peer said before it went is still to come
			in := <-received
			return firstError(out.err, in.err, conn.Close())
		}
		err := conn.Close() // waits until the peer has read all; what it says meanwhile is not heard
		if in := <-received; !errors.Is(in.err, net.ErrClosed) {
			err = firstError(in.err, err)
		}
		return err
	}
}

// unsentGrace is how long a sender that the peer's close finds in the middle of a write may take to notice.
const unsentGrace = 50 * time.Millisecond

// restOfInput returns the error of input that the peer, which has closed, did not take. A file is tried to its end. Of a pipe or a
// terminal, which may have nothing to say for long, only what is being sent counts.
func (f *stdioFlags) restOfInput(sent <-chan copied, in io.Reader) error {
	if isRegular(in) {
		return (<-sent).err
	}
	timer := time.NewTimer(unsentGrace)
	defer timer.Stop()
	select {
	case out := <-sent:
		return out.err
	case <-timer.C:
		return nil
	}
}

// closes reports whether the end of the input ends the connection.
func (f *stdioFlags) closes(n int64, in io.Reader) bool {
	return f.AtEOF == "close" || f.AtEOF == "auto" && (n > 0 || isRegular(in))
}

func isRegular(v any) bool {
	_, ok := regularSize(v)
	return ok
}

// regularSize returns how long the file v is, if it is one.
func regularSize(v any) (int64, bool) {
	file, ok := plain(v).(*os.File)
	if !ok {
		return 0, false
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// transferBar is the progress bar of a copy from or to a file, on standard error.
type transferBar struct {
	*terminal.Bar
	file any // standard input or output, the one that is the file
}

// stdioBar shows progress where a file is sent or received, standard error is a terminal, and the other end is not: what is typed and
// read there would be spoilt.
func stdioBar(s *streams) *transferBar {
	_, inTTY := terminal.Columns(s.in)
	_, outTTY := terminal.Columns(plain(s.out))
	size, isFile := regularSize(s.in)
	switch {
	case isFile && size > 0:
		b := &transferBar{terminal.NewBar(s.err), s.in}
		if !outTTY || size > 1<<20 {
			b.Begin("sending", size)
			return b
		}
	case isRegular(s.out) && !inTTY, isRegular(s.out) && inTTY:
		b := &transferBar{terminal.NewBar(s.err), s.out}
		b.Begin("receiving", 0)
		return b
	}
	return &transferBar{}
}

// of returns the bar for the copy that has the file at one end, and none for the other copy.
func (b *transferBar) of(v any) *terminal.Bar {
	if b.file == nil || b.file != v {
		return nil
	}
	return b.Bar
}

// progressWriter shows how much was written.
type progressWriter struct {
	w   io.Writer
	n   int64
	bar *terminal.Bar
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.n += int64(n)
	p.bar.Set(p.n)
	return n, err
}

// execOn runs a command with its standard input and output on the connection, until it ends. A peer that breaks off ends the command.
func execOn(ctx context.Context, command string, conn *vchan.Conn, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), "HVKIT_PEER="+peerNumber(conn))
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	from := &brokenReader{r: conn}
	go func() { // ends with the connection, which the caller closes
		io.Copy(in, from)
		if from.broken() != nil {
			cmd.Process.Kill() // before the input ends, which the shell would take for all that there is
			out.Close()        // what the command has started may have it open still
		}
		in.Close()
	}()
	_, err = io.Copy(conn, out)
	if err != nil {
		out.Close() // so that a command which goes on writing to a peer that has gone ends
	}
	waitErr := cmd.Wait()
	if broken := from.broken(); broken != nil {
		return broken
	}
	if waitErr != nil && err == nil {
		err = fmt.Errorf("%s: %w", command, waitErr)
	}
	return err
}

// brokenReader remembers an error of its reader that is not the end.
type brokenReader struct {
	r   io.Reader
	err atomic.Pointer[error]
}

func (b *brokenReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, net.ErrClosed) {
		b.err.Store(&err)
	}
	return n, err
}

func (b *brokenReader) broken() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

func peerNumber(conn *vchan.Conn) string {
	if a, ok := conn.RemoteAddr().(vchan.Addr); ok {
		return strconv.Itoa(int(a.Dom))
	}
	return ""
}
