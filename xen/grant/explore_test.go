package grant_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/explore"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// granting is a domain that shares pages with a peer, one after the other, and Xen's half of the table, which maps for the peer. The
// domain's half is the core that production uses.
type granting struct {
	w       *explore.World
	core    *grant.V1
	table   *shm.Region
	owned   []page // by frame number
	offered []offer
	shared  int
	done    bool
	mapped  []int // the frames that the peer has mapped
}

// page is what became of one of the domain's pages.
type page struct {
	private bool // it holds what the peer must not see
	offered bool
}

// offer is a message to the peer: map this.
type offer struct{ ref grant.Ref }

const (
	granter = hypercall.DomID(1)
	grantee = hypercall.DomID(2)
	// The entry of a version 1 table.
	grantEntry = 8
)

func newGranting(w *explore.World, pages int) *granting {
	g := &granting{w: w, core: grant.NewV1(1), table: shm.New(1), owned: make([]page, pages)}
	if busy := grant.Survey(g.table, true); len(busy) > 0 {
		w.Errorf("an empty table has busy entries")
	}
	g.core.Grow(g.table, nil)
	// References are used again as late as can be, which in a table of 512 would be never here: all but two are taken.
	g.core.Take(make([]grant.Ref, g.core.Free()-2))
	w.Watch("table", g.table, func(off, n int) string {
		return fmt.Sprintf("entry %d %s", off/grantEntry, map[int]string{0: "flags", 2: "domid", 4: "frame"}[off%grantEntry])
	})
	w.State(func() uint64 {
		h := uint64(g.shared)
		for _, p := range g.owned {
			h <<= 2
			if p.private {
				h |= 1
			}
			if p.offered {
				h |= 2
			}
		}
		for _, f := range g.mapped {
			h = h*31 + uint64(f) + 1
		}
		return h*31 + uint64(len(g.offered))
	})
	return g
}

// share is what the domain does: it shares each of its pages once, ends the share some time later, and uses a page that it got back for
// something else.
func (g *granting) share(t *explore.Task) {
	refs := make([]grant.Ref, 1)
	for frame := range g.owned {
		for !g.core.Take(refs) {
			g.w.Reached("no reference is free")
			g.retry(t)
		}
		g.core.Permit(refs[0], grantee, hypercall.GFN(frame), grant.ReadWrite)
		g.owned[frame].offered = true
		g.offered = append(g.offered, offer{refs[0]})
		g.shared++
		t.Step("the peer works")
		if g.core.End(refs[0]) {
			g.reclaim(frame)
			g.core.Put(refs)
			continue
		}
		g.w.Reached("an end finds the page mapped")
		g.core.Quarantine(&grant.Batch{Peer: grantee, Refs: []grant.Ref{refs[0]}, First: hypercall.GFN(frame), Pages: 1})
	}
	for g.core.Batches() > 0 {
		g.retry(t)
	}
	g.done = true
}

// retry tries what is in quarantine once more, when the peer has let go of something.
func (g *granting) retry(t *explore.Task) {
	t.Until("the peer lets go", func() bool { return g.inUse() < g.core.Batches() })
	for range g.core.Batches() {
		b := g.core.Release()
		if !g.core.End(b.Refs[0]) {
			g.core.Quarantine(b)
			continue
		}
		g.w.Reached("a page comes out of quarantine")
		g.reclaim(int(b.First))
		g.core.Put(b.Refs)
	}
}

// inUse returns how many entries Xen says are mapped.
func (g *granting) inUse() (n int) {
	for off := 0; off < g.table.Size(); off += grantEntry {
		if g.table.Load16(off).Bits(hypercall.EntryReading|hypercall.EntryWriting) != 0 {
			n++
		}
	}
	return n
}

func (g *granting) reclaim(frame int) { g.owned[frame].private = true }

// use is what the peer does: it maps each reference that it heard of, perhaps late, and unmaps it.
func (g *granting) use(t *explore.Task) {
	for at := 0; ; at++ {
		t.Until("an offer", func() bool { return at < len(g.offered) || g.done })
		if at == len(g.offered) {
			return
		}
		ref := g.offered[at].ref
		frame, ok := g.mapGrant(int(ref) * grantEntry)
		if !ok {
			g.w.Reached("a map comes too late")
			continue
		}
		g.mapped = append(g.mapped, frame)
		t.Step("use the page")
		g.unmapLast()
		g.table.And16(int(ref)*grantEntry, ^uint16(hypercall.EntryReading|hypercall.EntryWriting))
		t.Step("unmapped")
	}
}

