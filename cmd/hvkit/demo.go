package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
)

type demoCmd struct {
	File  string        `type:"existingfile" placeholder:"PATH" help:"The file to move. Default: a random one that it makes and removes."`
	Size  byteSize      `default:"256MiB" placeholder:"SIZE" help:"How long a file it makes (${default})."`
	Ring  byteSize      `default:"1MiB" placeholder:"SIZE" help:"Bytes in each direction's ring, at most 1MiB (${default})."`
	Pause time.Duration `name:"measure" default:"500ms" help:"How long to measure each of round trips, Xenstore reads and writes."`
	JSON  bool          `name:"json" help:"Print the figures as JSON."`
}

// Help says what happens, with examples.
func (*demoCmd) Help() string {
	return `It serves a simulated host and starts two more processes, the domains "server" and "client". They send each other the file through
vchan, both at once, and the SHA-256 of what came is compared. Then the client is killed (SIGKILL) in the middle of a transfer, and the
server says how it saw that. It needs Linux, and no Xen and no root.

Examples:

    hvkit demo
    hvkit demo --file /usr/bin/git --json | python3 -m json.tool`
}

// demoReport is what the demo found out.
type demoReport struct {
	File             string   `json:"file"`
	Bytes            int64    `json:"bytes"`
	SHA256           string   `json:"sha256"`
	ToServer         transfer `json:"client_to_server"`
	ToClient         transfer `json:"server_to_client"`
	BytesPerSecond   float64  `json:"bytes_per_second"` // both directions together
	NotificationsMiB float64  `json:"notifications_per_mib"`
	RoundTrip        *latency `json:"round_trip_64_bytes"`
	StoreReads       float64  `json:"xenstore_reads_per_second"`
	StoreWrites      float64  `json:"xenstore_writes_per_second"`
	Kill             killed   `json:"kill"`
	Leaks            []string `json:"leaks"`
}

type transfer struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Equal   bool    `json:"sha256_equal"`
}

// killed says what the server saw when the client was killed.
type killed struct {
	Bytes int64         `json:"bytes_received"`
	Error string        `json:"error"`
	After time.Duration `json:"seen_after_ns"`

	BytesPerSecond float64 `json:"bytes_per_second"` // until then, from memory to memory
}

// demo is the state of a run.
type demo struct {
	cmd            *demoCmd
	crew           *crew
	server, client *member
	out            io.Writer // takes the story; nothing with --json
	bar            *terminal.Bar
	report         demoReport
}

// Run plays the demo.
func (c *demoCmd) Run(ctx context.Context, s *streams) error {
	d := &demo{cmd: c, out: s.out, bar: terminal.NewBar(s.err)}
	defer d.bar.Clear()
	if c.JSON {
		d.out = io.Discard
	}
	if err := d.play(ctx, s); err != nil {
		return err
	}
	if c.JSON {
		if err := writeJSON(s.out, d.report); err != nil {
			return err
		}
	} else {
		d.report.print(s.out)
	}
	return d.report.verdict()
}

