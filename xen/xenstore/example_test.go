package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// A server of one's own stands in for the host's in the examples.
func Example() {
	server := xenstored.New(nil)
	defer server.Close()
	c := server.LocalClient() // on a host: xenstore.Dial(ctx, "", nil)
	defer c.Close()

	ctx := context.Background()
	if err := c.Write(ctx, "/local/domain/3/name", []byte("web")); err != nil {
		fmt.Println(err)
	}
	name, err := c.Read(ctx, "/local/domain/3/name")
	fmt.Printf("%s %v\n", name, err)
	_, err = c.Read(ctx, "/local/domain/4/name")
	fmt.Println(err, errors.Is(err, fs.ErrNotExist))
	// Output:
	// web <nil>
	// xenstore: read /local/domain/4/name: ENOENT (does not exist) true
}

func ExampleClient_Transaction() {
	server := xenstored.New(nil)
	defer server.Close()
	c := server.LocalClient()
	defer c.Close()
	ctx := context.Background()

	// Take the next free number, however many others do the same now.
	next := func() (n int, err error) {
		err = c.Transaction(ctx, func(tx *xenstore.Tx) error {
			v, err := tx.Read(ctx, "/tool/next")
			if err != nil && !errors.Is(err, xenstore.ENOENT) {
				return err
			}
			n, _ = strconv.Atoi(string(v))
			return tx.Write(ctx, "/tool/next", []byte(strconv.Itoa(n+1)))
		})
		return n, err
	}
	for range 3 {
		fmt.Println(next())
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 2 <nil>
}

func ExampleClient_Events() {
	server := xenstored.New(nil)
	defer server.Close()
	c := server.LocalClient()
	defer c.Close()
	ctx := context.Background()

	// Follow the state of a device. The first event comes at once, whether or not the node exists.
	states := []string{"1", "4", "6"}
	for _, err := range c.Events(ctx, "/dev/state") {
		if err != nil {
			fmt.Println(err)
			return
		}
		state, err := c.Read(ctx, "/dev/state")
		fmt.Printf("state %q, there: %t\n", state, err == nil)
		if len(states) == 0 {
			break
		}
		if err := c.Write(ctx, "/dev/state", []byte(states[0])); err != nil { // in life, somebody else does this
			fmt.Println(err)
		}
		states = states[1:]
	}
	// Output:
	// state "", there: false
	// state "1", there: true
	// state "4", there: true
	// state "6", there: true
}

func ExampleClient_FS() {
	server := xenstored.New(nil)
	defer server.Close()
	c := server.LocalClient()
	defer c.Close()
	ctx := context.Background()
	for path, value := range map[string]string{"name": "web", "memory/target": "1024", "device/vif/0/state": "4"} {
		if err := c.Write(ctx, "/local/domain/3/"+path, []byte(value)); err != nil {
			fmt.Println(err)
		}
	}

	view := c.FS(ctx, "/local/domain/3")
	err := fs.WalkDir(view, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != xenstore.ValueName {
			value, _ := fs.ReadFile(view, path)
			fmt.Printf("%s = %s\n", path, value)
		}
		return err
	})
	fmt.Println(err)
	// Output:
	// device/vif/0/state = 4
	// memory/target = 1024
	// name = web
	// <nil>
}

// A guest and a server that share a page.
func ExampleNewRingConn() {
	page := shm.New(1)
	guestEnd, storeEnd := xenstoretest.NewChannels() // between domains: two ends of an event channel
	srv, err := xenstore.NewRingConn(page, storeEnd, xenstore.RoleServer, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := xenstored.New(nil)
	served := make(chan error)
	go func() { served <- server.ServeConn(context.Background(), srv, 0) }()

	conn, err := xenstore.NewRingConn(page, guestEnd, xenstore.RoleClient, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	c := xenstore.NewClient(conn, nil)
	path, err := c.DomainPath(context.Background(), 7)
	fmt.Println(path, err)
	c.Close()
	server.Close()
	<-served
	// Output: /local/domain/7 <nil>
}

func ExampleCheckPath() {
	fmt.Println(xenstore.CheckPath("/local/domain/3/name"))
	fmt.Println(xenstore.CheckPath("/local/domain/"))
	// Output:
	// <nil>
	// xenstore: path "/local/domain/" ends in a slash
}
