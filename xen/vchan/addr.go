package vchan

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Network is what Addr.Network returns.
const Network = "vchan"

// Addr is one end of a vchan: a domain, and the path in Xenstore at which the vchan is offered.
type Addr struct {
	Dom  hypercall.DomID
	Path string // absolute
}

// Network returns "vchan".
func (Addr) Network() string { return Network }

// String returns the domain and the path with a colon between them, as [Dialer.DialContext] takes it.
func (a Addr) String() string { return fmt.Sprintf("%d:%s", a.Dom, a.Path) }

var _ net.Addr = Addr{}

// portPath returns where a server offers a port to a client, by the convention of libvchan's users (Qubes OS and MirageOS):
// data/vchan/<client>/<port> below the server's home.
func portPath(server, client hypercall.DomID, port string) string {
	return fmt.Sprintf("/local/domain/%d/data/vchan/%d/%s", server, client, port)
}

// checkPort returns an error if port cannot be a name in Xenstore. Xenstore itself judges the characters.
func checkPort(port string) error {
	if port == "" || strings.Contains(port, "/") {
		return &net.AddrError{Err: "vchan: a port is a name without slashes", Addr: strconv.Quote(port)}
	}
	return nil
}

// checkPath returns an error if path is not an absolute path.
func checkPath(path string) error {
	if len(path) < 2 || path[0] != '/' || path[len(path)-1] == '/' {
		return &net.AddrError{Err: "vchan: a path starts with a slash and does not end with one", Addr: strconv.Quote(path)}
	}
	return nil
}

// splitAddr splits "domain:port" or "domain:/path".
func splitAddr(addr string) (domain, rest string, err error) {
	domain, rest, ok := strings.Cut(addr, ":")
	if !ok || domain == "" || rest == "" {
		return "", "", &net.AddrError{Err: "vchan: want domain:port or domain:/path", Addr: strconv.Quote(addr)}
	}
	return domain, rest, nil
}
