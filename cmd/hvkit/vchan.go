package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/hvkit/hvkit/cmd/hvkit/internal/terminal"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

type vchanCmd struct {
	Listen vchanListenCmd `cmd:"" help:"Take connections, for standard input and output or for a command."`
	Dial   vchanDialCmd   `cmd:"" help:"Connect standard input and output, or a command, to what another domain offers."`
	Proxy  vchanProxyCmd  `cmd:"" help:"Carry connections between vchan and Unix sockets or TCP ports."`
}

// Help says what ports and domains are.
func (*vchanCmd) Help() string {
	return `A port is a name of your choice, often a number. A server's offer to a client is in Xenstore at
/local/domain/<server>/data/vchan/<client>/<port>. A port that begins with a slash is the path itself, as for libxenvchan. Domains
are named by number or by name.

A vchan has no half-close: an end that closes has said all that it had to say, and hears no more. Closing waits until the peer has
read everything. A peer that dies is an error, unless it is a C program's: libxenvchan closes as it dies, so compare sums then.`
}

// connFlags are common to those who move bytes through vchan.
type connFlags struct {
	joinFlags
	Spin  time.Duration `default:"0s" placeholder:"TIME" help:"Look for the peer so long before sleeping. 0s: 200µs at most, negative: never."`
	Stats bool          `help:"Print counters of each connection to standard error when it ends."`
	JSON  bool          `name:"json" help:"Print the counters as JSON; implies --stats."`
}

// ringFlags are a server's: it chooses the rings.
type ringFlags struct {
	Ring    byteSize `default:"64KiB" placeholder:"SIZE" help:"Bytes in each direction's ring, at most 1MiB (${default})."`
	Clients []string `name:"client" placeholder:"DOMAIN" help:"Serve this domain. Repeatable. Default: any domain."`
}

// patience is how long a command waits for its peer to read what is left at the end: as long as the peer lives.
const patience = 365 * 24 * time.Hour

func (f *connFlags) config() *vchan.Config { return &vchan.Config{Spin: f.Spin, Linger: patience} }

// listen offers a port or, with a slash in front, a path.
func (f *connFlags) listen(ctx context.Context, d *xen.Domain, port string, r ringFlags) (*vchan.Listener, error) {
	cfg := &vchan.ListenConfig{Config: *f.config(), Clients: r.Clients, Any: len(r.Clients) == 0}
	cfg.ReadRing, cfg.WriteRing = int(r.Ring), int(r.Ring)
	if !strings.HasPrefix(port, "/") {
		return vchan.Listen(ctx, d, port, cfg)
	}
	if len(r.Clients) != 1 {
		return nil, usagef("a path is offered to one domain: give it with --client")
	}
	return vchan.ListenPath(ctx, d, r.Clients[0], port, cfg)
}

// dial connects to a port or a path of a domain.
func (f *connFlags) dial(ctx context.Context, d *xen.Domain, remote, port string) (*vchan.Conn, error) {
	if strings.HasPrefix(port, "/") {
		return vchan.DialPath(ctx, d, remote, port, f.config())
	}
	return vchan.Dial(ctx, d, remote, port, f.config())
}

// connStats are the counters of a connection that has ended.
type connStats struct {
	Remote         string  `json:"remote"`
	Seconds        float64 `json:"seconds"`
	BytesRead      uint64  `json:"bytes_read"`
	BytesWritten   uint64  `json:"bytes_written"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	Sent           uint64  `json:"notifications_sent"`
	Received       uint64  `json:"notifications_received"`
	Sleeps         uint64  `json:"sleeps"`
}

// report prints the counters of a connection, if they are wanted.
func (f *connFlags) report(w io.Writer, c *vchan.Conn, took time.Duration) {
	if !f.Stats && !f.JSON {
		return
	}
	s := c.Stats()
	out := connStats{
		Remote: c.RemoteAddr().String(), Seconds: took.Seconds(), BytesRead: s.BytesRead, BytesWritten: s.BytesWritten,
		BytesPerSecond: float64(s.BytesRead+s.BytesWritten) / max(took.Seconds(), 1e-9),
		Sent:           s.NotificationsSent, Received: s.NotificationsReceived, Sleeps: s.Sleeps,
	}
	if f.JSON {
		json.NewEncoder(w).Encode(out)
		return
	}
	fmt.Fprintf(w, "%s: read %s, wrote %s in %s (%s/s), %d notifications sent, %d received\n", out.Remote,
		terminal.Bytes(int64(s.BytesRead)), terminal.Bytes(int64(s.BytesWritten)), terminal.Duration(took),
		terminal.Bytes(int64(out.BytesPerSecond)), out.Sent, out.Received)
}

// inner returns what a *net.OpError is about, for messages that name the operation and the address in the user's words.
func inner(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return op.Err
	}
	return err
}
