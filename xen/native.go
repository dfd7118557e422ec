package xen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// native is the platform of a domain that makes its own hypercalls.
type native struct {
	m    Machine
	cfg  Config
	gt   *grant.Native
	ev   *evtchn.Native
	info hypercall.GFN // where shared_info is

	mu sync.Mutex
	// +checklocks:mu
	shared *shm.Region // shared_info
	// +checklocks:mu
	closed bool
}

func (n *native) start(context.Context) error {
	var err error
	if n.info, err = n.m.Reserve(1); err != nil {
		return fmt.Errorf("shared_info: %w", err)
	}
	shared, err := n.mapSharedInfo()
	if err != nil {
		return err
	}
	if n.ev, err = evtchn.NewNative(n.m, shared, n.cfg.Events); err != nil {
		return err
	}
	n.m.SetUpcall(n.ev.Upcall)
	n.gt, err = grant.NewNative(n.m, n.m, n.cfg.Grants)
	return err
}

// mapSharedInfo has Xen put shared_info into the domain's address space.
func (n *native) mapSharedInfo() (*shm.Region, error) {
	if err := hypercall.AddToPhysmap(n.m, hypercall.DomSelf, hypercall.SpaceSharedInfo, 0, n.info); err != nil {
		return nil, fmt.Errorf("shared_info: %w", err)
	}
	shared, err := n.m.View(n.info, 1, true)
	if err != nil {
		return nil, fmt.Errorf("shared_info: %w", err)
	}
	if !n.adoptSharedInfo(shared) {
		shared.Close()
		return nil, net.ErrClosed
	}
	return shared, nil
}

func (n *native) adoptSharedInfo(shared *shm.Region) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.shared = shared
	return true
}

func (n *native) sharedInfo() *shm.Region {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shared
}

// dialStore connects over the page and the port that the toolstack gave the domain.
func (n *native) dialStore(context.Context) (*xenstore.Client, error) {
	pfn, err := hypercall.GetParam(n.m, hypercall.DomSelf, hypercall.ParamStorePFN)
	if err != nil {
		return nil, err
	}
	port, err := hypercall.GetParam(n.m, hypercall.DomSelf, hypercall.ParamStoreEvtchn)
	if err != nil {
		return nil, err
	}
	if absent(pfn) || absent(port) || port > uint64(^uint32(0)) {
		return nil, fmt.Errorf("the toolstack gave the domain no page (frame %#x) or port (%d) for it", pfn, port)
	}
	page, err := n.m.View(hypercall.GFN(pfn), 1, true)
	if err != nil {
		return nil, err
	}
	ch, err := n.ev.Adopt(hypercall.Port(port))
	if err != nil {
		page.Close()
		return nil, err
	}
	conn, err := xenstore.NewRingConn(page, ch, xenstore.RoleClient, n.cfg.Ring)
	if err != nil {
		ch.Close()
		page.Close()
		return nil, err
	}
	return xenstore.NewClient(&ringAndPage{conn, page}, n.cfg.Store), nil
}

// ringAndPage closes the page after the ring on it.
type ringAndPage struct {
	*xenstore.RingConn
	page *shm.Region
}

func (r *ringAndPage) Close() error { return errors.Join(r.RingConn.Close(), r.page.Close()) }

// absent reports whether an HVM parameter says that a thing is not there: 0 or all ones do.
func absent(v uint64) bool { return v == 0 || v == ^uint64(0) }

func (n *native) restart(closeStores func() error) error {
	old := n.sharedInfo()
	shared, err := n.mapSharedInfo()
	if err != nil {
		return err
	}
	if err := n.ev.Resume(shared); err != nil {
		return err
	}
	closeStores() // not before: until then their port would be taken for one of the new incarnation
	old.Close()
	return n.gt.Resume()
}

func (n *native) connected(context.Context, *xenstore.Client, hypercall.DomID) error { return nil }

func (n *native) onResume(f func())    { n.m.SetResume(f) }
func (n *native) onEnd(f func())       { n.m.SetEnd(f) }
func (n *native) grants() grant.Table  { return n.gt }
func (n *native) events() evtchn.Table { return n.ev }
func (n *native) abort()               { n.m.Close() }

func (n *native) close() []error {
	shared := n.shut()
	var errs []error
	if n.gt != nil {
		errs = append(errs, n.gt.Close())
	}
	if n.ev != nil {
		errs = append(errs, n.ev.Close())
	}
	errs = append(errs, n.m.Close())
	if shared != nil {
		errs = append(errs, shared.Close())
	}
	return errs
}

func (n *native) shut() *shm.Region {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return n.shared
}
