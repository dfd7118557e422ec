package sim

import "sync/atomic"

// vcpu is where events are delivered to a domain of this process. It is safe for concurrent use.
type vcpu struct {
	upcall  atomic.Pointer[func()]
	stopped atomic.Bool // the domain does not run: upcalls wait
}

// deliver runs the domain's upcall, unless the domain does not run: then it runs when the domain goes on.
func (v *vcpu) deliver() {
	if v.stopped.Load() {
		return
	}
	if f := v.upcall.Load(); f != nil {
		(*f)()
	}
}
