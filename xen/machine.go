package xen

import "github.com/hvkit/hvkit/xen/hypercall"

// Machine is what lies under a domain that makes its own hypercalls: a bare guest, or the simulator (in this process or another).
type Machine interface {
	hypercall.Caller
	hypercall.Incarnations
	hypercall.Memory
	// SetUpcall registers what runs when Xen tells the domain of events (the event-channel upcall). It is called by one goroutine at
	// a time or by several; f must not block.
	SetUpcall(f func())
	// SetResume registers what runs after the domain was suspended and runs again as another incarnation, at once if that has happened
	// already. Calls that began in the earlier incarnation and had not been made by its end answer [hypercall.ErrStale]. The domain runs
	// before f does: the Callers that Incarnation returned keep what it does meanwhile from the new incarnation's ports.
	SetResume(f func())
	// SetEnd registers what runs when the domain has ended under its program (it was destroyed, or its host went away), at once if it
	// has ended already. From then on calls fail, and none waits.
	SetEnd(f func())
	// Close ends this domain's use of the machine. A second Close does nothing.
	Close() error
}
