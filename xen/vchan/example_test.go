package vchan_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/vchan"
)

// twoDomains returns two domains of a simulated host. On Xen, xen.Open returns the domain that the program runs in.
func twoDomains() (server, client *xen.Domain, stop func()) {
	host := sim.NewHost(nil)
	s, err := host.NewDomain(&sim.DomainConfig{Name: "server"})
	if err != nil {
		panic(err)
	}
	c, err := host.NewDomain(&sim.DomainConfig{Name: "client"})
	if err != nil {
		panic(err)
	}
	return s.Xen(), c.Xen(), func() { host.Close() }
}

// A server greets each client. The domains are named; numbers would do, too.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, client, stop := twoDomains()
	defer stop()

	l, err := vchan.Listen(ctx, server, "greeting", &vchan.ListenConfig{Clients: []string{"client"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the listener was closed
			}
			fmt.Fprintf(conn, "hello, domain %d", conn.RemoteAddr().(vchan.Addr).Dom)
			conn.Close() // waits until the client has read it
		}
	}()

	conn, err := vchan.Dial(ctx, client, "server", "greeting", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	fmt.Printf("%s, %v\n", text, err)
	// Output: hello, domain 2, <nil>
}

// HTTP between two domains, with no network.
func ExampleDialer() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, client, stop := twoDomains()
	defer stop()

	l, err := vchan.Listen(ctx, server, "80", &vchan.ListenConfig{Any: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you are %s", r.RemoteAddr)
	})}
	go srv.Serve(l)
	defer srv.Close()

	transport := &http.Transport{DialContext: (&vchan.Dialer{Domain: client}).DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://server/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s, %v\n", body, err)
	// Output: you are 2:/local/domain/1/data/vchan/2/80, <nil>
}

// Messages keep their bounds.
func ExampleFramed() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, client, stop := twoDomains()
	defer stop()
	l, err := vchan.Listen(ctx, server, "messages", &vchan.ListenConfig{Clients: []string{"client"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	conn, err := vchan.Dial(ctx, client, "server", "messages", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	accepted, err := l.AcceptVchan()
	if err != nil {
		fmt.Println(err)
		return
	}
	out, in := vchan.NewFramed(conn), vchan.NewFramed(accepted)
	for _, msg := range []string{"one", "", "three"} {
		if err := out.WriteMsg([]byte(msg)); err != nil {
			fmt.Println(err)
		}
	}
	buf := make([]byte, 16)
	for range 3 {
		n, err := in.ReadMsg(buf)
		fmt.Printf("%q, %v\n", buf[:n], err)
	}
	conn.Close()
	accepted.Close()
	// Output:
	// "one", <nil>
	// "", <nil>
	// "three", <nil>
}

// The core alone: both ends over three pages, in one goroutine. The events that a caller would send are what notify says.
func ExampleCore() {
	ctl, left, right := shm.New(1), shm.New(1), shm.New(1)
	server, err := vchan.NewServer(ctl, left, right, vchan.Layout{LeftOrder: 12, RightOrder: 12}, []hypercall.GrantRef{8, 9}, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	header, err := vchan.ReadHeader(ctl)
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := vchan.NewClient(ctl, left, right.ReadOnly(), header)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(client.Connect())

	n, notify, err := client.Out.TryWrite([]byte("hello"))
	fmt.Println(n, notify, err)
	client.Close()

	buf := make([]byte, 16)
	n, notify, err = server.In.TryRead(buf)
	fmt.Printf("%q %v %v\n", buf[:n], notify, err)
	_, _, err = server.In.TryRead(buf)
	fmt.Println(err)
	// Output:
	// <nil>
	// 5 true <nil>
	// "hello" false <nil>
	// EOF
}
