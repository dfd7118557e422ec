package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patient is how long a test waits for what should happen soon.
const patient = 20 * time.Second

// connect returns a client of an agent in this process. between may change the agent's end of the connection.
func connect(t *testing.T, cfg *ClientConfig, between func(net.Conn) net.Conn) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	a, b := socketPair(t)
	if between != nil {
		b = between(b)
	}
	served := make(chan error, 1)
	go func() {
		s := &Server{Env: []string{"PATH=" + os.Getenv("PATH"), "FROM=agent"}}
		_, err := io.WriteString(b, "[    1.0] a kernel says something\r\n=== hvkit\r\n")
		served <- errors.Join(err, s.Serve(context.Background(), b))
	}()
	conn, err := Await(ctx, a)
	require.NoError(t, err)
	c := NewClient(conn, cfg)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, <-served)
	})
	return c
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(f)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	return conns[0], conns[1]
}

func TestRun(t *testing.T) {
	c := connect(t, nil, nil)
	var out, errs bytes.Buffer
	require.NoError(t, c.Run(t.Context(), &Cmd{
		Path: "sh", Args: []string{"-c", `cat; echo "$0 $FROM $OWN $PWD"; echo wrong >&2`, "a b"}, Env: []string{"OWN=mine"}, Dir: "/usr",
		Stdin: strings.NewReader("input\n"), Stdout: &out, Stderr: &errs,
	}))
	require.Equal(t, "input\na b agent mine /usr\n", out.String())
	require.Equal(t, "wrong\n", errs.String())

	require.NoError(t, c.Run(t.Context(), &Cmd{Path: "cat"}), "no input is an empty one")

	got, err := c.Output(t.Context(), "sh", "-c", "echo ' x '; echo reason >&2; exit 3")
	require.Equal(t, "x", got)
	require.Equal(t, ExitError{Path: "sh", Code: 3}, *exitError(t, err))
	require.ErrorContains(t, err, "reason")

	_, err = c.Output(t.Context(), "sh", "-c", "kill -SEGV $$")
	require.Equal(t, ExitError{Path: "sh", Code: -1, Signal: "SIGSEGV"}, *exitError(t, err))

	_, err = c.Output(t.Context(), "/no/such/program")
	require.ErrorContains(t, err, "no such file")
}

func exitError(t *testing.T, err error) *ExitError {
	t.Helper()
	var e *ExitError
	require.ErrorAs(t, err, &e)
	return e
}

// Long outputs come whole and in order, while other programs run.
func TestLongOutputs(t *testing.T) {
	c := connect(t, nil, nil)
	const lines = 200_000
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			sum, want := sha256.New(), sha256.New()
			for i := range lines {
				fmt.Fprintln(want, i+1)
			}
			err := c.Run(t.Context(), &Cmd{Path: "seq", Args: []string{strconv.Itoa(lines)}, Stdout: sum})
			if err == nil && !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
				err = errors.New("the output is not what was written")
			}
			done <- err
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
}

// A program that is not wanted any more is killed, with its children.
func TestCancelKillsChildren(t *testing.T) {
	c := connect(t, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(ctx, &Cmd{Path: "sh", Args: []string{"-c", "sleep 1000 & echo $!; wait"}, Stdout: w})
	}()
	buf := make([]byte, 32)
	n, err := r.Read(buf)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return !alive(pid) }, patient, time.Millisecond)
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

