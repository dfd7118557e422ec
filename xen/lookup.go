package xen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// domainsPath is where Xenstore keeps a node for each domain, named by its number.
const domainsPath = "/local/domain"

// Lookup returns the number of the domain that nameOrID names: a decimal number below 32752 is itself, without asking anybody; other
// text is the name of a domain, which is looked up at /local/domain/<id>/name in Xenstore. Guests may not be allowed to read the names
// of others; the error then matches [fs.ErrPermission]. Where no domain has the name it matches [fs.ErrNotExist].
func (d *Domain) Lookup(ctx context.Context, nameOrID string) (hypercall.DomID, error) {
	if id, err := xenstore.ParseDomID(nameOrID); err == nil {
		if id >= hypercall.DomFirstReserved {
			return 0, fmt.Errorf("xen: look up domain %s: numbers from %d on are reserved", nameOrID, hypercall.DomFirstReserved)
		}
		return id, nil
	}
	if nameOrID == "" {
		return 0, errors.New("xen: look up a domain: no name given")
	}
	if nameOrID == d.Name() {
		return d.ID(), nil
	}
	store := d.Store()
	ids, err := store.List(ctx, domainsPath)
	if err != nil {
		return 0, fmt.Errorf("xen: look up domain %q: %w", nameOrID, err)
	}
	var denied error
	for _, text := range ids {
		id, err := xenstore.ParseDomID(text)
		if err != nil {
			continue // not a domain
		}
		name, err := store.Read(ctx, domainsPath+"/"+strconv.Itoa(int(id))+"/name")
		switch {
		case err == nil && string(name) == nameOrID:
			return id, nil
		case errors.Is(err, fs.ErrPermission):
			denied = err
		case err != nil && !errors.Is(err, fs.ErrNotExist): // a domain without a name, or that has just gone, is not the one
			return 0, fmt.Errorf("xen: look up domain %q: %w", nameOrID, err)
		}
	}
	if denied != nil {
		return 0, fmt.Errorf("xen: look up domain %q: %w", nameOrID, denied)
	}
	return 0, fmt.Errorf("xen: look up domain %q: no domain has that name: %w", nameOrID, fs.ErrNotExist)
}