func (g *granting) unmapLast() { g.mapped = g.mapped[:len(g.mapped)-1] }

// mapGrant is what Xen does for GNTTABOP_map_grant_ref (_set_status_v1 in common/grant_table.c): it sets the flags that say that the page
// is in use by compare-and-swap of flags and domain together, a few times, and only then reads the frame.
func (g *granting) mapGrant(off int) (frame int, ok bool) {
	for range 5 {
		was := g.table.Load32(off).Unchecked()
		if was&3 != hypercall.EntryPermitAccess || hypercall.DomID(was>>16) != grantee {
			return 0, false
		}
		if g.table.CompareAndSwap32(off, was, was|uint32(hypercall.EntryReading|hypercall.EntryWriting)) {
			return int(g.table.Load32(off + 4).Unchecked()), true
		}
		g.w.Reached("Xen's compare-and-swap fails")
	}
	return 0, false
}

// oracles: a page that the domain uses for itself is mapped by nobody, and what is mapped was offered.
func (g *granting) oracles() {
	g.w.Always("no page is mapped that was reclaimed", func() error {
		for _, frame := range g.mapped {
			switch {
			case frame >= len(g.owned) || !g.owned[frame].offered:
				return fmt.Errorf("the peer has frame %d, which was never shared", frame)
			case g.owned[frame].private:
				return fmt.Errorf("the peer has frame %d, which the domain got back", frame)
			}
		}
		return nil
	})
	g.w.Finally("nothing is left", func() error {
		if g.core.Free() != 2 || g.core.Held() != 0 || g.core.HeldBy(grantee) != 0 {
			return fmt.Errorf("%d of 2 references are free, %d pages in quarantine", g.core.Free(), g.core.Held())
		}
		for off := 0; off < g.table.Size(); off += grantEntry {
			if flags := g.table.Load16(off).Unchecked(); flags != 0 {
				return fmt.Errorf("entry %d still has flags %#x", off/grantEntry, flags)
			}
		}
		return nil
	})
}

// TestExploreGrants: share, map, unmap and end in every order, references used again, and the peer's death at any step.
func TestExploreGrants(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprintf("peer dies %v", dies), func(t *testing.T) {
			cfg := &explore.Config{Delays: explore.Pick(5, explore.Unbounded, explore.Unbounded), Merge: true, MustReach: []string{
				"an end finds the page mapped", "a page comes out of quarantine", "a map comes too late", "Xen's compare-and-swap fails",
			}}
			explore.Check(t, cfg, func(w *explore.World) {
				g := newGranting(w, 4)
				w.Go("domain", g.share)
				peer := w.Go("peer", g.use)
				if dies {
					w.Fault("the peer dies", func() { g.release() }).Kills(peer)
				}
				g.oracles()
			})
		})
	}
}

// release is what Xen does when the peer has died: it unmaps all that the peer had mapped. It is no step.
func (g *granting) release() {
	g.mapped = nil
	for off := 0; off < g.table.Size(); off += grantEntry {
		g.table.And16(off, ^uint16(hypercall.EntryReading|hypercall.EntryWriting))
	}
}

// TestExploreNativeGrants drives the whole native implementation over the simulated Xen: two domains, one page, and a death, a suspend or
// a soft reset of either domain at any step.
func TestExploreNativeGrants(t *testing.T) {
	faults := map[string]func(d *sim.Domain) error{
		"none":       nil,
		"destroyed":  (*sim.Domain).Destroy,
		"soft reset": (*sim.Domain).SoftReset,
		"resumed":    func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(false)) },
		"renumbered": func(d *sim.Domain) error { return errors.Join(d.Suspend(), d.Resume(true)) },
	}
	for what, fault := range faults {
		for _, victim := range []string{"granter", "mapper"} {
			if fault == nil && victim == "mapper" {
				continue
			}
			t.Run(what+" "+victim, func(t *testing.T) {
				cfg := &explore.Config{Delays: explore.Pick(1, 2, 3)}
				if cfg.Delays > 1 && victim == "granter" && fault == nil {
					cfg.MustReach = []string{"busy"}
				}
				if fault != nil {
					cfg.MustReach = append(cfg.MustReach, "a map comes too late")
				}
				explore.Check(t, cfg, func(w *explore.World) {
					n := newNativePair(w)
					if fault != nil {
						w.Fault(victim+" is "+what, func() {
							n.struck = victim
							if err := fault(n.domains[victim]); err != nil {
								w.Errorf("%s: %v", what, err)
							}
							n.resume(victim)
						})
					}
					n.run()
				})
			})
		}
	}
}

