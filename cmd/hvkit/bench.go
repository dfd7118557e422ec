package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
)

type benchCmd struct {
	Only string        `enum:"all,vchan,xenstore" default:"all" help:"Measure only a part: vchan or xenstore."`
	For  time.Duration `name:"time" default:"1s" help:"How long each measurement takes."`
	JSON bool          `name:"json" help:"Print the figures as JSON."`
}

// Help has the examples, and says what is measured.
func (*benchCmd) Help() string {
	return `Two processes are domains of a host in a third one. The column "C" has figures of the implementations in C, libxenvchan and
xenstored 4.17, that were measured on another machine (2 vCPUs, AMD EPYC): they say what is usual, not who wins here.

Examples:

    hvkit bench
    hvkit bench --only vchan --time 3s
    hvkit bench --json > before.json`
}

// streamFigure is vchan in one direction, from memory to memory.
type streamFigure struct {
	Ring             int     `json:"ring"`
	Bytes            int64   `json:"bytes"`
	BytesPerSecond   float64 `json:"bytes_per_second"`
	NotificationsMiB float64 `json:"notifications_per_mib"`
	C                string  `json:"c_elsewhere"`
}

// pingFigure is a message there and back.
type pingFigure struct {
	Spin    bool     `json:"spin"`
	Bytes   int      `json:"bytes"`
	Latency *latency `json:"latency"`
	C       string   `json:"c_elsewhere"`
}

// storeFigure is one operation on Xenstore, by so many domains at once.
type storeFigure struct {
	Operation string   `json:"operation"`
	Clients   int      `json:"clients"`
	PerSecond float64  `json:"per_second"`
	Latency   *latency `json:"latency"`
	C         string   `json:"c_elsewhere,omitempty"`
}

// benchReport is all that was measured.
type benchReport struct {
	Stream   []streamFigure `json:"vchan_stream"`
	Ping     []pingFigure   `json:"vchan_ping_pong"`
	Xenstore []storeFigure  `json:"xenstore"`
}

// What the C implementations do on another machine: libxenvchan over shared files and FIFOs, xenstored over a Unix socket with one client.
var (
	benchRings = []struct {
		bytes int
		c     string
	}{{1 << 10, "0.19 GB/s"}, {4 << 10, "0.6 GB/s"}, {64 << 10, "2.2 to 7 GB/s"}, {1 << 20, "19+ GB/s"}}
	benchStore = []struct{ kind, name, c string }{
		{storeRead, "read", "42 µs"}, {storeWrite, "write", "44 µs"},
		{storeRMW, "read-modify-write transaction", "157 µs"}, {storeWatch, "write until watch event", ""},
	}
)

const pingC = "4 to 40 µs"

// benchClients are how many domains use Xenstore at once.
var benchClients = []int{1, 16}

// bench is the state of a run.
type bench struct {
	cmd            *benchCmd
	crew           *crew
	server, client *member
	bar            *terminal.Bar
	done, steps    int64
	report         benchReport
}

// Run measures, and prints what came out.
func (c *benchCmd) Run(ctx context.Context, s *streams) error {
	b := &bench{cmd: c, bar: terminal.NewBar(s.err)}
	err := b.measure(ctx, s)
	b.bar.Clear()
	if err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(s.out, b.report)
	}
	b.report.print(s.out)
	return nil
}

func (b *bench) measure(ctx context.Context, s *streams) (err error) {
	if b.crew, err = newCrew(ctx, s.err); err != nil {
		return err
	}
	defer b.crew.close()
	if b.server, err = b.crew.hire("server"); err != nil {
		return err
	}
	if b.client, err = b.crew.hire("client"); err != nil {
		return err
	}
	steps := b.plan()
	b.steps = int64(len(steps))
	for _, step := range steps {
		b.bar.Begin("measuring", b.steps)
		b.bar.Set(b.done)
		if err := step(); err != nil {
			return err
		}
		b.done++
	}
	return nil
}

// plan lists the measurements.
func (b *bench) plan() []func() error {
	var steps []func() error
	if b.cmd.Only != "xenstore" {
		for _, r := range benchRings {
			steps = append(steps, func() error { return b.stream(r.bytes, r.c) })
		}
		for _, spin := range []bool{false, true} {
			steps = append(steps, func() error { return b.pingPong(spin) })
		}
	}
	if b.cmd.Only != "vchan" {
		for _, n := range benchClients {
			for _, op := range benchStore {
				steps = append(steps, func() error { return b.store(op.kind, op.name, n, op.c) })
			}
		}
	}
	return steps
}

