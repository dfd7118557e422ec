package xen

import (
	"context"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// platform is what a [Domain] stands on: a [Machine] with native grants and event channels, or a Linux kernel with its devices.
type platform interface {
	// start starts grants and event channels.
	start(ctx context.Context) error
	// dialStore connects to Xenstore.
	dialStore(ctx context.Context) (*xenstore.Client, error)
	// restart starts them for the next incarnation. closeStores closes the connections of the former.
	restart(closeStores func() error) error
	// connected is told of each connection to Xenstore, and whom it says that the domain is.
	connected(ctx context.Context, store *xenstore.Client, id hypercall.DomID) error
	// onResume registers what runs when the domain has become another incarnation, at once if it has already.
	onResume(f func())
	// onEnd registers what runs when the domain has ended under its program, at once if it has already.
	onEnd(f func())
	grants() grant.Table
	events() evtchn.Table
	// close ends all that start and restart have started, at whatever point they are.
	close() []error
	// abort has what is under way fail, and all that comes after it.
	abort()
}
