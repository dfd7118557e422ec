package xenstored_test

import (
	"context"
	"fmt"
	"log"
	"net"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// A store within a program: domain 0 makes a home for domain 1, which writes there and can see nothing else.
func Example() {
	s := xenstored.New(nil)
	defer s.Close()
	ctx := context.Background()

	host := s.LocalClient()
	defer host.Close()
	home := xenstore.DomainPath(1)
	if err := host.Mkdir(ctx, home); err != nil {
		log.Fatal(err)
	}
	if err := host.SetPerms(ctx, home, xenstore.Perm{Dom: 1, Access: xenstore.AccessNone}); err != nil {
		log.Fatal(err)
	}
	if err := s.IntroduceDomain(1); err != nil {
		log.Fatal(err)
	}

	near, far := net.Pipe() // a domain's stream: in earnest, a ring page
	go func() { _ = s.ServeConn(ctx, far, 1) }()
	guest := xenstore.NewClient(near, nil)
	defer guest.Close()
	if err := guest.Write(ctx, "name", []byte("web")); err != nil {
		log.Fatal(err)
	}
	_, err := guest.Read(ctx, "/tool")
	fmt.Println(err)

	for n := range s.Snapshot().All("/local") {
		fmt.Printf("%s = %q %v\n", n.Path, n.Value, n.Perms)
	}
	// Output:
	// xenstore: read /tool: EACCES (permission denied)
	// /local = "" [n0]
	// /local/domain = "" [n0]
	// /local/domain/1 = "" [n1]
	// /local/domain/1/name = "web" [n1]
}

// A domain that has gone leaves nothing behind.
func ExampleServer_ReleaseDomain() {
	s := xenstored.New(nil)
	defer s.Close()
	ctx := context.Background()
	host := s.LocalClient()
	defer host.Close()
	for _, err := range []error{
		s.IntroduceDomain(1),
		host.Mkdir(ctx, "/local/domain/1"),
		host.SetPerms(ctx, "/local/domain/1", xenstore.Perm{Dom: 1}),
		s.ReleaseDomain(1),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	names, err := host.List(ctx, "/local/domain")
	fmt.Println(names, err)
	// Output: [] <nil>
}
