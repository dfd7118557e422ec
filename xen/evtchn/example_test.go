package evtchn_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
)

// newDomains makes a simulated host with two domains.
func newDomains() (host *sim.Host, a, b *xen.Domain) {
	host = sim.NewHost(nil)
	first, err := host.NewDomain(&sim.DomainConfig{Name: "a"})
	if err != nil {
		log.Fatal(err)
	}
	second, err := host.NewDomain(&sim.DomainConfig{Name: "b"})
	if err != nil {
		log.Fatal(err)
	}
	return host, first.Xen(), second.Xen()
}

// connect makes a channel between two domains. The port is told to the other side through Xenstore, as a rule.
func connect(a, b *xen.Domain) (here, there evtchn.Channel) {
	here, err := a.Events().AllocUnbound(b.ID())
	if err != nil {
		log.Fatal(err)
	}
	there, err = b.Events().BindInterdomain(a.ID(), here.Port())
	if err != nil {
		log.Fatal(err)
	}
	return here, there
}

func Example() {
	host, a, b := newDomains()
	defer host.Close()
	here, there := connect(a, b)
	defer here.Close()
	defer there.Close()

	if err := here.Notify(); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println("b woke:", there.Wait(ctx))

	status, err := here.Status()
	fmt.Println(status.State == evtchn.Interdomain, status.Port == there.Port(), err)
	// Output:
	// b woke: <nil>
	// true true <nil>
}

// Closing a channel wakes whoever waits on it.
func ExampleChannel_close() {
	host, a, b := newDomains()
	defer host.Close()
	here, there := connect(a, b)
	defer here.Close()

	woken := make(chan error)
	go func() {
		var err error
		for err == nil { // binding alone may cause an arrival
			err = there.Wait(context.Background())
		}
		woken <- err
	}()
	there.Close()
	fmt.Println(errors.Is(<-woken, net.ErrClosed))
	// Output:
	// true
}

// What arrives while a channel is masked arrives once when it is unmasked.
func ExampleChannel_mask() {
	host, a, b := newDomains()
	defer host.Close()
	here, there := connect(a, b)
	defer here.Close()
	defer there.Close()
	arrived := make(chan struct{}, 10)
	there.Handle(func() { arrived <- struct{}{} })
	for len(arrived) > 0 { // binding alone may cause an arrival
		<-arrived
	}

	there.Mask()
	for range 3 {
		here.Notify()
	}
	fmt.Println("masked:", len(arrived))
	there.Unmask()
	<-arrived
	fmt.Println("unmasked:", len(arrived), "more")
	// Output:
	// masked: 0
	// unmasked: 0 more
}
