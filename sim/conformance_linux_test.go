package sim_test

import (
	"testing"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// place is where a domain of a test is.
type place uint8

const (
	here place = iota
	there
)

func (p place) String() string { return [...]string{"In", "Out"}[p] }

// sharedPair makes domains whose memory is files, each in this process or behind a socket.
func sharedPair(a, b place) platform {
	return platform{a.String() + b.String(), func(t *testing.T, limits sim.Limits) (*xen.Domain, *xen.Domain) {
		h := simtest.NewHost(t, &sim.HostConfig{Shared: true, Limits: limits})
		socket := simtest.Serve(t, h, nil)
		make := func(p place, name string) *xen.Domain {
			if p == here {
				return inProcess(t, h, name, hypercall.X86_64)
			}
			return simtest.Join(t, socket, name)
		}
		return known(t, h, make(a, "a")), known(t, h, make(b, "b"))
	}}
}

func platforms() []platform {
	return []platform{
		heapPair(hypercall.X86_64), heapPair(hypercall.X86_32), heapPair(hypercall.ARM64),
		sharedPair(here, here), sharedPair(here, there), sharedPair(there, here), sharedPair(there, there),
	}
}
