package vchan

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// offer is a vchan that a server has set up for one client: memory, channel, and the core over them.
type offer struct {
	core   *Core
	client hypercall.DomID
	ctl    grant.Share
	rings  []grant.Share
	ch     evtchn.Channel
	wake   chan struct{} // of capacity 1: an event arrived
}

// newOffer sets up fresh zeroed memory and an unbound channel for the client.
func newOffer(d *xen.Domain, client hypercall.DomID, layout Layout) (o *offer, err error) {
	o = &offer{client: client, wake: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			o.free()
			o = nil
		}
	}()
	if o.ch, err = d.Events().AllocUnbound(client); err != nil {
		return o, fmt.Errorf("event channel for domain %d: %w", client, err)
	}
	if o.ctl, err = d.Grants().Share(client, 1, grant.ReadWrite); err != nil {
		return o, fmt.Errorf("control page for domain %d: %w", client, err)
	}
	var refs []hypercall.GrantRef
	share := func(pages int) (*shm.Region, error) {
		if pages == 0 {
			return nil, nil
		}
		s, err := d.Grants().Share(client, pages, grant.ReadWrite)
		if err != nil {
			return nil, fmt.Errorf("ring of %d pages for domain %d: %w", pages, client, err)
		}
		o.rings = append(o.rings, s)
		refs = append(refs, s.Refs()...)
		return s.Region(), nil
	}
	left, err := share(layout.LeftPages())
	if err != nil {
		return o, err
	}
	right, err := share(layout.RightPages())
	if err != nil {
		return o, err
	}
	if o.core, err = NewServer(o.ctl.Region(), left, right, layout, refs, 0); err != nil {
		return o, err
	}
	if err = notifyDeath(o.ctl, offSrvLive, o.ch.Port()); err != nil {
		return o, fmt.Errorf("notification of this domain's death: %w", err)
	}
	o.ch.Handle(func() { poke(o.wake) })
	return o, nil
}

// notifyDeath has the platform clear the live byte and send an event when this domain dies. A platform that cannot is no obstacle.
func notifyDeath(m interface{ SetNotify(grant.Notify) error }, live int, port hypercall.Port) error {
	err := m.SetNotify(grant.Notify{ClearByte: true, Offset: live, Port: port})
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// forgetDeath takes back what notifyDeath said.
func forgetDeath(m interface{ SetNotify(grant.Notify) error }) error {
	err := m.SetNotify(grant.Notify{})
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// withdraw ends an offer that nobody is to use.
func (o *offer) withdraw() {
	o.core.Close()
	_ = o.ch.Notify()
	o.free()
}

// free gives the memory and the channel back. The control page goes while the channel is still open: the platform may have to send the
// last event on it.
func (o *offer) free() {
	for _, s := range o.rings {
		_, _ = s.End() // whatever the table could not take back, it keeps and counts
	}
	if o.ctl != nil {
		_, _ = o.ctl.End()
	}
	if o.ch != nil {
		_ = o.ch.Close()
	}
}
