package sim_test

import (
	"context"
	"fmt"
	"log"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
)

func newDomain(h *sim.Host, name string) *sim.Domain {
	d, err := h.NewDomain(&sim.DomainConfig{Name: name})
	if err != nil {
		log.Fatal(err)
	}
	return d
}

// connect shares a page and an event channel of a's with b.
func connect(a, b *xen.Domain) (page grant.Share, mapped grant.Mapping, ca, cb evtchn.Channel) {
	page, err := a.Grants().Share(b.ID(), 1, grant.ReadWrite)
	if err != nil {
		log.Fatal(err)
	}
	if mapped, err = b.Grants().Map(a.ID(), page.Refs(), grant.ReadWrite); err != nil {
		log.Fatal(err)
	}
	if ca, err = a.Events().AllocUnbound(b.ID()); err != nil {
		log.Fatal(err)
	}
	if cb, err = b.Events().BindInterdomain(a.ID(), ca.Port()); err != nil {
		log.Fatal(err)
	}
	if err = cb.Wait(context.Background()); err != nil { // Xen sends one event for what may have been lost before
		log.Fatal(err)
	}
	return page, mapped, ca, cb
}

// Two domains share a page, and one tells the other that there is something in it.
func Example() {
	host := sim.NewHost(nil)
	defer host.Close()
	a, b := newDomain(host, "a").Xen(), newDomain(host, "b").Xen()
	page, mapped, ca, cb := connect(a, b)

	page.Region().CopyIn(0, []byte("hello"))
	if err := ca.Notify(); err != nil {
		log.Fatal(err)
	}
	if err := cb.Wait(context.Background()); err != nil {
		log.Fatal(err)
	}
	got := make([]byte, 5)
	mapped.Region().CopyOut(got, 0)
	fmt.Printf("%s got %q\n", b.Name(), got)

	mapped.Close()
	ca.Close()
	cb.Close()
	end, err := page.End()
	fmt.Println("the page was", end, err)
	fmt.Println("left behind:", host.Leaks())
	// Output:
	// b got "hello"
	// the page was reclaimed <nil>
	// left behind: []
}

// A domain dies. Its peer is told, and what it has mapped of the dead domain stays valid.
func ExampleDomain_Destroy() {
	host := sim.NewHost(nil)
	defer host.Close()
	doomed, survivor := newDomain(host, "doomed"), newDomain(host, "survivor")
	page, mapped, ca, cb := connect(doomed.Xen(), survivor.Xen())
	page.Region().CopyIn(0, []byte{1})
	page.Region().CopyIn(1, []byte("last words"))
	err := page.SetNotify(grant.Notify{ClearByte: true, Offset: 0, Port: ca.Port()})
	if err != nil {
		log.Fatal(err)
	}

	doomed.Destroy()
	if err := cb.Wait(context.Background()); err != nil {
		log.Fatal(err)
	}
	words := make([]byte, 10)
	mapped.Region().CopyOut(words, 1)
	st, err := cb.Status()
	fmt.Println("alive:", mapped.Region().Load8(0).Unchecked())
	fmt.Printf("%s\n", words)
	fmt.Println("channel unbound:", st.State == evtchn.Unbound, err)
	// Output:
	// alive: 0
	// last words
	// channel unbound: true <nil>
}
