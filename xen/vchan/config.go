package vchan

import (
	"log/slog"
	"time"

	"github.com/hvkit/hvkit/internal/spin"
)

// The defaults of a [Config].
const (
	DefaultRing      = 64 << 10        // bytes, each direction
	DefaultLinger    = 5 * time.Second // how long Close waits for the peer to read
	DefaultSpin      = spin.DefaultMax // how long a wait looks at the peer's index before it sleeps, at most
	DefaultMaxPacket = 1 << 20         // bytes of a framed message
)

// Config says how a vchan behaves. A nil *Config is the same as a zero one: everything has its default.
type Config struct {
	// ReadRing and WriteRing are how many bytes the two rings shall hold at least, at most MaxRing. Only a server chooses them. The
	// sizes become those of [LayoutFor], in which a server reads the left ring. 0 is DefaultRing.
	ReadRing, WriteRing int
	// Linger is how long Close waits for the peer to read what was written. 0 is DefaultLinger; a negative one does not wait.
	Linger time.Duration
	// Spin is how long a Read or Write that must wait looks at the peer's index before it sleeps, at most. How long it really does, each
	// direction finds out by itself: it spins while the peer answers within that time, and not while it does not, so that an idle
	// connection takes no processor time. At most GOMAXPROCS-1 waits of a process spin at a time. 0 is DefaultSpin, a negative one
	// never spins, and on a machine with one processor nothing does.
	Spin time.Duration
	// MaxPacket is the largest message that a [Framed] takes or gives, in bytes. 0 is DefaultMaxPacket.
	MaxPacket int
	// Logger is told of what happens behind the calls: offers that fail, clients that break the protocol. nil is silent.
	Logger *slog.Logger
}

// withDefaults returns a copy of c with the defaults filled in.
func (c *Config) withDefaults() Config {
	var out Config
	if c != nil {
		out = *c
	}
	if out.ReadRing == 0 {
		out.ReadRing = DefaultRing
	}
	if out.WriteRing == 0 {
		out.WriteRing = DefaultRing
	}
	if out.Linger == 0 {
		out.Linger = DefaultLinger
	}
	if out.MaxPacket == 0 {
		out.MaxPacket = DefaultMaxPacket
	}
	if out.Logger == nil {
		out.Logger = slog.New(slog.DiscardHandler)
	}
	return out
}
