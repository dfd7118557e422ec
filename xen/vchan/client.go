package vchan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// client is a domain that a listener makes offers to, one after the other. All fields but look are for the goroutine that serves.
type client struct {
	l      *Listener
	id     hypercall.DomID
	base   string                                      // where its offers are
	wanted func(context.Context, hypercall.DomID) bool // whether the domain that has the number now is to be served
	look   chan struct{}                               // of capacity 1: the offer in Xenstore may have gone
	slots  chan struct{}                               // one is in it for each offer and connection

	touched bool           // something of ours may be at base
	open    bool           // base can be read by the client
	port    hypercall.Port // of the offer in Xenstore; 0 for none
}

var (
	errClientGone = errors.New("the client's domain has gone")
	errOfferGone  = errors.New("the offer was removed")
	errNotUsed    = errors.New("the offer was taken and left without a byte")
)

// After an offer could not be made, or was taken in vain, the next offer to that client waits, at first so long and then twice as long
// each time.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// cleanupPatience bounds how long the end of an offer waits for Xenstore.
const cleanupPatience = 5 * time.Second

// serve makes offers until ctx is done or the client's domain has gone.
func (c *client) serve(ctx context.Context) {
	c.l.clients.Add(1)
	defer c.l.clients.Add(-1)
	defer c.clean()
	for pause := firstPause; c.takeSlot(ctx); {
		conn, err := c.next(ctx)
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.abort()
			}
			return
		case errors.Is(err, errClientGone):
			return
		case errors.Is(err, errOfferGone):
			continue
		case err != nil:
			c.l.log.Warn("vchan: offer", "client", c.id, "err", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		if !c.hand(ctx, conn) {
			return
		}
	}
}

// hand waits until somebody accepts the connection.
func (c *client) hand(ctx context.Context, conn *Conn) bool {
	select {
	case c.l.conns <- conn:
		return true
	case <-ctx.Done():
		conn.abort()
		return false
	}
}

