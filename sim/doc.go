// Package sim is a userspace Xen: a machine with a hypervisor, a Xenstore server and a toolstack, on which both ends of every protocol
// run in an ordinary Go test, with no Xen and no root.
//
// A [Host] holds domains. A [Domain] has memory pages, a grant table, event channel bitmaps and a Xenstore ring that are laid out as the
// real ones are, for each architecture; the host answers hypercalls by reading and writing that memory as Xen does, with Xen's checks and
// error codes. So the native code that runs on bare Xen (packages xen, xen/grant, xen/evtchn) is what runs here:
//
//	┌─ domain 1 ─────────────┐                      ┌─ domain 2 ─────────────┐
//	│ driver                 │                      │                 driver │
//	│ Domain.Xen: *xen.Domain│                      │ Domain.Xen: *xen.Domain│
//	├─ hypercalls ─▲─ events ┤                      ├─ hypercalls ─▲─ events ┤
//	│  memory, grant table,  │                      │  memory, grant table,  │
//	│  shared_info           │                      │  shared_info           │
//	└────────┬─────┴─────────┘                      └────────┬─────┴─────────┘
//	┌────────▼──────────────── Host ────────────────────────▼───────────────┐
//	│ hypervisor: who may map, copy, bind and send    xenstored   toolstack │
//	└────────────────────────────────────────────────────────────────────────┘
//
// A short program:
//
//	host := sim.NewHost(nil)
//	defer host.Close()
//	server, err := host.NewDomain(&sim.DomainConfig{Name: "server"})
//	...
//	d := server.Xen() // *xen.Domain, as xen.Open returns it on a real machine
//
// # In this process and in others
//
// Domains of this process are made with [Host.NewDomain]; their memory is Go heap, in which the race detector sees races. With
// HostConfig.Shared memory is files (memfds), which other processes map too: [Host.Serve] lets processes join over a Unix socket, as
// domains that were made with DomainConfig.External or as new ones, and [xen.Join] or [xen.Open] in them does so. Domains of both kinds
// share memory and events with each other. A process that dies is a domain that is destroyed.
//
// # What a toolstack does
//
// A Domain is paused, suspended, resumed (with the same number or a new one), reset softly, and destroyed, at any moment and from any
// goroutine. [Host.Leaks] names what domains took and did not give back; [Host.WriteTrace] prints what happened last. Package simtest has
// both done for every test.
//
// # What differs from Xen
//
// The model is an HVM guest of Xen 4.17 with one vCPU, 2-level event channels and version 1 grants (gnttab=max-ver:1), on a host where
// every domain may use every device. These differ on purpose:
//
//   - A page is not mapped over memory that is there already: Xen would, and the memory would be lost to the guest.
//   - Xen's own pages (shared_info, the grant table) cannot be granted. Grants by device (GNTMAP_device_map) and transfers do not exist.
//   - One hypercall does at most 4096 grant operations, 1024 calls of a multicall, or 65536 extents, since it is not interrupted.
//   - SCHEDOP_block, SCHEDOP_poll and SCHEDOP_yield return at once: what runs in a domain is goroutines, which wait in Go.
//   - Memory outlives a suspend at the same frame numbers; Xen's pages and mappings do not, as on Xen.
//   - A domain's unmap notifications (gntalloc's and gntdev's SET_UNMAP_NOTIFY, here [hypercall.UnmapNotifier]) are kept by the host, and
//     so work for every domain that dies, also by a crash of the kernel in it. They fire when a domain is suspended too.
//   - Names of domains in Xenstore may be read by all, so that a name can stand where a number can.
//   - A domain of another process makes its own memory (XENMEM_populate_physmap is not there), plays Xen towards itself for pending bits,
//     and so can cheat itself; hypercalls are checked as everybody's, raw memory is not. It is a test bench, not a security boundary. A
//     port that a privileged domain opens in it takes no events.
package sim
