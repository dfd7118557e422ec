package sim

import (
	"fmt"
	"slices"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Leaks names what is left of what domains took: for each live domain its open ports (but for Xenstore's), its grants, its mappings,
// and its memory beside what it booted with; for dead domains pages that others have mapped still; and watches and transactions in
// Xenstore of domains that are gone. A test whose drivers cleaned up finds nothing.
func (h *Host) Leaks() []string {
	h.mu.Lock()
	var leaks []string
	for _, d := range h.hv.sorted() {
		leaks = append(leaks, d.leaks()...)
	}
	for z := range h.hv.zombies {
		leaks = append(leaks, fmt.Sprintf("domain %d (%s): dead, and others have pages of it mapped", z.id, z.name))
	}
	h.mu.Unlock()
	slices.Sort(leaks)
	return append(leaks, h.storeLeaks()...)
}

func (d *guest) leaks() []string {
	var out []string
	add := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("domain %d (%s): ", d.id, d.name)+fmt.Sprintf(format, args...))
	}
	for n := range d.ports {
		p := &d.ports[n]
		if p.state != hypercall.EvtchnClosed && p.back == nil {
			add("port %d is open (%v)", n, p.state)
		}
	}
	for ref := hypercall.GrantRef(hypercall.NumReservedGrants); ; ref++ {
		r, off, ok := d.grants.entry(ref)
		if !ok {
			break
		}
		if flags := r.Load16(off + entryFlags).Unchecked(); flags != 0 {
			add("grant %d to domain %d is in force (flags %#x)", ref, r.Load16(off+entryDom).Unchecked(), flags)
		}
	}
	for handle, m := range d.grants.maps {
		add("grant %d of domain %d is mapped (handle %d)", m.pin.ref, m.pin.ownerID, handle)
	}
	if d.pages != 0 {
		add("%d pages of memory are allocated", d.pages)
	}
	for n := range d.notify {
		add("an unmap notification is set on frame %#x", uint64(n))
	}
	return out
}

func (h *Host) storeLeaks() []string {
	var out []string
	s := h.store.Stats()
	if s.Watches != 0 {
		out = append(out, fmt.Sprintf("xenstore: %d watches are set", s.Watches))
	}
	if s.Transactions != 0 {
		out = append(out, fmt.Sprintf("xenstore: %d transactions are open", s.Transactions))
	}
	return out
}
