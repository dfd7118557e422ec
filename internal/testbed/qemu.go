package testbed

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// emulator is how QEMU is started: the words before its arguments, and the environment.
type emulator struct {
	words []string
	env   []string
}

// findEmulator finds QEMU on this machine, or fetches it. One from the cache runs with its own libraries and its own loader, so it needs
// no installation, no root, and not this machine's C library.
func (c *Cache) findEmulator(ctx context.Context, program string, log io.Writer) (*emulator, error) {
	if p, err := exec.LookPath(program); err == nil {
		return &emulator{words: []string{p}}, nil
	}
	tree, err := c.tree(ctx, emulators(), log)
	if err != nil {
		return nil, &MissingError{program + " is neither installed nor to be fetched", "apt-get install qemu-system-x86 qemu-system-arm", err}
	}
	loader, err := one(tree, "lib*/ld-linux-*.so.*")
	if err != nil {
		loader, err = one(tree, "lib/*/ld-linux-*.so.*")
	}
	if err != nil {
		return nil, err
	}
	var path string
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*"} {
		dirs, err := match(tree, pattern)
		if err != nil {
			continue
		}
		for _, d := range dirs {
			path += filepath.Join(tree, d) + ":"
		}
	}
	e := &emulator{words: []string{
		filepath.Join(tree, loader), "--library-path", path, filepath.Join(tree, "usr/bin", program),
		"-L", filepath.Join(tree, "usr/share/qemu"), "-L", filepath.Join(tree, "usr/share/seabios"),
	}}
	if modules, err := one(tree, "usr/lib/*/qemu"); err == nil {
		e.env = []string{"QEMU_MODULE_DIR=" + filepath.Join(tree, modules)}
	}
	return e, nil
}

// process is a running QEMU.
type process struct {
	cmd    *exec.Cmd
	stderr *tail
	done   chan struct{}
	err    error // how it ended; valid once done is closed
}

// start starts QEMU with the sockets as its descriptors 3, 4 and so on. It dies with this process, and when ctx ends.
func (e *emulator) start(ctx context.Context, args []string, sockets []*os.File) (*process, error) {
	words := append(append([]string(nil), e.words...), args...)
	p := &process{cmd: exec.CommandContext(ctx, words[0], words[1:]...), stderr: newTail(16 << 10), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), e.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stderr, p.stderr
	p.cmd.ExtraFiles = sockets
	dieWithParent(p.cmd)
	p.cmd.WaitDelay = 5 * time.Second
	started := make(chan error, 1)
	go func() {
		// The kernel sends the signal of Pdeathsig when the thread ends that started the process. This one stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("testbed: start QEMU: %w", err)
	}
	return p, nil
}

// kill ends it and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// socketPairs returns n connections, and the other ends of them for a child.
func socketPairs(n int) (ours []net.Conn, theirs []*os.File, err error) {
	for range n {
		a, b, err := socketPair()
		if err != nil {
			closeAll(theirs)
			for _, c := range ours {
				_ = c.Close()
			}
			return nil, nil, err
		}
		ours, theirs = append(ours, a), append(theirs, b)
	}
	return ours, theirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu sync.Mutex
	// +checklocks:mu
	buf []byte
	max int
}

func newTail(limit int) *tail { return &tail{max: limit} }

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - t.max; extra > t.max { // seldom, so that appending is cheap
		t.buf = append([]byte(nil), t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf[max(0, len(t.buf)-t.max):])
}