// A program that ends is not waited for by its input, nor by a child that keeps its outputs open.
func TestEndIsNotHeldUp(t *testing.T) {
	c := connect(t, nil, nil)
	in, never := io.Pipe()
	defer never.Close()
	var out bytes.Buffer
	err := c.Run(t.Context(), &Cmd{Path: "sh", Args: []string{"-c", "sleep 1000 & echo $!"}, Stdin: in, Stdout: &out})
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestTerminal(t *testing.T) {
	if _, err := os.Stat("/dev/ptmx"); err != nil {
		t.Skip("this system has no pseudo-terminals: ", err)
	}
	c := connect(t, nil, nil)
	var out bytes.Buffer
	err := c.Run(t.Context(), &Cmd{
		Path: "sh", Args: []string{"-c", "stty size; tty; exit 4"}, Stdout: &out, Terminal: &Size{Rows: 24, Cols: 99},
	})
	require.Equal(t, 4, exitError(t, err).Code)
	require.Regexp(t, "^24 99\r\n/dev/pts/[0-9]+\r\n$", out.String())
}

func TestFiles(t *testing.T) {
	c := connect(t, nil, nil)
	path := filepath.Join(t.TempDir(), "a", "b", "file")
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	require.NoError(t, c.Put(t.Context(), path, 0o750, bytes.NewReader(data)))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o750), info.Mode())
	r, err := c.Get(t.Context(), path)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.True(t, bytes.Equal(data, got))

	_, err = c.Get(t.Context(), path+".none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = c.Get(t.Context(), filepath.Dir(path))
	require.ErrorContains(t, err, "is a directory")
	require.Error(t, c.Put(t.Context(), path+"/below", 0o600, strings.NewReader("")))

	// A program that runs is replaced, and goes on.
	sleep, err := exec.LookPath("sleep")
	require.NoError(t, err)
	text, err := os.ReadFile(sleep)
	require.NoError(t, err)
	require.NoError(t, c.Put(t.Context(), path, 0o755, bytes.NewReader(text)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, &Cmd{Path: path, Args: []string{"1000"}}) }()
	require.Eventually(t, func() bool {
		exes, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, e := range exes {
			if to, _ := os.Readlink(e); to == path {
				return true
			}
		}
		return false
	}, patient, time.Millisecond)
	require.NoError(t, c.Put(t.Context(), path, 0o755, strings.NewReader("#!/bin/sh\n")))
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "parts are not left")
}

func TestPipe(t *testing.T) {
	ptm, pts, err := openTerminal(Size{24, 80})
	if err != nil {
		t.Skip("this system has no pseudo-terminals: ", err)
	}
	defer ptm.Close()
	defer pts.Close()
	c := connect(t, nil, nil)
	conn, err := c.Pipe(t.Context(), pts.Name())
	require.NoError(t, err)
	all := make([]byte, 256) // each byte passes unchanged, ^C and line ends too
	for i := range all {
		all[i] = byte(i)
	}
	got := make([]byte, len(all))
	_, err = conn.Write(all)
	require.NoError(t, err)
	_, err = io.ReadFull(ptm, got)
	require.NoError(t, err)
	require.Equal(t, all, got)
	_, err = ptm.Write(all)
	require.NoError(t, err)
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, all, got)
	require.NoError(t, conn.Close())
	_, err = conn.Read(got)
	require.Error(t, err)

	_, err = c.Pipe(t.Context(), "/dev/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// hvcConn's other end: what hvc_poll does with input.
type hvcInput struct {
	net.Conn
	sysrq    bool
	requests []byte
}

func (h *hvcInput) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	out := p[:0]
	for _, b := range p[:n] {
		switch {
		case b == 0x0f:
			if h.sysrq = !h.sysrq; h.sysrq {
				continue
			}
		case h.sysrq:
			h.requests = append(h.requests, b)
			h.sysrq = false
			continue
		}
		out = append(out, b)
	}
	if len(out) == 0 && err == nil {
		return h.Read(p)
	}
	return len(out), err
}

// A console takes ^O for the beginning of a magic system request.
func TestConsoleInput(t *testing.T) {
	var console *hvcInput
	c := connect(t, &ClientConfig{Console: true}, func(b net.Conn) net.Conn {
		console = &hvcInput{Conn: b}
		return console
	})
	path := filepath.Join(t.TempDir(), "file")
	data := bytes.Repeat([]byte("\x0fb\x0f\x0f\x0fc\n"), 1000)
	require.NoError(t, c.Put(t.Context(), path, 0o600, bytes.NewReader(data)))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Empty(t, console.requests)
}

// When the connection ends, so does what was started over it.
func TestCloseEndsPrograms(t *testing.T) {
	c := connect(t, nil, nil)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Run(t.Context(), &Cmd{Path: "sh", Args: []string{"-c", "echo $$; exec sleep 1000"}, Stdout: w})
	}()
	buf := make([]byte, 32)
	n, err := r.Read(buf)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Error(t, <-ended)
	require.Eventually(t, func() bool { return !alive(pid) }, patient, time.Millisecond)
}
