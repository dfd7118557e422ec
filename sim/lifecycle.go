package sim

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// StateError says that something cannot be done to a domain in its state.
type StateError struct {
	Op    string // "pause", "resume" ...
	Dom   hypercall.DomID
	State string // as Domain.State has it
}

func (e *StateError) Error() string {
	return fmt.Sprintf("sim: %s: domain %d is %s", e.Op, e.Dom, e.State)
}

// from checks that the domain is in the state that an operation begins from.
func (g *guest) from(op string, state domainState) error {
	if g.state == state {
		return nil
	}
	return &StateError{op, g.id, g.state.String()}
}

// Pause stops the domain: its hypercalls wait, and no event reaches it, until Unpause. A domain in another process goes on computing, and
// what it does to memory that is mapped is seen: the host cannot stop the process.
func (d *Domain) Pause() error {
	d.life.Lock()
	defer d.life.Unlock()
	if err := d.move("pause", stateRunning, statePaused); err != nil {
		return err
	}
	d.tell(attach.Paused)
	return nil
}

// Unpause has a paused domain go on.
func (d *Domain) Unpause() error {
	d.life.Lock()
	defer d.life.Unlock()
	if err := d.move("unpause", statePaused, stateRunning); err != nil {
		return err
	}
	d.tell(attach.Unpaused)
	d.vcpu.deliver() // for what came meanwhile
	return nil
}

func (d *Domain) move(op string, from, to domainState) error {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if err := d.guest.from(op, from); err != nil {
		return err
	}
	d.guest.enter(to)
	return nil
}

// tell tells the process that is the domain, if another is, what became of it.
func (d *Domain) tell(what attach.Kind) {
	if d.external != nil {
		d.external.tell(&attach.Message{Kind: what})
	}
}

// Destroy ends the domain at once, as a crash or xl destroy does. Its peers see it: unmap notifications fire, its ports close, and
// Xenstore says @releaseDomain. Pages of it that others have mapped stay theirs until they unmap them. It returns when all that has
// happened; a second Destroy waits for the first.
func (d *Domain) Destroy() error { return d.destroy("the domain was destroyed") }

func (d *Domain) destroy(why string) error {
	h := d.host
	h.mu.Lock()
	if d.guest.state == stateDead {
		h.mu.Unlock()
		<-d.gone
		return nil
	}
	id, onEnd := d.guest.id, d.onEnd
	h.hv.reserve(id) // until Xenstore has forgotten it
	d.guest.die()
	h.unlock()
	defer close(d.gone)
	if d.external != nil {
		d.external.end(why)
	}
	d.disconnect(id)
	h.mu.Lock()
	h.hv.unreserve(id)
	delete(h.hv.names, d.name)
	h.mu.Unlock()
	if onEnd != nil {
		onEnd()
	}
	return nil
}

// disconnect takes the domain out of Xenstore.
func (d *Domain) disconnect(id hypercall.DomID) {
	d.life.Lock()
	defer d.life.Unlock()
	d.hangUp()
	d.host.tools.remove(id)
}

// Suspend takes the domain's image out of the machine, as saving or migrating does: its ports close, its mappings go, its peers see
// it leave. Its hypercalls wait until Resume.
func (d *Domain) Suspend() error { return d.suspend(stateRunning) }

func (d *Domain) suspend(from domainState) error {
	d.life.Lock()
	defer d.life.Unlock()
	h := d.host
	h.mu.Lock()
	err := d.guest.from("suspend", from)
	id := d.guest.id
	if err == nil {
		d.guest.enter(stateSuspended)
		d.guest.leave()
	}
	h.unlock()
	if err != nil {
		return err
	}
	d.tell(attach.Paused)
	d.hangUp()
	h.tools.remove(id)
	return nil
}

// Resume builds the suspended domain again, with a new number if newID is set: an empty grant table, closed ports, a new connection
// to Xenstore. Every handle of before answers [hypercall.ErrStale], and so do calls that waited. It returns when the domain's own half
// has been told and has begun anew. Where the domain cannot be built it is destroyed, and the error says why.
func (d *Domain) Resume(newID bool) error {
	return d.reincarnate(func(g *guest) error {
		if err := g.from("resume", stateSuspended); err != nil {
			return err
		}
		return g.rebuild(newID)
	}, true)
}

// SoftReset does what a kexec inside the domain does: the domain keeps its number and its place in Xenstore, while its ports, grants
// and mappings are gone. Every handle of before answers [hypercall.ErrStale], and so do calls that waited. It returns, and fails, as
// Resume does.
func (d *Domain) SoftReset() error { return d.softReset(stateRunning) }

func (d *Domain) softReset(from domainState) error {
	return d.reincarnate(func(g *guest) error {
		if err := g.from("soft reset", from); err != nil {
			return err
		}
		g.enter(stateSuspended)
		g.leave()
		return g.rebuild(false)
	}, false)
}

// reincarnate has begin make the next incarnation of the domain, and starts it. fresh says that it is a new domain to Xenstore.
func (d *Domain) reincarnate(begin func(*guest) error, fresh bool) error {
	told, err := d.nextLife(begin, fresh)
	if _, wrong := errors.AsType[*StateError](err); wrong {
		return err
	}
	if err != nil {
		err = fmt.Errorf("sim: the next incarnation of domain %q: %w", d.name, err)
		return errors.Join(err, d.destroy(err.Error()))
	}
	if told != nil {
		told()
	}
	d.vcpu.deliver() // for what came meanwhile
	return nil
}

// nextLife is reincarnate's part with the domain's life held. It returns what the domain wants to be told by.
func (d *Domain) nextLife(begin func(*guest) error, fresh bool) (told func(), err error) {
	d.life.Lock()
	defer d.life.Unlock()
	h := d.host
	h.mu.Lock()
	err = begin(d.guest)
	d.gen.Store(d.guest.gen)
	h.unlock()
	if err != nil {
		return nil, err
	}
	d.tell(attach.Paused)
	d.hangUp()
	if err := d.introduceLocked(fresh); err != nil {
		return nil, err
	}
	return d.goOn()
}

// goOn lets the new incarnation run.
func (d *Domain) goOn() (told func(), err error) {
	h := d.host
	h.mu.Lock()
	if err = d.guest.from("resume", stateSuspended); err == nil {
		d.guest.enter(stateRunning)
		told = d.onResume
		d.unheard = told == nil
	}
	h.unlock()
	if err == nil && d.external != nil {
		d.external.greet(d)
	}
	return told, err
}

// onShutdown is what the toolstack does about a domain that has shut itself down.
func (d *Domain) onShutdown(reason hypercall.ShutdownReason) {
	log := func(err error) {
		if err != nil {
			d.host.log.Warn("sim: a domain shut itself down", "domain", d.name, "reason", reason, "err", err)
		}
	}
	switch reason {
	case hypercall.ShutdownSuspend:
		log(d.suspend(stateShutdown))
	case hypercall.ShutdownSoftReset:
		d.host.spawn(func() { log(d.softReset(stateShutdown)) })
	default:
		d.host.spawn(func() { log(d.destroy("the domain shut itself down: " + reason.String())) })
	}
}
