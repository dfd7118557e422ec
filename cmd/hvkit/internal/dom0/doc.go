// Package dom0 is what a Xenstore server needs of a control domain's Linux kernel and of Xen, beside sockets:
//
//	dom0's kernel -- page and port of /dev/xen/xenbus_backend -----\
//	domain 1      -- its grant 1, its port (INTRODUCE) -------------+--> streams, for xenstored.Server
//	domain 2      -- ...                                           /
//	Xen           -- VIRQ_DOM_EXC: some domain has shut down, or dies --> XEN_DOMCTL_getdomaininfo, then Shutdown or Release
//
// A [Host] is an [xenstored.Introducer].
package dom0
