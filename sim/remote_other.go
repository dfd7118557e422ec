//go:build !linux

package sim

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/xen/hypercall"
)

var errUnsupported = fmt.Errorf("sim: domains of other processes need Linux: %w", errors.ErrUnsupported)

// Serve lets other processes join the host. It needs Linux.
func (h *Host) Serve(context.Context, *net.UnixListener, *ServeConfig) error { return errUnsupported }

// wires are the event descriptors of a port of which one end is in another process. There are none here.
type wires struct{}

func unboundWires() (wires, error) { return wires{}, errUnsupported }
func localWires() (wires, error)   { return wires{}, errUnsupported }
func hostWires() (wires, error)    { return wires{}, errUnsupported }

func (wires) ring() {}

func (x *hypervisor) dropWires(*port) {}

func (d *guest) cross(hypercall.Port, *port, *guest, hypercall.Port, *port) error {
	return errUnsupported
}

func (d *guest) watchHost(*hostChannel, *port) error { return errUnsupported }

type wiring struct{}

func newWiring(*Host) *wiring { return new(wiring) }

func (*wiring) start() error { return errUnsupported }
func (*wiring) close() error { return nil }

type remote struct{}

func (*remote) stop() {}
func (*remote) wait() {}

type external struct{}

func newExternal() *external { return new(external) }

func (*external) hungUp() bool         { return false }
func (*external) end(string)           {}
func (*external) tell(*attach.Message) {}
func (*external) greet(*Domain)        {}
