// Package xenstored is a Xenstore server as a library: the tree of small values through which domains on a Xen host find each other.
//
//	       clients                                 Server                                  core
//	domain 0's programs --- Unix socket ---\
//	domains' kernels ------- ring page -----+---- session ---- message ---->  check, change, remember     tree (immutable)
//	this process ---------- LocalClient ---/     (1 reader, <--- replies ---  transactions, watches,  ->  /local/domain/1/name
//	                                              1 writer)      events       quotas, permissions         /local/domain/1/device/...
//
// A [Server] is the store and all its connections. A program that is domain 0's daemon listens on a socket with [Server.Serve]; a host
// that simulates domains serves each one's stream with [Server.ServeConn], tells of domains with [Server.IntroduceDomain] and
// [Server.ReleaseDomain], and has a client of its own with [Server.LocalClient]. Clients are those of package xenstore, or any other that
// speaks the protocol of Xen's io/xs_wire.h and docs/misc/xenstore.txt.
//
// # Behaviour
//
// It is that of Xen's C xenstored 4.17, error names, order of events and conflicts of transactions included. docs/xenstore.md has the
// table of what the C and OCaml servers and this one do, with the few differences.
//
//   - A transaction sees a snapshot, and commits if every node it has read or written is still the same version. Creating and removing a
//     child makes a new version of the parent. Its commit is all or nothing.
//   - Events caused by a request reach the connection that made it before the reply; the first event of a watch comes after the reply.
//     Events of a path and token that wait already are not queued again.
//   - What unprivileged domains may use is bounded by a [Quota]. A domain that does not read is not listened to, and loses events.
//     Domain 0's connections are ended when too much waits for them.
//   - [Server.Freeze] ends a server and returns what its clients could notice, and [Restore] begins another one with that.
//   - [Server.ReleaseDomain] leaves nothing of a domain that another one of the same id could inherit.
//
// # Inside
//
// The core takes a message and leaves replies and events in queues; it has no goroutine, lock, clock or chance in it. The shell reads
// messages, takes the lock, has the core handle some, and writes what is in the queues, in the same goroutine where the stream allows
// writing without waiting. The tree is an immutable trie from path to node: a snapshot is a pointer, and no operation recurses over the
// depth of paths.
//
// It does not implement: the commands for live update and log control, depth-limited watches, GET_FEATURE and
// GET_QUOTA (which 4.17 has not either).
package xenstored
