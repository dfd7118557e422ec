//go:build !linux

package attach

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Machine is what lies under a domain whose host is another process. It needs Linux.
type Machine struct{}

// Join joins a simulated host. It needs Linux.
func Join(ctx context.Context, socket, token, name string) (*Machine, error) {
	return nil, errUnsupported
}

var errUnsupported = fmt.Errorf("attach: a host of another process can be joined on Linux only: %w", errors.ErrUnsupported)

func (m *Machine) ABI() hypercall.ABI                                      { return hypercall.X86_64 }
func (m *Machine) Hypercall(*hypercall.Call) (uint64, error)               { return 0, errUnsupported }
func (m *Machine) Incarnation() hypercall.Caller                           { return m }
func (m *Machine) Alloc(int) (hypercall.GFN, *shm.Region, error)           { return 0, nil, errUnsupported }
func (m *Machine) Free(hypercall.GFN, int) error                           { return errUnsupported }
func (m *Machine) Reserve(int) (hypercall.GFN, error)                      { return 0, errUnsupported }
func (m *Machine) Unreserve(hypercall.GFN, int) error                      { return errUnsupported }
func (m *Machine) View(hypercall.GFN, int, bool) (*shm.Region, error)      { return nil, errUnsupported }
func (m *Machine) SetUnmapNotify(hypercall.GFN, int, hypercall.Port) error { return errUnsupported }
func (m *Machine) SetUpcall(func())                                        {}
func (m *Machine) SetResume(func())                                        {}
func (m *Machine) SetEnd(func())                                           {}
func (m *Machine) Close() error                                            { return nil }
