package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
)

// prepareFile makes the file where none is given, and computes its SHA-256.
func (d *demo) prepareFile(ctx context.Context) error {
	r := &d.report
	if r.File = d.cmd.File; r.File == "" {
		r.File = filepath.Join(d.crew.dir, "random")
		return d.makeFile(ctx, int64(d.cmd.Size))
	}
	f, err := os.Open(r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", r.File)
	}
	d.bar.Begin("reading the file", info.Size())
	hash := sha256.New()
	r.Bytes, err = io.CopyBuffer(&progressWriter{w: hash, bar: d.bar}, &interruptedReader{ctx, f}, make([]byte, blockSize))
	r.SHA256 = hex.EncodeToString(hash.Sum(nil))
	d.tell("The file is %s, %s.", r.File, terminal.Bytes(r.Bytes))
	return err
}

// makeFile fills the file with random bytes, different ones each time, so that no transfer of before can stand in for this one.
func (d *demo) makeFile(ctx context.Context, size int64) error {
	r := &d.report
	var seed [32]byte
	rand.Read(seed[:])
	f, err := os.Create(r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	d.bar.Begin("making a file", size)
	hash := sha256.New()
	to := &progressWriter{w: io.MultiWriter(f, hash), bar: d.bar}
	from := &interruptedReader{ctx, io.LimitReader(mathrand.NewChaCha8(seed), size)}
	if r.Bytes, err = io.CopyBuffer(to, from, make([]byte, blockSize)); err != nil {
		return err
	}
	r.SHA256 = hex.EncodeToString(hash.Sum(nil))
	d.tell("A file of %s of random bytes is made.", terminal.Bytes(r.Bytes))
	return f.Close()
}

// interruptedReader reads until the context ends.
type interruptedReader struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptedReader) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// print prints the table.
func (r *demoReport) print(w io.Writer) {
	ways := func(t transfer) string {
		verdict := "SHA-256 is the same"
		if !t.Equal {
			verdict = "SHA-256 DIFFERS"
		}
		return fmt.Sprintf("%s in %s, %s", terminal.Bytes(t.Bytes), terminal.Digits(t.Seconds)+" s", verdict)
	}
	rows := [][]string{
		{"SHA-256", r.SHA256},
		{"to the server", ways(r.ToServer)},
		{"to the client", ways(r.ToClient)},
		{"throughput", fmt.Sprintf("%s/s from file to file, both directions together", terminal.Bytes(int64(r.BytesPerSecond)))},
		{"", fmt.Sprintf("%s/s from memory to memory, in one direction", terminal.Bytes(int64(r.Kill.BytesPerSecond)))},
		{"notifications", terminal.Digits(r.NotificationsMiB) + " per MiB"},
		{"round trip", fmt.Sprintf("%s for 64 bytes there and back (99 %% below %s)", terminal.Duration(r.RoundTrip.P50),
			terminal.Duration(r.RoundTrip.P99))},
		{"Xenstore", fmt.Sprintf("%.0f reads or %.0f writes per second, one at a time", r.StoreReads, r.StoreWrites)},
		{"kill -9", fmt.Sprintf("after %s; %s later the server saw", terminal.Bytes(r.Kill.Bytes), terminal.Duration(r.Kill.After))},
		{"", r.Kill.Error},
		{"left behind", "nothing"},
	}
	for i, l := range r.Leaks {
		if i == 0 {
			rows[len(rows)-1][1] = l
			continue
		}
		rows = append(rows, []string{"", l})
	}
	terminal.Table(w, rows, false)
}
