// Package vchan carries bytes between two domains of a Xen host through memory that they share, with net.Conn and net.Listener at both
// ends. It speaks the protocol of Xen's libxenvchan, in both roles.
//
// # Use
//
// A server listens on a port, which is a name, for the clients that it wants to serve. A client dials a domain and a port:
//
//	l, err := vchan.Listen(ctx, d, "greeting", &vchan.ListenConfig{Clients: []string{"web", "7"}})
//	conn, err := l.Accept()
//
//	conn, err := vchan.Dial(ctx, d, "server", "greeting", nil)
//
// d is the program's own [xen.Domain]; other domains are given by number or by name. What comes out are a [Listener] and [Conn]s that go
// where the net package's go: [Dialer.DialContext] fits into an http.Transport, and a Listener into http.Server's Serve. [ListenPath]
// and [DialPath] meet at any path in Xenstore, as programs with libxenvchan do.
//
// # The protocol
//
// The server grants the client a control page and two rings of bytes, and offers an event channel. A ring is a power of two in size.
// Each end advances one index of each ring, modulo 2^32, and wakes the other one only if it has asked for it:
//
//	   server                                                  client
//	                   left ring, 2^left_order bytes
//	Read  <------- left.cons ... left.prod <----------------  Write
//	                   right ring, 2^right_order bytes
//	Write -------> right.prod ... right.cons --------------->  Read
//
//	+----------------------- control page --------------------------+
//	|  0  left.cons  left.prod    8  right.cons  right.prod         |
//	| 16  left_order right_order  20 cli_live srv_live              |
//	| 22  cli_notify srv_notify   24 grants of the rings' own pages |
//	| 1024  a ring of order 10    2048  a ring of order 11          |
//	+---------------------------------------------------------------+
//
// A ring of order 10 or 11 lies in the control page itself; a larger one, up to 1 MiB, has pages of its own. In Xenstore the server
// writes the grant of the control page and the number of the event channel, as ring-ref and event-channel, below
// /local/domain/<server>/data/vchan/<client>/<port>. docs/vchan.md tells the whole story, with a handshake step by step and what
// differs from libxenvchan. The source of all facts is Xen's io/libxenvchan.h and tools/libs/vchan.
//
// # Packets
//
// A vchan is a stream of bytes. [Conn.Send] and [Conn.Recv] are libxenvchan's packet mode: whole or not at all, where the receiver
// knows the size. A [Framed] puts the length before each message.
//
// # Trust
//
// The peer can write the control page and the ring that it fills at any time. Each index is loaded once and checked, orders and grants
// are read once, and an end's own indices are never read back. What is wrong ends the connection with a [*PeerError] that names the
// field; a peer that says nothing is a matter for deadlines, which all calls obey. Each client has memory of its own, so one that
// misbehaves disturbs no other.
//
// # Suspend
//
// When this domain is suspended and resumed, its connections answer [hypercall.ErrStale], and are to be closed and dialled anew. A
// Listener makes its offers anew by itself. The peer of a domain that is suspended sees the end of the connection. When this domain has
// ended for good, its connections and listeners answer [ErrEnded].
//
// # The core
//
// [Core] is the protocol without anything else: no lock, goroutine, wait or allocation. Conn is a shell around one. Explorers and
// fuzzers drive it directly.
package vchan
