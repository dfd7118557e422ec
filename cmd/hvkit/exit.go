package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNobody      = 3 // no host, or no Xenstore, to talk to
	exitUnsupported = 4
	exitSignal      = 128 // and the signal's number
)

// interrupt is why a context ended: a signal.
type interrupt struct{ sig os.Signal }

func (i *interrupt) Error() string { return i.sig.String() }

// code returns 128 and the signal's number, as shells have it.
func (i *interrupt) code() int {
	if n, ok := i.sig.(syscall.Signal); ok {
		return exitSignal + int(n)
	}
	return exitFailure
}

// usageError is a command line that the parser could not find wrong.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// nobodyError says that there is no host, or no Xenstore, to talk to.
type nobodyError struct {
	text string
	err  error
}

func (e *nobodyError) Error() string { return e.text + ": " + e.err.Error() }
func (e *nobodyError) Unwrap() error { return e.err }

// errSilent is a failure of which everything was said already.
var errSilent = errors.New("failed")

// fail prints why a command failed, in one line, and returns the exit code. Being interrupted needs no words.
func fail(ctx context.Context, w io.Writer, command string, err error) int {
	if i, ok := errors.AsType[*interrupt](context.Cause(ctx)); ok {
		return i.code()
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(w, failureLine(command, err))
	}
	switch {
	case isType[*usageError](err):
		return exitUsage
	case isType[*nobodyError](err):
		return exitNobody
	case errors.Is(err, errors.ErrUnsupported):
		return exitUnsupported
	}
	return exitFailure
}

// failureLine names the command and says what happened, without repeating what the errors of this module begin with:
// "hvkit: xenstore read /tool: ENOENT", for an error that reads "xenstore: read /tool: ENOENT".
func failureLine(command string, err error) string {
	text := oneLine(err)
	for _, pkg := range []string{"xen: ", "xenstore: ", "xenstored: ", "sim: "} {
		text = strings.TrimPrefix(text, pkg)
	}
	verb := command[strings.LastIndexByte(command, ' ')+1:]
	if rest, ok := strings.CutPrefix(text, verb+" "); ok {
		return "hvkit: " + command + " " + rest
	}
	return "hvkit: " + command + ": " + text
}

func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// oneLine returns the error's text without line breaks and without control characters, which may come from a peer.
func oneLine(err error) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7f:
			return '?'
		}
		return r
	}, strings.ReplaceAll(err.Error(), "\n", "; "))
}
