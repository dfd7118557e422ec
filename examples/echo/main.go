package main

import (
	"context"
	"io"
	"log"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
)

func main() {
	d, err := xen.Open(context.Background()) // the domain that this program is
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	l, err := vchan.Listen(context.Background(), d, "echo", &vchan.ListenConfig{Any: true}) // a net.Listener
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept() // a net.Conn: shared memory, and no socket
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}