// nativePair is two domains with native grant tables.
type nativePair struct {
	w       *explore.World
	host    *sim.Host
	domains map[string]*sim.Domain
	tables  map[string]*grant.Native
	refs    []grant.Ref
	offered bool
	struck  string
}

func newNativePair(w *explore.World) *nativePair {
	n := &nativePair{w: w, host: sim.NewHost(nil), domains: make(map[string]*sim.Domain), tables: make(map[string]*grant.Native)}
	w.Cleanup(func() {
		if err := n.host.Close(); err != nil {
			w.Errorf("close the host: %v", err)
		}
	})
	for _, name := range []string{"granter", "mapper"} {
		d, m, err := n.host.NewBare(&sim.DomainConfig{Name: name})
		if err != nil {
			w.Errorf("%v", err)
			w.FailNow()
		}
		watched := w.Machine(name, m)
		table, err := grant.NewNative(watched, watched, nil)
		if err != nil {
			w.Errorf("%v", err)
			w.FailNow()
		}
		n.domains[name], n.tables[name] = d, table
	}
	return n
}

// resume is what package xen does when the machine says that the domain is another incarnation. Where it was destroyed nobody says so.
func (n *nativePair) resume(name string) {
	if n.domains[name].State() == "running" {
		n.w.Go(name+" resumes", func(t *explore.Task) {
			if err := n.tables[name].Resume(); err != nil {
				t.Errorf("resume: %v", err)
			}
		})
	}
}

func (n *nativePair) run() {
	const secret = 0x5ec2e7
	n.w.Go("granter", func(t *explore.Task) {
		share, err := n.tables["granter"].Share(n.domains["mapper"].ID(), 1, grant.ReadWrite)
		if err != nil {
			n.excuse(t, "share", err)
			return
		}
		share.Region().Store32(0, 1)
		n.refs, n.offered = share.Refs(), true
		t.Step("offer")
		ending, err := share.End()
		if err != nil {
			n.excuse(t, "end", err)
			return
		}
		if ending == grant.Busy {
			n.w.Reached("busy")
		}
	})
	n.w.Go("mapper", func(t *explore.Task) {
		t.Until("an offer", func() bool { return n.offered || n.struck != "" })
		if !n.offered {
			return
		}
		m, err := n.tables["mapper"].Map(n.domains["granter"].ID(), n.refs, grant.ReadWrite)
		if err != nil {
			n.w.Reached("a map comes too late")
			return
		}
		if v := m.Region().Load32(0); !v.Is(1) && !v.Is(0) {
			t.Fatalf("the mapped page holds %v", v)
		}
		m.Region().Store32(4, secret)
		if err := m.Close(); err != nil {
			n.excuse(t, "unmap", err)
		}
	})
	n.w.Finally("nothing leaks", func() error {
		for name, table := range n.tables {
			s := table.Stats()
			if s.Shared != 0 || s.Mapped != 0 {
				return fmt.Errorf("the %s counts %d pages shared, %d mapped", name, s.Shared, s.Mapped)
			}
			if s.Leaked != 0 && n.struck == "" {
				return fmt.Errorf("the %s counts %d pages leaked", name, s.Leaked)
			}
			if n.domains[name].State() != "running" {
				continue
			}
			if held := table.Reap(); held != 0 {
				return fmt.Errorf("the %s has %d pages in quarantine that nobody has mapped", name, held)
			}
			if err := table.Close(); err != nil {
				return fmt.Errorf("close the table of the %s: %w", name, err)
			}
		}
		if leaks := n.host.Leaks(); len(leaks) > 0 {
			return fmt.Errorf("Xen says: %q", leaks)
		}
		return nil
	})
}

// excuse fails the run unless something has struck, whose errors these are.
func (n *nativePair) excuse(t *explore.Task, op string, err error) {
	if n.struck == "" || errors.Is(err, hypercall.EFAULT) {
		t.Fatalf("%s: %v", op, err)
	}
}