// takeSlot waits until the client may have one more connection.
func (c *client) takeSlot(ctx context.Context) bool {
	select {
	case c.slots <- struct{}{}:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// next makes an offer and waits until it is taken. It gives the slot back, if no connection comes of it.
func (c *client) next(ctx context.Context) (*Conn, error) {
	conn, err := c.offer(ctx)
	if err != nil {
		<-c.slots
	}
	return conn, err
}

func (c *client) offer(ctx context.Context) (*Conn, error) {
	l := c.l
	h := homeOf(l.d)
	o, err := c.publish(ctx)
	if err != nil {
		if !errors.Is(err, errClientGone) {
			l.failed.Add(1)
		}
		return nil, err
	}
	l.offers.Add(1)
	arrival, err := o.await(ctx, c.look, c.check)
	if err == nil {
		// Another domain may have got the number just now. It cannot read the offer, but it can guess.
		err = c.permitted(ctx)
	}
	c.conceal()
	if errors.As(err, new(*PeerError)) {
		l.rejected.Add(1)
	}
	if err == nil && arrival == Left && o.core.In.known() == 0 {
		err = errNotUsed
	}
	if err != nil {
		o.withdraw()
		return nil, err
	}
	return l.newConn(h, o, c.base, func() { <-c.slots }), nil
}

// publish sets an offer up and writes it to Xenstore.
func (c *client) publish(ctx context.Context) (*offer, error) {
	if err := c.openBase(ctx); err != nil {
		return nil, err
	}
	if err := c.fair(); err != nil {
		return nil, err
	}
	o, err := newOffer(c.l.d, c.id, c.l.layout)
	if err != nil {
		return nil, err
	}
	c.port = o.ch.Port()
	if err := publish(ctx, c.l.d.Store(), c.base, o.ctl.Refs()[0], c.port); err != nil {
		c.open = false // perhaps somebody removed the directory: make it anew
		c.conceal()
		o.withdraw()
		return nil, err
	}
	return o, nil
}

// ledger is a grant table that knows who has what of it. Others are not asked.
type ledger interface {
	Room(peer hypercall.DomID) (held, left int)
	Reap() int
}

// fair returns an error where the client has its share of the grant table, counting what it may have mapped: the pages of its
// connections, and those of ended ones that it has not let go of. Its share is what is left of the table divided by how many other
// clients there are; one connection it may always have. Clients that take all they can thus leave something, whatever becomes of their
// connections: more than a third of the table if all are there from the start, and an nth if n come one after the other.
func (c *client) fair() error {
	table, ok := c.l.d.Grants().(ledger)
	if !ok || c.checkShare(table) == nil {
		return nil
	}
	table.Reap()
	return c.checkShare(table)
}

func (c *client) checkShare(table ledger) error {
	others, pages := max(int(c.l.clients.Load()), len(c.l.cfg.Clients))-1, c.l.layout.pages()
	open := (len(c.slots) - 1) * pages // a slot is for this offer
	held, left := table.Room(c.id)
	if has := open + held; has == 0 || (has+pages)*others <= left {
		return nil
	}
	return fmt.Errorf("domain %d has %d pages, and %d of ended connections; %d are left for it and %d others: %w",
		c.id, open, held, left, others, grant.ErrBusy)
}

// openBase sees to it that the client can read what is written at base, and that it is the domain that is to be served. Xenstore does
// not keep permissions for a domain that it does not know: then openBase waits until it does.
func (c *client) openBase(ctx context.Context) error {
	for !c.open {
		c.touched = true
		if err := openBase(ctx, c.l.d.Store(), c.base, c.l.d.ID(), c.id); err != nil {
			return err
		}
		err := c.permitted(ctx)
		switch {
		case err == nil:
			// The permissions are that domain's own and end with it. So if it has the name now, it has it while they last.
			if !c.wanted(ctx, c.id) {
				return errClientGone
			}
			c.open = true
		case !errors.Is(err, errClientGone):
			return err
		default:
			select {
			case <-c.look:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// permitted returns errClientGone if Xenstore has taken the client's permission away, which it does when a domain dies, whoever has its
// number then; and errOfferGone if there is nothing at base.
func (c *client) permitted(ctx context.Context) error {
	perms, err := c.l.d.Store().Perms(ctx, c.base)
	if errors.Is(err, fs.ErrNotExist) {
		c.open = false
		return errOfferGone
	}
	if err != nil {
		return err
	}
	if !mayRead(perms, c.id) {
		return errClientGone
	}
	return nil
}

func mayRead(perms []xenstore.Perm, id hypercall.DomID) bool {
	for i, p := range perms {
		if p.Dom == id && (i == 0 || p.Access == xenstore.AccessRead || p.Access == xenstore.AccessReadWrite) {
			return true
		}
	}
	return false
}

// check returns why the offer that is in Xenstore is of no use any more. Where another server of this domain has put its own in the
// place, it is left alone: ours comes back when that one has gone.
func (c *client) check(ctx context.Context) error {
	if err := c.permitted(ctx); errors.Is(err, errClientGone) || errors.Is(err, errOfferGone) {
		return err
	}
	if _, err := readKey(ctx, c.l.d.Store(), c.base, keyEventChannel); errors.Is(err, errNoOffer) {
		return errOfferGone
	}
	return nil
}

// conceal takes the offer out of Xenstore before its numbers can come to mean something else; it leaves one that is not ours.
func (c *client) conceal() {
	if c.port == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
	defer cancel()
	err := stillPort(ctx, c.l.d.Store(), c.base, c.port)
	if err == nil || errors.Is(err, errNoOffer) {
		err = unpublish(ctx, c.l.d.Store(), c.base)
	}
	c.port = 0
	if err != nil {
		c.l.log.Debug("vchan: taking back an offer", "path", c.base, "err", err)
	}
}

// clean removes base, unless something that is not ours is below it.
func (c *client) clean() {
	if !c.touched {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupPatience)
	defer cancel()
	if err := removeEmpty(ctx, c.l.d.Store(), c.base); err != nil {
		c.l.log.Debug("vchan: removing the offer", "client", c.id, "err", err)
	}
}

// await waits until a client has come. It returns Arrived or Left, or an error: ctx's, check's, a *PeerError or ErrStale. After each look
// it also calls check.
func (o *offer) await(ctx context.Context, look <-chan struct{}, check func(context.Context) error) (Arrival, error) {
	for {
		a, err := o.core.Arrival()
		if a != NotYet || err != nil {
			return a, err
		}
		if o.ctl.Region().Closed() {
			return NotYet, hypercall.ErrStale
		}
		select {
		case <-o.wake:
		case <-look:
			if err := check(ctx); err != nil {
				return NotYet, err
			}
		case <-ctx.Done():
			return NotYet, ctx.Err()
		}
	}
}

// sleep waits for a time, and reports false if ctx was done before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stillPort returns errNoOffer if nothing is offered at base, and another error if the event channel is not port.
func stillPort(ctx context.Context, s xenstore.Store, base string, port hypercall.Port) error {
	now, err := readKey(ctx, s, base, keyEventChannel)
	if err == nil && now != uint32(port) {
		err = fmt.Errorf("event channel %d is offered there, not %d", now, port)
	}
	return err
}
