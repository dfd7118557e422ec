package guest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// afterExit is how long a program's children may keep its outputs open after it has ended.
const afterExit = 2 * time.Second

// Server is the agent.
type Server struct {
	// Env is the environment of programs.
	Env []string

	windows    sync.Map // of int64 to *window
	lastWindow atomic.Int64
}

// Serve serves one connection until it ends or ctx does.
func (s *Server) Serve(ctx context.Context, conn net.Conn) error {
	if _, err := io.WriteString(conn, Ready); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", s.run)
	mux.HandleFunc("PUT /file", handle(put))
	mux.HandleFunc("GET /file", handle(get))
	mux.HandleFunc("POST /pipe", handle(pipe))
	mux.HandleFunc("POST /window", handle(s.open))
	mux.HandleFunc("POST /window/take", handle(s.take))
	mux.HandleFunc("DELETE /window", handle(s.closeWindow))
	mux.HandleFunc("PUT /window", handle(fillWindow))
	mux.HandleFunc("POST /wake", handle(wake))
	srv := &http.Server{
		Handler:     mux,
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 1 << 22},
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(newOneListener(conn))
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// handle makes a handler of a function that may fail before it has answered.
func handle(f func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			http.Error(w, err.Error(), http.StatusNotFound)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// run starts a program and sends what it writes and how it ends.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	var sp spec
	text, err := base64.StdEncoding.DecodeString(r.Header.Get(specHeader))
	if err == nil {
		err = json.Unmarshal(text, &sp)
	}
	if err != nil {
		http.Error(w, "spec: "+err.Error(), http.StatusBadRequest)
		return
	}
	out := &frameWriter{w: w, flush: func() { _ = http.NewResponseController(w).Flush() }}
	w.WriteHeader(http.StatusOK)
	out.flush()
	e := s.execute(r, &sp, out)
	p, err := json.Marshal(e)
	if err == nil {
		_ = out.write(frameExit, p)
	}
}

func (s *Server) execute(r *http.Request, sp *spec, out *frameWriter) exit {
	cmd := exec.CommandContext(r.Context(), sp.Path, sp.Args...)
	cmd.Env = append(append([]string(nil), s.Env...), sp.Env...)
	cmd.Dir = sp.Dir
	cmd.WaitDelay = afterExit
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the whole group
	var err error
	if sp.Terminal != nil {
		err = runTerminal(cmd, r.Body, stream{out, frameStdout}, *sp.Terminal)
	} else {
		cmd.Stdout, cmd.Stderr = stream{out, frameStdout}, stream{out, frameStderr}
		err = runPipes(cmd, r.Body, sp.Stdin)
	}
	return exitOf(cmd, err)
}

// exitOf says how a program ended.
func exitOf(cmd *exec.Cmd, err error) exit {
	if cmd.ProcessState == nil {
		return exit{Code: -1, Error: err.Error()}
	}
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return exit{Code: -1, Signal: unix.SignalName(status.Signal())}
	}
	return exit{Code: status.ExitStatus()}
}

// runPipes runs a program with pipes. Its end is not waited for by who copies its input, which may never end.
func runPipes(cmd *exec.Cmd, in io.Reader, hasInput bool) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !hasInput {
		return cmd.Run()
	}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(pipe, in)
		_ = pipe.Close()
	}()
	return cmd.Wait()
}

// runTerminal runs a program on a new pseudo-terminal, as the leader of a session.
func runTerminal(cmd *exec.Cmd, in io.Reader, out io.Writer, size Size) error {
	ptm, pts, err := openTerminal(size)
	if err != nil {
		return err
	}
	defer func() { _ = ptm.Close() }()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pts, pts, pts
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = pts.Close()
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(ptm, in) }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, ptm) // ends with EIO when nobody has the terminal open any more
	}()
	err = cmd.Wait()
	select {
	case <-done:
	case <-time.After(afterExit):
	}
	return err
}

func openTerminal(size Size) (ptm, pts *os.File, err error) {
	ptm, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var n int
	err = control(ptm, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return fmt.Errorf("unlock the terminal: %w", err)
		}
		ws := &unix.Winsize{Row: size.Rows, Col: size.Cols}
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws); err != nil {
			return fmt.Errorf("size of the terminal: %w", err)
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		pts, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		_ = ptm.Close()
		return nil, nil, err
	}
	return ptm, pts, nil
}

// control runs f on the descriptor of a file, which stays in the poller's hands (Fd would take it out).
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func put(_ http.ResponseWriter, r *http.Request) error {
	path := r.URL.Query().Get("path")
	mode, err := strconv.ParseUint(r.URL.Query().Get("mode"), 8, 32)
	if err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r.Body)
	return finish(f, err, path, fs.FileMode(mode))
}

// partSuffix is that of a file's name until it is whole. So a new file takes the place of an old one also where that is a program that
// runs.
const partSuffix = ".part"

// finish ends the writing of a part, which becomes the file.
func finish(f *os.File, err error, path string, mode fs.FileMode) error {
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// appendFile adds to a part, which becomes the file when there is no more.
func appendFile(path string, p []byte, mode fs.FileMode, more bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path+partSuffix, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(p)
	if err == nil && more {
		return f.Close()
	}
	return finish(f, err, path, mode)
}

func get(w http.ResponseWriter, r *http.Request) error {
	f, err := os.Open(r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// Files of /proc say that they are empty: the first read tells of an error before the reply begins.
	var first bytes.Buffer
	if _, err := io.CopyN(&first, f, 4096); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, _ = io.Copy(w, io.MultiReader(&first, f))
	return nil
}

// pipe carries bytes between the request and a device until either ends.
func pipe(w http.ResponseWriter, r *http.Request) error {
	f, err := OpenTerminal(r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	stop := context.AfterFunc(r.Context(), func() { _ = f.Close() })
	defer stop()
	go func() {
		_, _ = io.Copy(f, r.Body)
		_ = f.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return nil
			}
			_ = rc.Flush()
		}
		if err != nil {
			return nil
		}
	}
}

// wake sets the time, and mixes what the request has into the kernel's random numbers: a machine that was restored from a snapshot would
// have those of the last time again.
func wake(_ http.ResponseWriter, r *http.Request) error {
	t, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get("time"))
	if err != nil {
		return err
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the time: %w", err)
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.LimitReader(r.Body, maxSeed))
	if err == nil {
		err = unix.IoctlSetInt(int(f.Fd()), unix.RNDRESEEDCRNG, 0)
	}
	return errors.Join(err, f.Close())
}

const maxSeed = 4096
