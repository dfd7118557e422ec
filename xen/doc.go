// Package xen is where a program finds out which domain it is, and gets at what a domain has.
//
// A domain is a virtual machine of a Xen host. It can share pages of its memory with other domains (package grant), send and receive
// events (package evtchn), and read and write a tree of small values that all domains see (package xenstore). A [Domain] holds the three
// together with the domain's number and name:
//
//	d, err := xen.Open(ctx)
//	...
//	share, err := d.Grants().Share(peer, 1, grant.ReadWrite)  // a page that peer may map
//	ch, err := d.Events().AllocUnbound(peer)                  // a channel that peer may bind to
//	err = d.Store().Write(ctx, "data/offer", ...)             // where peer finds the two numbers
//
// Package vchan makes streams of bytes out of these; device drivers are made of them too.
//
// # Platforms
//
// [Open] finds the platform. Where the environment variable HVKIT_HOST names a simulated host that another process serves, that is it;
// `hvkit host` serves one. Otherwise it is real Xen, through the devices of the Linux kernel that the program runs on ([OpenLinux]). In a
// test, package sim makes hosts and domains in the same process. What is made on a [Domain] does not know on which of them it is.
//
// The simulated ones have a [Machine] below: something that makes hypercalls and has guest-physical memory. [NewDomain] runs the native
// grant tables and event channels on any Machine, as they would run on bare Xen. On Linux the kernel owns both, and lends them out.
//
// # Incarnations
//
// A domain may be suspended, and go on later, perhaps on another host and under another number. Its connections to others do not
// survive that: handles of before answer [ErrStale]. [Domain.Incarnation] counts, and tells when it happens.
//
// # Names
//
// Wherever hvkit takes a domain it takes a number or a name; [Domain.Lookup] turns the one into the other.
package xen
