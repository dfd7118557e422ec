package sim

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/internal/gfn"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// hostEnd is the host's own end of a domain's event channel. It has what a Xenstore ring needs of a channel.
type hostEnd struct {
	h *Host
	c *hostChannel // which the host's lock guards
}

// Notify makes an event arrive in the domain.
func (e hostEnd) Notify() error {
	e.h.mu.Lock()
	e.c.notify()
	e.h.unlock()
	return nil
}

// Handle sets what runs when the domain sends, and runs it once, for what was sent before.
func (e hostEnd) Handle(f func()) {
	if f == nil {
		f = func() {}
	}
	e.h.mu.Lock()
	e.c.taker = f
	e.h.mu.Unlock()
	f()
}

// Close closes the channel.
func (e hostEnd) Close() error {
	e.h.mu.Lock()
	e.c.close()
	e.h.unlock()
	return nil
}

// storeConn is the server's end of a domain's Xenstore ring.
type storeConn struct {
	*xenstore.RingConn
	page *shm.Region
	id   hypercall.DomID
}

func (c *storeConn) Close() error { return errors.Join(c.RingConn.Close(), c.page.Close()) }

// introduce writes the domain's home into Xenstore and connects its ring. fresh says that it is a new domain to Xenstore, not one that
// was reset.
func (d *Domain) introduce(fresh bool) error {
	d.life.Lock()
	defer d.life.Unlock()
	return d.introduceLocked(fresh)
}

// +checklocks:d.life
func (d *Domain) introduceLocked(fresh bool) error {
	conn, err := d.storeEnd()
	if err != nil {
		return fmt.Errorf("its Xenstore ring: %w", err)
	}
	d.mu.Lock()
	d.storeConn = conn
	d.mu.Unlock()
	return d.host.tools.introduce(conn, d.name, fresh)
}

// storeEnd returns the server's end of the domain's Xenstore ring.
func (d *Domain) storeEnd() (*storeConn, error) {
	h := d.host
	h.mu.Lock()
	g := d.guest
	id, ch := g.id, g.store
	page, err := g.space.view(gfn.Store, 1, true)
	if g.state == stateDead {
		err = ErrDestroyed
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ring, err := xenstore.NewRingConn(page, hostEnd{h, ch}, xenstore.RoleServer, nil)
	if err != nil {
		page.Close()
		return nil, err
	}
	return &storeConn{ring, page, id}, nil
}

// hangUp ends the server's side of the domain's Xenstore connection.
func (d *Domain) hangUp() {
	d.mu.Lock()
	c := d.storeConn
	d.storeConn = nil
	d.mu.Unlock()
	if c != nil {
		c.Close()
	}
}
