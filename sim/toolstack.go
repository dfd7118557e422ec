package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// toolstack does what xl and libxl do in domain 0: it writes domains' homes into Xenstore, introduces and releases them.
type toolstack struct {
	store  *xenstored.Server
	client *xenstore.Client

	serving sync.WaitGroup
}

func newToolstack(s *xenstored.Server) *toolstack {
	return &toolstack{store: s, client: s.LocalClient()}
}

// introduce writes the domain's home, and serves its Xenstore ring. fresh says that it is a new domain to Xenstore, not one that was
// reset.
func (t *toolstack) introduce(conn *storeConn, name string, fresh bool) error {
	if fresh {
		if err := t.writeHome(conn.id, name); err != nil {
			return fmt.Errorf("write its home into Xenstore: %w", err)
		}
	}
	t.serving.Go(func() {
		_ = t.store.ServeConn(context.Background(), conn, conn.id) // the domain's client is told why it ended, or has gone
		conn.Close()
	})
	if fresh {
		return t.store.IntroduceDomain(conn.id)
	}
	return nil
}

// writeHome writes /local/domain/N as libxl does (libxl__domain_make), with one difference: names may be read by every domain, and
// the list of domains too, so that a name can stand where an id can. On a real host the administrator decides that.
func (t *toolstack) writeHome(id hypercall.DomID, name string) error {
	ctx := context.Background()
	home := xenstore.DomainPath(id)
	public := []xenstore.Perm{{Dom: 0, Access: xenstore.AccessRead}}
	readable := []xenstore.Perm{{Dom: 0}, {Dom: id, Access: xenstore.AccessRead}}
	owned := []xenstore.Perm{{Dom: id}}
	return t.client.Transaction(ctx, func(tx *xenstore.Tx) error {
		w := writer{ctx: ctx, tx: tx}
		w.dir("/local", public)
		w.dir("/local/domain", public)
		w.dir(home, readable)
		w.value(home+"/name", name, public)
		w.value(home+"/domid", fmt.Sprint(id), public)
		w.dir(home+"/control", readable)
		w.value(home+"/control/shutdown", "", owned)
		w.value(home+"/control/platform-feature-xs_reset_watches", "1", readable)
		w.dir(home+"/device", readable)
		w.dir(home+"/backend", readable)
		w.dir(home+"/data", owned)
		w.dir(home+"/drivers", owned)
		w.dir(home+"/feature", owned)
		w.dir(home+"/attr", owned)
		w.dir(home+"/error", owned)
		return w.err
	})
}

// writer writes nodes until one fails.
type writer struct {
	ctx context.Context
	tx  *xenstore.Tx
	err error
}

func (w *writer) dir(path string, perms []xenstore.Perm) {
	if w.err == nil {
		w.err = errors.Join(w.tx.Mkdir(w.ctx, path), w.tx.SetPerms(w.ctx, path, perms...))
	}
}

func (w *writer) value(path, value string, perms []xenstore.Perm) {
	if w.err == nil {
		w.err = errors.Join(w.tx.Write(w.ctx, path, []byte(value)), w.tx.SetPerms(w.ctx, path, perms...))
	}
}

// remove takes a dead domain out of Xenstore.
func (t *toolstack) remove(id hypercall.DomID) {
	// Errors can only say that it was not there: the domain died before it had a home, or was suspended.
	_ = t.store.ReleaseDomain(id)
	_ = t.client.Remove(context.Background(), xenstore.DomainPath(id))
}

// close stops the server, and waits until nothing is served any more.
func (t *toolstack) close() error {
	t.client.Close()
	err := t.store.Close()
	t.serving.Wait()
	return err
}
