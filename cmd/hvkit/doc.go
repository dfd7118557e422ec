// Command hvkit shows, serves and measures what the module does: simulated Xen hosts, Xenstore, and vchan between domains.
//
//	hvkit demo                                     two domains in two processes move a file, and one is killed
//	hvkit host                                     serve a simulated host that other processes join
//	hvkit vchan listen|dial|proxy                  move bytes between domains
//	hvkit xenstore read|write|ls|rm|mkdir|chmod|watch|tree
//	hvkit xenstored                                serve a Xenstore on a Unix socket
//	hvkit bench                                    measure vchan and Xenstore between two processes
//	hvkit doctor                                   what this machine offers, and how to mend what is missing
//
// Three terminals make a host, a server and a client:
//
//	$ hvkit host
//	$ hvkit vchan listen --domain server 5000 > copy
//	$ hvkit vchan dial --domain client server 5000 < file
//
// # Environment
//
// HVKIT_HOST is the socket of the host, HVKIT_DOMAIN the name of the domain that a command joins as, HVKIT_TOKEN the claim to a domain
// that the host has made, XENSTORED_PATH the socket of a Xenstore server. Flags come before them.
//
// # Exit codes
//
// 0: it worked. 1: it failed. 2: the command line is wrong. 3: there is no host, or no Xenstore, to talk to. 4: the platform cannot do
// it. 130 and 143: ended by SIGINT or SIGTERM.
package main
