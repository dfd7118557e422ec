package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// hypervisor is what Xen itself keeps: the domains, and what it owes to whom. It is a core: it has no lock and does not wait. [Host] is
// the shell around it, whose lock guards all of it and all of each guest.
type hypervisor struct {
	cfg     *HostConfig
	trace   *trace
	wiring  *wiring
	started time.Time

	domains  map[hypercall.DomID]*guest
	names    map[string]*Domain // of the domains, until Xenstore has forgotten them
	lastID   hypercall.DomID
	zombies  map[*guest]bool         // dead domains whose pages others have mapped still
	reserved map[hypercall.DomID]int // numbers of dead domains that Xenstore has not forgotten yet
	calls    uint64
	closed   bool
	owed     owed
}

// owed is what is to be done once the lock is free. Most often that is one upcall, or one wake of the host's own end of a channel: those
// have fields of their own so that they do not allocate.
type owed struct {
	upcall *vcpu
	wake   func()
	more   []func()
}

// pay does what is owed.
func (o *owed) pay() {
	if o.upcall != nil {
		o.upcall.deliver()
	}
	if o.wake != nil {
		o.wake()
	}
	for _, f := range o.more {
		f()
	}
}

// after has f run once the lock is free.
func (x *hypervisor) after(f func()) {
	if x.owed.wake == nil && x.owed.more == nil {
		x.owed.wake = f
		return
	}
	x.owed.more = append(x.owed.more, f)
}

// kick has the upcall of a domain run once the lock is free.
func (x *hypervisor) kick(v *vcpu) {
	switch x.owed.upcall {
	case nil:
		x.owed.upcall = v
	case v:
	default:
		x.owed.more = append(x.owed.more, v.deliver)
	}
}

// settle returns what is owed, and owes nothing any more.
func (x *hypervisor) settle() owed {
	o := x.owed
	x.owed = owed{}
	return o
}

// newID chooses a domain's number, or checks the one that was asked for.
func (x *hypervisor) newID(want hypercall.DomID, dom0 bool) (hypercall.DomID, error) {
	if dom0 || want != 0 {
		if dom0 && want != 0 || want >= hypercall.DomFirstReserved {
			return 0, fmt.Errorf("domain id %d: %w", want, hypercall.EINVAL)
		}
		if x.taken(want) {
			return 0, fmt.Errorf("domain id %d: %w", want, hypercall.EEXIST)
		}
		return want, nil
	}
	for range int(hypercall.DomFirstReserved) {
		x.lastID++
		if x.lastID >= hypercall.DomFirstReserved {
			x.lastID = 1
		}
		if !x.taken(x.lastID) {
			return x.lastID, nil
		}
	}
	return 0, fmt.Errorf("every domain id is in use: %w", hypercall.ENOSPC)
}

// taken reports whether a domain, or what is left of a dead one, has the number.
func (x *hypervisor) taken(id hypercall.DomID) bool {
	if x.domains[id] != nil || x.reserved[id] > 0 {
		return true
	}
	for z := range x.zombies {
		if z.id == id {
			return true
		}
	}
	return false
}

// reserve keeps a number from being used.
func (x *hypervisor) reserve(id hypercall.DomID) { x.reserved[id]++ }

func (x *hypervisor) unreserve(id hypercall.DomID) {
	if x.reserved[id]--; x.reserved[id] == 0 {
		delete(x.reserved, id)
	}
}

// buryOrKeep keeps the number of a dead domain from being used again while others have pages of it mapped.
func (x *hypervisor) buryOrKeep(dead *guest) {
	if dead.lent > 0 {
		x.zombies[dead] = true
		return
	}
	delete(x.zombies, dead)
}

// sorted returns the live domains by number.
func (x *hypervisor) sorted() []*guest {
	return slices.SortedFunc(maps.Values(x.domains), func(a, b *guest) int { return cmp.Compare(a.id, b.id) })
}

// uptime is the host's clock, which starts when it does.
func (x *hypervisor) uptime() time.Duration { return time.Since(x.started) }
