// Package grant shares memory between domains of a Xen host, one 4096-byte page at a time.
//
// A domain lets another one reach a page of its own by an entry in its grant table: who, which page, and whether it may be written.
// The number of the entry is the grant reference. It is told to the other side, in Xenstore or in a ring, and the other side maps the
// page, or has Xen copy from or to it. (Public grant_table.h is the protocol; Xen's common/grant_table.c is what happens.)
//
//	domain 1                              Xen                               domain 2
//	────────                              ───                               ────────
//	Share(2, pages) ── entry 8: domain 2, frame f
//	        └─ Refs() = [8] ─────────── told through Xenstore ────────────▶ Map(1, [8])
//	                                 entry 8: is in use ◀──────────────────── └─ Region()
//	Region() ◀──────────────────── the same page of memory ───────────────▶ Region()
//	                                 entry 8: is not in use ◀──────────────── Close()
//	End() ── entry 8: empty
//
// # The life of a grant
//
//	               Share                              End: Reclaimed
//	free ─────────────────────▶ granted ─────────────────────────────────▶ free, and so is the page
//	                             │   ▲
//	            the peer maps it │   │ the peer unmaps it
//	                             ▼   │
//	                            mapped ──────────────▶ quarantine ────────▶ free
//	                                     End: Busy                 the peer unmaps it
//
// A peer that has a page mapped keeps it for as long as it likes: nothing can take it away. So ending a share is a question, whose
// answer is an [Ending]. Reclaimed pages are free. Busy ones wait in quarantine: neither the pages nor the references are used again
// until the peer has let go, for which the table looks at each later End, when it runs out of references, and when [Native.Reap] says
// so. One peer may hold [Config].MaxQuarantine pages there, by default a quarter of what the table can have references for; then
// nothing more is shared with it ([QuarantineError]) until it lets go, so that it uses up its own part of the table and not the
// others'. What was shared with it before that stays, and may come on top as it is ended. Surrendered is what Linux's gntalloc
// answers, which takes the page and does not tell.
//
// # What is trusted
//
// Xen is; the peer is not. It can map early, late, often and for ever, and write whatever it likes into what it may write: see
// package shm for how such memory is read. References that a peer names are only numbers, which Xen checks when they are used. Every
// status that Xen gives is looked at, and only GNTST_okay is success; operations that Xen answers GNTST_eagain are tried again a
// bounded number of times.
//
// Pages are shared whole, are zeroed before, and are allocated by the platform for the purpose, so that nothing else is in them.
//
// # Implementations
//
// [Table] is what drivers use. [NewNative] makes one for a domain that makes its own hypercalls: a bare guest, or a domain of the
// simulator. It has a core, [V1], which is the table as a plain data structure, and a shell, [Native], which adds hypercalls, locks
// and waiting. [OpenLinux] makes one for a program on a Linux kernel, whose devices gntalloc and gntdev do the work. The suite in
// granttest says what every Table must do.
//
// A program with several devices gives each of them a [Quota], its own part of the table: then one that is driven to share ever more
// comes to an end of its own.
//
// # Suspend and resume
//
// A domain that was suspended and resumed has a new, empty table. Shares and mappings of before are closed by then, and answer
// [hypercall.ErrStale]: make new ones. So do operations that a resume came in between of. Their memory and frame numbers, which
// outlive incarnations, are given back all the same.
package grant
