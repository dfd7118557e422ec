package xen_test

import (
	"context"
	"fmt"
	"log"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// Two domains find each other by name, and one reads what the other left in Xenstore for it.
func Example() {
	host := sim.NewHost(nil)
	defer host.Close()
	ctx := context.Background()
	for _, name := range []string{"web", "database"} {
		if _, err := host.NewDomain(&sim.DomainConfig{Name: name}); err != nil {
			log.Fatal(err)
		}
	}
	web, database := host.Domain(1).Xen(), host.Domain(2).Xen()

	if err := database.Store().Write(ctx, "data/motd", []byte("I am up")); err != nil {
		log.Fatal(err)
	}
	if err := database.Store().SetPerms(ctx, "data/motd", readableBy(database.ID(), web.ID())...); err != nil {
		log.Fatal(err)
	}
	id, err := web.Lookup(ctx, "database")
	if err != nil {
		log.Fatal(err)
	}
	text, err := web.Store().Read(ctx, fmt.Sprintf("/local/domain/%d/data/motd", id))
	fmt.Printf("%s (domain %d) says: %s %v\n", "database", id, text, err)
	// Output: database (domain 2) says: I am up <nil>
}

func readableBy(owner, reader hypercall.DomID) []xenstore.Perm {
	return []xenstore.Perm{{Dom: owner}, {Dom: reader, Access: xenstore.AccessRead}}
}
