package xenstore_test

import (
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/stretchr/testify/require"
)

// The suite against a server in C, through what a Linux kernel and the server offer in a domain of a real Xen host.
func TestRealServer(t *testing.T) {
	if os.Getenv("HVKIT_TESTBED_INSIDE") == "" {
		t.Skip("needs a domain of a real Xen host; 'hvkit testbed run ./xen/xenstore -- -test.run TestRealServer' runs it in one")
	}
	for name, path := range map[string]string{"Socket": xenstore.DefaultSocket, "Device": xenstore.DefaultDevice} {
		if _, err := os.Stat(path); err != nil && name == "Socket" {
			continue // the server is in another domain
		}
		t.Run(name, func(t *testing.T) {
			c, err := xenstore.Dial(t.Context(), path, nil)
			require.NoError(t, err)
			defer c.Close()
			text, err := c.Read(t.Context(), "domid")
			require.NoError(t, err)
			self, err := strconv.ParseUint(string(text), 10, 16)
			require.NoError(t, err)
			xenstoretest.TestServer(t, xenstoretest.Server{
				Connect: func(tb testing.TB, _ hypercall.DomID) io.ReadWriteCloser {
					rw, err := xenstore.DialConn(t.Context(), path)
					require.NoError(tb, err)
					return rw
				},
				Self:   hypercall.DomID(self),
				Device: name == "Device",
			})
		})
	}
}
