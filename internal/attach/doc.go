// Package attach joins a simulated host from another process.
//
// Xen's half is split between two processes. A [Machine], in the process that is the domain, plays Xen towards it: it watches the event
// descriptors, sets pending and selector bits in the domain's shared_info and makes the upcall; sending an event is one write to the
// peer's descriptor, and the host is not involved. The host (package sim) keeps what two domains share: ports, grants in use, copies,
// death. A batch of grant operations is one round trip.
//
//	process of domain 1                 host process                    process of domain 2
//	┌──────────────────────┐   unixpacket   ┌──────────────┐   unixpacket   ┌──────────────────────┐
//	│ xen.Domain           │   socket       │ sim.Host     │   socket       │           xen.Domain │
//	│ Machine ─────────────┼───────────────▶│ ports, pins  │◀───────────────┼───────────── Machine │
//	│   shared_info        │                │ Xenstore     │                │        shared_info   │
//	└───▲──────────────┬───┘                └──────────────┘                └───┬──────────────▲───┘
//	    │              └──────────────────────── eventfd ───────────────────────┼──────────────┘
//	    └─────────────────────────────────────── eventfd ───────────────────────┘
//	    memory: one sealed memfd an allocation (an extent), mapped by both
//
// The messages are in message.go; both ends use that one file. A message is one packet of a SOCK_SEQPACKET Unix socket, with file
// descriptors beside it.
//
// It works on Linux. It is a test bench, not a security boundary: hypercalls are checked as Xen checks them, raw memory is not.
package attach
