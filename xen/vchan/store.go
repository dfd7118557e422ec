package vchan

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// The keys of an offer, below its path.
const (
	keyRingRef      = "ring-ref"      // the grant of the control page, decimal
	keyEventChannel = "event-channel" // the server's unbound port, decimal
)

// errNoOffer says that nothing is offered at a path at the moment.
var errNoOffer = errors.New("nothing is offered")

// openBase makes the directory of an offer so that what is written in it can be read by the client from the start, and removes what a
// server that died may have left there.
//
// libxenvchan writes both keys and their permissions in a transaction. A domain has only ten transactions at a time, so many servers
// that start together fail with ENOSPC. No transaction is needed. New nodes have the permissions of their directory. And the event
// channel is there only while both numbers are an offer that nobody has taken: it is written last and removed first, before the port
// or the reference can come to mean something else. So a client that has mapped the page and bound the port, and then finds the same
// event channel still there, has the page and the port of one and the same offer.
func openBase(ctx context.Context, s xenstore.Store, base string, self, client hypercall.DomID) error {
	if err := s.Mkdir(ctx, base); err != nil {
		return err
	}
	if err := unpublish(ctx, s, base); err != nil {
		return err
	}
	return s.SetPerms(ctx, base, offerPerms(self, client)...)
}

func offerPerms(self, client hypercall.DomID) []xenstore.Perm {
	return []xenstore.Perm{{Dom: self, Access: xenstore.AccessNone}, {Dom: client, Access: xenstore.AccessRead}}
}

// publish writes the keys of an offer.
func publish(ctx context.Context, s xenstore.Store, base string, ref hypercall.GrantRef, port hypercall.Port) error {
	if err := s.Write(ctx, base+"/"+keyRingRef, fmt.Appendf(nil, "%d", ref)); err != nil {
		return err
	}
	return s.Write(ctx, base+"/"+keyEventChannel, fmt.Appendf(nil, "%d", port)) // last: clients watch it
}

// unpublish takes an offer out of Xenstore, in the order that publish has backwards. libxenvchan's client reads the reference first.
func unpublish(ctx context.Context, s xenstore.Store, base string) error {
	for _, key := range []string{keyEventChannel, keyRingRef} {
		if err := s.Remove(ctx, base+"/"+key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// readOffer reads the keys of an offer by server. The error is errNoOffer where there is none now.
func readOffer(ctx context.Context, s xenstore.Store, base string, server hypercall.DomID) (hypercall.GrantRef, hypercall.Port, error) {
	port, err := readOwnKey(ctx, s, base, keyEventChannel, server)
	if err != nil {
		return 0, 0, err
	}
	ref, err := readOwnKey(ctx, s, base, keyRingRef, server)
	return hypercall.GrantRef(ref), hypercall.Port(port), err
}

// readOwnKey reads a number that the server itself must have put there. A reference of somebody else's choice could be one that the server
// has granted for another purpose.
func readOwnKey(ctx context.Context, s xenstore.Store, base, key string, server hypercall.DomID) (uint32, error) {
	v, err := readKey(ctx, s, base, key)
	if err != nil {
		return 0, err
	}
	return v, checkOwner(ctx, s, base+"/"+key, server)
}

// stillOffered returns errNoOffer if the offer is not that of ref and port any more.
func stillOffered(ctx context.Context, s xenstore.Store, base string, ref hypercall.GrantRef, port hypercall.Port) error {
	for _, want := range []struct {
		key   string
		value uint32
	}{{keyRingRef, uint32(ref)}, {keyEventChannel, uint32(port)}} {
		now, err := readKey(ctx, s, base, want.key)
		if err != nil {
			return err
		}
		if now != want.value {
			return fmt.Errorf("the offer has changed: %w", errNoOffer)
		}
	}
	return nil
}

// removeEmpty removes a node that has no others below it. It is no error if there is none.
func removeEmpty(ctx context.Context, s xenstore.Store, path string) error {
	names, err := s.List(ctx, path)
	if err == nil && len(names) == 0 {
		err = s.Remove(ctx, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readKey reads a decimal number. libxenvchan takes 0 for a key that is absent, so it is.
func readKey(ctx context.Context, s xenstore.Store, base, key string) (uint32, error) {
	value, err := s.Read(ctx, base+"/"+key)
	if err != nil {
		return 0, absent(err)
	}
	v, err := xenstore.ParseUint32(string(value))
	if err != nil {
		return 0, &PeerError{Field: key, Err: err}
	}
	if v == 0 {
		return 0, errNoOffer
	}
	return v, nil
}

// checkOwner returns an error if the node is not the server's own: another domain with access to the path could have put it there.
func checkOwner(ctx context.Context, s xenstore.Store, path string, server hypercall.DomID) error {
	perms, err := s.Perms(ctx, path)
	if err != nil {
		return absent(err)
	}
	if len(perms) == 0 || perms[0].Dom != server {
		return fmt.Errorf("%s does not belong to domain %d but to %v: %w", path, server, perms, fs.ErrPermission)
	}
	return nil
}

// absent turns the errors by which Xenstore says that there is nothing, or nothing for this domain, into errNoOffer. A server that
// hides the difference answers EACCES where a parent is missing.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w", errNoOffer, err)
	}
	return err
}
