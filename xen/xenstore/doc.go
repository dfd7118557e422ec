// Package xenstore speaks to Xenstore, the small tree of values through which the domains of a Xen host find and configure each other.
//
// # The store
//
// The store is a tree. Each node has a name, a value (bytes of any kind, 2000 or so at most), permissions, and children. Each domain has
// a home, /local/domain/<id>, to which the relative paths that it uses refer. Device drivers put the numbers of their grants and event
// channels there and watch each other's state; toolstacks put domains' names and configuration there.
//
//	/local/domain/3/name                       "web"
//	/local/domain/3/device/vif/0/backend       "/local/domain/0/backend/vif/3/0"
//	/local/domain/3/device/vif/0/state         "4"
//	/local/domain/0/backend/vif/3/0/state      "4"
//
// Three things make it more than a table. A [Watch] tells of changes to a node and all under it. A [Tx] is a transaction: a view of one
// moment, and changes that all happen or none. [Perm] says which domains may read and write a node.
//
// # The client
//
//	c, err := xenstore.Dial(ctx, "", nil) // the server's socket, or the kernel's device
//	name, err := c.Read(ctx, "/local/domain/3/name")
//	for e, err := range c.Events(ctx, "device") { ... }
//	err = c.Transaction(ctx, func(tx *xenstore.Tx) error { ... })
//
// A [Client] is one connection. Many goroutines may use it at once: their requests are under way together, and replies are matched by
// their request ids in whatever order they come. A call ends when its context does. When the connection is over, because the server
// went away or broke the protocol, everything that waits ends with a [*ConnError], and so does every later call; who wants to go on
// makes a new client and its watches anew, as after a domain was resumed. In steady state a read allocates the value that it returns
// and a write nothing.
//
// # Watches
//
// An event says that something may have changed, and never what. Servers send them before or after the reply to the request that
// caused them, sometimes twice, once at the start without any change, and merge or omit some under load. So whoever gets one reads
// what it wants to know: [Client.Wait] is that loop. Events wait in a bounded queue in which those of one path become one
// (Event.Merged) and those that do not fit become one of the watched path (Event.Missed).
//
// # The wire
//
// Messages are a header of four little-endian words ([Header]) and at most 4096 bytes (io/xs_wire.h, docs/misc/xenstore.txt). They
// travel over a Unix socket in the control domain, and over a page that a guest shares with the server:
//
//	0          1024         2048  2052  2056  2060    2064      2068        2072
//	| requests | replies and | req | req | rsp | rsp | server  | connec-   | error
//	| ring     | events ring | cons| prod| cons| prod| features| tion      |
//
// [Ring] is one end of such a page, as a core that waits for nothing and believes no index; [RingConn] is a Ring and an event channel as
// an io.ReadWriteCloser, for either role. [Decoder] cuts the stream into messages. Servers are built on the same parts: see package
// xenstored. Package xenstoretest has a conformance suite.
//
// # Limits
//
// The C server allows a guest 20 requests, 10 transactions and 128 watches at once. The client keeps below the first two by itself
// ([Config]): further calls wait their turn. A message that is too long is refused here ([E2BIG]), because a server would cut the
// connection.
package xenstore
