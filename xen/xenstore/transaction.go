package xenstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

var (
	// ErrConflict says that a transaction was given up: other writers came between at every attempt.
	ErrConflict = errors.New("xenstore: too many conflicts")
	// ErrTxDone is what a [Tx] answers after its function has returned.
	ErrTxDone = errors.New("xenstore: the transaction is over")
)

// Tx is a transaction: a view of the store as it was when the transaction began, and changes that all happen or none. It is safe for
// concurrent use, inside the function that it was given to.
type Tx struct {
	c    *Client
	id   uint32
	over atomic.Bool
}

// Transaction calls fn with a transaction and commits it when fn returns nil. Where somebody else has changed what it used (EAGAIN), fn
// is called again with a new one, after a random wait that grows; after Config.MaxAttempts the answer is [ErrConflict]. fn must
// therefore do nothing that cannot be repeated. An error of fn aborts the transaction and is returned as it is, unless it is
// EAGAIN. A transaction that the server has no room for (its quota is used up by others) is waited for in the same way.
//
// When ctx ends during the commit it is not known whether the changes happened. Only Config.MaxTransactions go on at once, and further
// ones wait for them: fn must not begin another one on the same client.
func (c *Client) Transaction(ctx context.Context, fn func(tx *Tx) error) error {
	wait := c.conf.Backoff
	for attempt := 1; ; attempt++ {
		again, err := c.attempt(ctx, fn)
		if !again {
			return err
		}
		if attempt >= c.conf.MaxAttempts {
			if errors.Is(err, EAGAIN) {
				err = opError("transaction", "", fmt.Errorf("%w: %d attempts", ErrConflict, attempt))
			}
			return err
		}
		c.retries.Add(1)
		if err := c.pause(ctx, rand.N(wait)+1); err != nil {
			return opError("transaction", "", err)
		}
		wait = min(2*wait, c.conf.MaxBackoff)
	}
}

// pause waits, unless ctx or the connection ends first.
func (c *Client) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.dead:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter waits for one of the places for transactions. It is free again when the server has ended the transaction that took it, so that
// there are never more at the server, whether or not their callers have left.
func (c *Client) enter(ctx context.Context) error {
	select {
	case c.transactions <- struct{}{}:
		return nil
	case <-c.dead:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt makes one transaction, and reports whether it may be tried again.
func (c *Client) attempt(ctx context.Context, fn func(tx *Tx) error) (again bool, err error) {
	if err := c.enter(ctx); err != nil {
		return false, opError("transaction", "", err)
	}
	tx, err := c.begin(ctx)
	if err != nil {
		full := errors.Is(err, ENOSPC) || errors.Is(err, EQUOTA) || errors.Is(err, EAGAIN)
		return full, opError("begin transaction", "", err)
	}
	committing := false
	defer func() {
		tx.over.Store(true)
		if committing {
			<-c.transactions
		} else { // fn failed, or panicked, or ctx has ended: the answer would change nothing
			_ = c.inBackground(ctx, func() error { return c.abort(tx.id) })
		}
	}()
	if err := fn(tx); err != nil {
		return errors.Is(err, EAGAIN), err
	}
	tx.over.Store(true)
	if err := c.acquire(ctx); err != nil {
		return false, opError("commit transaction", "", err)
	}
	committing = true // from here on nobody else may end it: the server may have given its id to another one
	req, err := c.exchange(ctx, MsgTransactionEnd, tx.id, "T", nil)
	if err != nil {
		return errors.Is(err, EAGAIN), opError("commit transaction", "", err)
	}
	return false, opError("commit transaction", "", c.acked(req))
}

// begin starts a transaction in the place that the caller has entered. Where it fails the place is free again, or will be.
func (c *Client) begin(ctx context.Context) (*Tx, error) {
	if err := c.acquire(ctx); err != nil {
		<-c.transactions
		return nil, err
	}
	req, err := c.post(nil, MsgTransactionStart, 0, "", nil)
	if err != nil {
		<-c.transactions
		return nil, err
	}
	if !c.wait(ctx, req) {
		c.start(func() { c.undoBegin(req) })
		return nil, ctx.Err()
	}
	tx, err := c.begun(req)
	if err != nil {
		<-c.transactions
	}
	return tx, err
}

// begun returns the transaction that the answer to a TRANSACTION_START names.
func (c *Client) begun(req *request) (*Tx, error) {
	req, err := c.answer(req)
	if err != nil {
		return nil, err
	}
	answer, _, _ := bytes.Cut(req.reply, []byte{0})
	id, err := ParseUint32(string(answer))
	if err != nil || id == 0 {
		err = malformed(req.reply)
	}
	c.release(req)
	if err != nil {
		return nil, err
	}
	return &Tx{c: c, id: id}, nil
}

// undoBegin ends the transaction that the server begins for a caller who has left. It has the caller's place.
func (c *Client) undoBegin(req *request) {
	c.wait(context.Background(), req)
	tx, err := c.begun(req)
	if err != nil {
		<-c.transactions
		return
	}
	_ = c.abort(tx.id) // there is nobody to tell
}

// abort ends a transaction without its changes, and frees its place.
func (c *Client) abort(id uint32) error {
	err := c.tell(context.Background(), MsgTransactionEnd, id, "F", nil)
	<-c.transactions
	return err
}

func (t *Tx) check(op, path string) error {
	if t.over.Load() {
		return opError(op, path, ErrTxDone)
	}
	return nil
}

// Read implements [Store].
func (t *Tx) Read(ctx context.Context, path string) ([]byte, error) {
	if err := t.check("read", path); err != nil {
		return nil, err
	}
	return t.c.read(ctx, t.id, path)
}

// Write implements [Store].
func (t *Tx) Write(ctx context.Context, path string, value []byte) error {
	if err := t.check("write", path); err != nil {
		return err
	}
	return t.c.onNode(ctx, t.id, MsgWrite, "write", path, value)
}

// Mkdir implements [Store].
func (t *Tx) Mkdir(ctx context.Context, path string) error {
	if err := t.check("mkdir", path); err != nil {
		return err
	}
	return t.c.onNode(ctx, t.id, MsgMkdir, "mkdir", path, nil)
}

// Remove implements [Store].
func (t *Tx) Remove(ctx context.Context, path string) error {
	if err := t.check("remove", path); err != nil {
		return err
	}
	return t.c.onNode(ctx, t.id, MsgRemove, "remove", path, nil)
}

// List implements [Store].
func (t *Tx) List(ctx context.Context, path string) ([]string, error) {
	if err := t.check("list", path); err != nil {
		return nil, err
	}
	return t.c.list(ctx, t.id, path)
}

// Perms implements [Store].
func (t *Tx) Perms(ctx context.Context, path string) ([]Perm, error) {
	if err := t.check("get permissions of", path); err != nil {
		return nil, err
	}
	return t.c.perms(ctx, t.id, path)
}

// SetPerms implements [Store].
func (t *Tx) SetPerms(ctx context.Context, path string, perms ...Perm) error {
	if err := t.check("set permissions of", path); err != nil {
		return err
	}
	return t.c.setPerms(ctx, t.id, path, perms)
}