// connect makes a vchan between the two.
func (b *bench) connect(ring int, spin time.Duration) error {
	j := job{Do: "listen", Port: benchPort, Remote: "client", Ring: ring, Spin: spin}
	if _, err := b.server.do(j, nil); err != nil {
		return err
	}
	_, _, err := both(b.server, job{Do: "accept"}, nil, b.client, job{Do: "dial", Remote: "server", Port: benchPort, Spin: spin}, nil)
	return err
}

const benchPort = "bench"

// disconnect ends the vchan at both ends.
func (b *bench) disconnect() error {
	_, _, err := both(b.server, job{Do: "close"}, nil, b.client, job{Do: "close"}, nil)
	return err
}

func (b *bench) stream(ring int, c string) error {
	if err := b.connect(ring, 0); err != nil {
		return err
	}
	block := min(max(ring, 4<<10), blockSize)
	sent, got, err := both(b.client, job{Do: "send", Size: block, For: b.cmd.For}, nil, b.server, job{Do: "receive", Size: block}, nil)
	if err != nil {
		return err
	}
	b.report.Stream = append(b.report.Stream, streamFigure{
		Ring: ring, Bytes: got.Bytes, BytesPerSecond: float64(got.Bytes) / sent.Took.Seconds(),
		NotificationsMiB: float64(sent.Notifications+got.Notifications) * (1 << 20) / float64(max(got.Bytes, 1)), C: c,
	})
	return b.disconnect()
}

func (b *bench) pingPong(spin bool) error {
	longest := time.Duration(-1)
	if spin {
		longest = 0 // vchan's default, which is bounded
	}
	if err := b.connect(64<<10, longest); err != nil {
		return err
	}
	j := job{Do: "ping", Size: pingSize, For: b.cmd.For}
	r, _, err := both(b.client, j, nil, b.server, job{Do: "echo", Size: pingSize}, nil)
	if err != nil {
		return err
	}
	b.report.Ping = append(b.report.Ping, pingFigure{Spin: spin, Bytes: pingSize, Latency: r.Latency, C: pingC})
	return b.disconnect()
}

// store measures one operation by n domains of one process.
func (b *bench) store(kind, name string, n int, c string) error {
	j := job{Do: "store", Kind: kind, For: b.cmd.For}
	if n > 1 {
		c = ""
		for i := range n {
			token, err := b.crew.token(fmt.Sprintf("client-%d", i))
			if err != nil {
				return err
			}
			j.Tokens = append(j.Tokens, token)
		}
	}
	r, err := b.client.do(j, nil)
	if err != nil {
		return err
	}
	b.report.Xenstore = append(b.report.Xenstore, storeFigure{
		Operation: name, Clients: n, PerSecond: float64(r.Latency.N) / r.Took.Seconds(), Latency: r.Latency, C: c,
	})
	return nil
}

// print prints the tables.
func (r *benchReport) print(w io.Writer) {
	if len(r.Stream) > 0 {
		rows := [][]string{{"vchan, one direction", "throughput", "notifications/MiB", "C*"}}
		for _, f := range r.Stream {
			gb := terminal.Digits(f.BytesPerSecond/1e9) + " GB/s"
			rows = append(rows, []string{"  ring of " + terminal.Bytes(int64(f.Ring)), gb, terminal.Digits(f.NotificationsMiB), f.C})
		}
		terminal.Table(w, rows, true)
		rows = [][]string{{"vchan, 64 bytes there and back", "median", "99 %", "C*"}}
		for _, f := range r.Ping {
			name := "  sleeping"
			if f.Spin {
				name = "  with a bounded spin"
			}
			rows = append(rows, []string{name, terminal.Duration(f.Latency.P50), terminal.Duration(f.Latency.P99), f.C})
		}
		fmt.Fprintln(w)
		terminal.Table(w, rows, true)
		fmt.Fprintln(w)
	}
	if len(r.Xenstore) > 0 {
		rows := [][]string{{"Xenstore", "clients", "per second", "mean", "99 %", "C*"}}
		for _, f := range r.Xenstore {
			rows = append(rows, []string{
				"  " + f.Operation, fmt.Sprint(f.Clients), fmt.Sprintf("%.0f", f.PerSecond), terminal.Duration(f.Latency.Mean),
				terminal.Duration(f.Latency.P99), f.C,
			})
		}
		terminal.Table(w, rows, true)
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "* libxenvchan and xenstored 4.17 on another machine (2 vCPUs, AMD EPYC), for orientation.")
}
