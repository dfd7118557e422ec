package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

// workerCmd is one domain of the demo or the benchmark: it takes jobs as lines of JSON on standard input and answers on standard output.
// Which domain it is says the environment, as for any program of this module.
type workerCmd struct{}

// job is what a worker is asked to do.
type job struct {
	Do     string        `json:"do"`
	Port   string        `json:"port,omitempty"`
	Remote string        `json:"remote,omitempty"` // the domain at the other end
	Ring   int           `json:"ring,omitempty"`   // bytes
	Spin   time.Duration `json:"spin,omitempty"`   // as vchan.Config has it
	File   string        `json:"file,omitempty"`   // to send
	To     string        `json:"to,omitempty"`     // the file to receive into
	Size   int           `json:"size,omitempty"`   // bytes of a message or block
	Bytes  int64         `json:"bytes,omitempty"`
	For    time.Duration `json:"for,omitempty"`
	Kind   string        `json:"kind,omitempty"`
	Tokens []string      `json:"tokens,omitempty"`
}

// result is how far a worker is or, with Done, what came out.
type result struct {
	Done          bool          `json:"done,omitempty"`
	Err           string        `json:"err,omitempty"` // the job failed
	Bytes         int64         `json:"bytes,omitempty"`
	Took          time.Duration `json:"took,omitempty"`
	SHA256        string        `json:"sha256,omitempty"`
	Notifications uint64        `json:"notifications,omitempty"` // that this end sent
	Latency       *latency      `json:"latency,omitempty"`
	Lost          string        `json:"lost,omitempty"` // what Read and Write said of a peer that went too early
}

// orphanGrace is how long a worker whose parent has gone may take to end what it does.
const orphanGrace = time.Second

// worker is the state between jobs.
type worker struct {
	d        *xen.Domain
	replies  *json.Encoder
	said     time.Time // when progress was last reported
	listener *vchan.Listener
	conn     *vchan.Conn
}

// Run does jobs until standard input ends: then the parent has finished, or died.
func (*workerCmd) Run(ctx context.Context, s *streams) error {
	signal.Ignore(os.Interrupt) // a terminal sends it to the parent as well, which says when to end
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs := make(chan job)
	go func() {
		defer close(jobs)
		in := json.NewDecoder(s.in)
		for {
			var j job
			if in.Decode(&j) != nil {
				cancel()
				time.AfterFunc(orphanGrace, func() { os.Exit(exitFailure) })
				return
			}
			jobs <- j
		}
	}()
	w := &worker{replies: json.NewEncoder(s.out)}
	var err error
	if w.d, err = xen.Open(ctx); err != nil {
		w.reply(result{Done: true, Err: oneLine(err)})
		return errSilent
	}
	defer w.d.Close()
	w.reply(result{Done: true})
	for j := range jobs {
		r, err := w.do(ctx, j)
		if err != nil {
			r.Err = oneLine(err)
		}
		r.Done = true
		w.reply(r)
	}
	w.close()
	return nil
}

// reply tells the parent; if that has gone, the jobs end.
func (w *worker) reply(r result) { _ = w.replies.Encode(r) }

// progressEvery is the time between two reports of progress.
const progressEvery = 50 * time.Millisecond

// progress reports how many bytes were moved, now and then.
func (w *worker) progress(n int64) {
	if now := time.Now(); now.Sub(w.said) >= progressEvery {
		w.said = now
		w.reply(result{Bytes: n})
	}
}

func (w *worker) do(ctx context.Context, j job) (result, error) {
	switch j.Do {
	case "listen":
		return result{}, w.listen(ctx, j)
	case "accept":
		return result{}, w.accept()
	case "dial":
		return result{}, w.dial(ctx, j)
	case "exchange":
		return w.exchange(j)
	case "send":
		return w.send(j)
	case "receive":
		return w.receive(j)
	case "ping":
		return w.ping(j)
	case "echo":
		return w.echo(j)
	case "store":
		return w.measureStore(ctx, j)
	case "close":
		return result{}, w.close()
	}
	return result{}, fmt.Errorf("no such job: %q", j.Do)
}

func (w *worker) listen(ctx context.Context, j job) (err error) {
	cfg := &vchan.ListenConfig{Clients: []string{j.Remote}}
	cfg.ReadRing, cfg.WriteRing, cfg.Spin = j.Ring, j.Ring, j.Spin
	w.listener, err = vchan.Listen(ctx, w.d, j.Port, cfg)
	return err
}

func (w *worker) accept() (err error) {
	w.conn, err = w.listener.AcceptVchan()
	return err
}

func (w *worker) dial(ctx context.Context, j job) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w.conn, err = vchan.Dial(ctx, w.d, j.Remote, j.Port, &vchan.Config{Spin: j.Spin})
	return err
}

// close closes the connection and the listener, where there are any.
func (w *worker) close() error {
	var errs []error
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
		w.conn = nil
	}
	if w.listener != nil {
		errs = append(errs, w.listener.Close())
		w.listener = nil
	}
	return errors.Join(errs...)
}

// blockSize is how much is read and written at a time.
const blockSize = 256 << 10

// exchange sends a file and receives one of the same length into another file, at once. The SHA-256 is computed afterwards: computing
// it takes longer than the transfer.
func (w *worker) exchange(j job) (result, error) {
	start := time.Now()
	before := w.conn.Stats().NotificationsSent
	sent := make(chan error, 1)
	go func() { sent <- sendFile(w.conn, j.File) }()
	n, err := w.receiveFile(j.To, j.Bytes)
	if err == nil {
		err = <-sent
	}
	r := result{Bytes: n, Took: time.Since(start), Notifications: w.conn.Stats().NotificationsSent - before}
	if err == nil {
		r.SHA256, err = fileSum(j.To)
	}
	return r, err
}

// sendFile writes in blocks that the rings' sizes do not disturb.
func sendFile(to io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{f}, make([]byte, blockSize))
	return err
}

// receiveFile receives n bytes into a new file.
func (w *worker) receiveFile(path string, n int64) (got int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, blockSize)
	for got < n {
		k, err := w.conn.Read(buf[:min(int64(len(buf)), n-got)])
		if _, err := f.Write(buf[:k]); err != nil {
			return got, err
		}
		got += int64(k)
		w.progress(got)
		if err != nil {
			return got, err
		}
	}
	return got, f.Close()
}

// fileSum returns the SHA-256 of a file.
func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.CopyBuffer(hash, struct{ io.Reader }{f}, make([]byte, blockSize)); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
