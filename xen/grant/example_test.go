package grant_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/grant"
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

func Example() {
	host, a, b := newDomains()
	defer host.Close()

	// Domain a shares a page. It tells b the references, as a rule through Xenstore.
	share, err := a.Grants().Share(b.ID(), 1, grant.ReadWrite)
	if err != nil {
		log.Fatal(err)
	}
	share.Region().CopyIn(0, []byte("hello"))

	mapping, err := b.Grants().Map(a.ID(), share.Refs(), grant.ReadOnly)
	if err != nil {
		log.Fatal(err)
	}
	text := make([]byte, 5)
	mapping.Region().CopyOut(text, 0)
	fmt.Printf("b reads %q\n", text)

	// Whoever maps lets go first.
	if err := mapping.Close(); err != nil {
		log.Fatal(err)
	}
	ending, err := share.End()
	fmt.Println(ending, err)
	// Output:
	// b reads "hello"
	// reclaimed <nil>
}

// A share that is mapped cannot be taken back yet.
func ExampleShare_end() {
	host, a, b := newDomains()
	defer host.Close()
	share, err := a.Grants().Share(b.ID(), 1, grant.ReadWrite)
	if err != nil {
		log.Fatal(err)
	}
	mapping, err := b.Grants().Map(a.ID(), share.Refs(), grant.ReadWrite)
	if err != nil {
		log.Fatal(err)
	}

	ending, err := share.End()
	fmt.Println(ending, err, "- in quarantine:", a.Grants().Stats().Quarantined)
	mapping.Close()
	if table, ok := a.Grants().(*grant.Native); ok {
		fmt.Println("in quarantine:", table.Reap())
	}
	// Output:
	// busy <nil> - in quarantine: 1
	// in quarantine: 0
}

// What was not granted cannot be mapped, and the error has what Xen says of each page.
func ExampleMapError() {
	host, a, b := newDomains()
	defer host.Close()
	share, err := a.Grants().Share(b.ID(), 1, grant.ReadOnly)
	if err != nil {
		log.Fatal(err)
	}
	defer share.End()

	_, err = b.Grants().Map(a.ID(), share.Refs(), grant.ReadWrite)
	if mapErr, ok := errors.AsType[*grant.MapError](err); ok {
		fmt.Println(len(mapErr.Statuses), mapErr.Statuses[0])
	}
	// Output:
	// 1 GNTST_general_error (undefined error)
}

// Copying needs no mapping, and so no quarantine.
func ExampleTable_copy() {
	host, a, b := newDomains()
	defer host.Close()
	from, err := a.Grants().Share(b.ID(), 1, grant.ReadOnly)
	if err != nil {
		log.Fatal(err)
	}
	from.Region().CopyIn(100, []byte("hello"))
	to, err := b.Grants().Share(a.ID(), 1, grant.ReadWrite)
	if err != nil {
		log.Fatal(err)
	}

	err = b.Grants().Copy([]grant.CopyOp{{
		Src: grant.CopyEnd{Dom: a.ID(), Ref: from.Refs()[0], Offset: 100},
		Dst: grant.CopyEnd{Local: to},
		Len: 5,
	}})
	text := make([]byte, 5)
	to.Region().CopyOut(text, 0)
	fmt.Printf("%q %v\n", text, err)
	from.End()
	to.End()
	// Output:
	// "hello" <nil>
}