func (d *demo) play(ctx context.Context, s *streams) (err error) {
	if d.crew, err = newCrew(ctx, s.err); err != nil {
		return err
	}
	defer d.crew.close()
	if err := d.prepareFile(ctx); err != nil {
		return err
	}
	for _, act := range []func() error{
		d.hire, d.connect, d.exchange, d.pingPong, d.store, d.killClient, d.lookForLeaks,
	} {
		if err := act(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) tell(format string, args ...any) {
	d.bar.Clear()
	fmt.Fprintf(d.out, format+"\n", args...)
}

func (d *demo) hire() (err error) {
	if d.server, err = d.crew.hire("server"); err != nil {
		return err
	}
	if d.client, err = d.crew.hire("client"); err != nil {
		return err
	}
	d.tell("Two domains of a host: \"server\" (process %d) and \"client\" (process %d).",
		d.server.cmd.Process.Pid, d.client.cmd.Process.Pid)
	return nil
}

const demoPort = "demo"

func (d *demo) connect() error {
	if _, err := d.server.do(job{Do: "listen", Port: demoPort, Remote: "client", Ring: int(d.cmd.Ring)}, nil); err != nil {
		return err
	}
	_, _, err := both(d.server, job{Do: "accept"}, nil, d.client, job{Do: "dial", Remote: "server", Port: demoPort}, nil)
	if err == nil {
		d.tell("The client found the server's offer in Xenstore and mapped its pages.")
	}
	return err
}

// exchange moves the file in both directions at once. The bar follows one of them.
func (d *demo) exchange() error {
	r := &d.report
	d.bar.Begin("both directions", r.Bytes)
	to := func(name string) job {
		return job{Do: "exchange", File: r.File, To: filepath.Join(d.crew.dir, name), Bytes: r.Bytes}
	}
	atServer, atClient, err := both(d.server, to("at-server"), d.bar.Set, d.client, to("at-client"), nil)
	if err != nil {
		return err
	}
	r.ToServer = transfer{atServer.Bytes, atServer.Took.Seconds(), atServer.SHA256 == r.SHA256}
	r.ToClient = transfer{atClient.Bytes, atClient.Took.Seconds(), atClient.SHA256 == r.SHA256}
	total := float64(atServer.Bytes + atClient.Bytes)
	r.BytesPerSecond = total / max(atServer.Took, atClient.Took, 1).Seconds()
	r.NotificationsMiB = float64(atServer.Notifications+atClient.Notifications) * (1 << 20) / max(total, 1)
	d.tell("The file went both ways at once.")
	return nil
}

func (d *demo) pingPong() error {
	j := job{Do: "ping", Size: pingSize, For: d.cmd.Pause}
	r, _, err := both(d.client, j, nil, d.server, job{Do: "echo", Size: pingSize}, nil)
	d.report.RoundTrip = r.Latency
	return err
}

const pingSize = 64

func (d *demo) store() error {
	for _, m := range []struct {
		kind string
		to   *float64
	}{{storeRead, &d.report.StoreReads}, {storeWrite, &d.report.StoreWrites}} {
		r, err := d.server.do(job{Do: "store", Kind: m.kind, For: d.cmd.Pause}, nil)
		if err != nil {
			return err
		}
		*m.to = float64(r.Latency.N) / r.Took.Seconds()
	}
	return nil
}

const (
	killAfter = 64 << 20         // bytes of the second transfer
	sendBytes = 1 << 50          // what the server expects: it ends too early in any case
	sendFor   = 10 * time.Minute // more than anybody waits
)

// killClient has the client send without end, and kills it in the middle.
func (d *demo) killClient() error {
	kill := make(chan struct{})
	go func() { d.client.do(job{Do: "send", Size: blockSize, For: sendFor}, nil) }() // ends with the process
	var at time.Time
	go func() {
		<-kill
		d.client.cmd.Process.Kill()
	}()
	d.bar.Begin("until the kill", killAfter)
	r, err := d.server.do(job{Do: "receive", Size: blockSize, Bytes: sendBytes}, func(n int64) {
		d.bar.Set(n)
		if n >= killAfter && at.IsZero() {
			at = time.Now()
			close(kill)
		}
	})
	if at.IsZero() {
		close(kill)
	}
	d.client.reap()
	if err != nil {
		return err
	}
	d.report.Kill = killed{Bytes: r.Bytes, Error: r.Lost, After: time.Since(at), BytesPerSecond: float64(r.Bytes) / r.Took.Seconds()}
	d.tell("The client was killed in the middle of a second transfer.")
	return nil
}

// lookForLeaks has the server close what it has, and asks the host what is left then, and when the server has gone, too.
func (d *demo) lookForLeaks() error {
	if _, err := d.server.do(job{Do: "close"}, nil); err != nil {
		return err
	}
	leaks := d.crew.leaks()
	d.server.dismiss()
	if len(leaks) == 0 {
		leaks = d.crew.leaks()
	}
	d.report.Leaks = append([]string{}, leaks...)
	d.tell("")
	return nil
}

// verdict says what went wrong, if anything did.
func (r *demoReport) verdict() error {
	var errs []error
	if !r.ToServer.Equal || !r.ToClient.Equal {
		errs = append(errs, errors.New("what was received is not what was sent"))
	}
	if r.Kill.Error == "" {
		errs = append(errs, errors.New("the server did not see that the client was killed"))
	}
	if len(r.Leaks) > 0 {
		errs = append(errs, fmt.Errorf("%d things were not given back", len(r.Leaks)))
	}
	return errors.Join(errs...)
}
