package shm

import (
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxRuns bounds how many runs of bytes one readv or writev names: IOV_MAX of linux/uio.h.
const maxRuns = 1024

// transfer is one readv or writev. Transfers are used again, so that steady traffic does not allocate for them.
type transfer struct {
	region *Region
	call   func(fd int, runs [][]byte) (int, error)
	runs   [][]byte
	n      int
	err    error
	ready  func(fd uintptr) bool // step, bound once
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.ready = t.step
	return t
}}

func (r *Region) readFrom(off int, src syscall.Conn, n int) (int, error) {
	conn, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	done, err := r.transfer(conn.Read, unix.Readv, off, n)
	if done == 0 && err == nil {
		err = io.EOF
	}
	return done, err
}

func (r *Region) writeTo(dst syscall.Conn, off, n int) (int, error) {
	conn, err := dst.SyscallConn()
	if err != nil {
		return 0, err
	}
	done, err := r.transfer(conn.Write, unix.Writev, off, n)
	if done == 0 && err == nil {
		err = io.ErrShortWrite
	}
	return done, err
}

// transfer makes one call over n bytes from off once wait says that the descriptor is ready.
func (r *Region) transfer(wait func(func(fd uintptr) bool) error, call func(int, [][]byte) (int, error), off, n int) (int, error) {
	t := transfers.Get().(*transfer)
	t.region, t.call = r, call
	for n > 0 && len(t.runs) < maxRuns {
		run := r.run(off, n)
		t.runs = append(t.runs, run)
		off, n = off+len(run), n-len(run)
	}
	err := wait(t.ready)
	if err == nil {
		err = t.err
	}
	done := t.n
	clear(t.runs)
	*t = transfer{runs: t.runs[:0], ready: t.ready}
	transfers.Put(t)
	runtime.KeepAlive(r)
	return done, err
}

// step makes the call, and reports whether it is over: not where the descriptor would have to wait.
func (t *transfer) step(fd uintptr) bool {
	for {
		if t.region.Closed() {
			t.region.state.late.Add(1)
			t.err = os.ErrClosed
			return true
		}
		n, err := t.call(int(fd), t.runs)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		t.n, t.err = max(n, 0), err
		return true
	}
}
