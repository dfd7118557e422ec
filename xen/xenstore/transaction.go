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
	select {
	case c.transactions <- struct{}{}:
	case <-c.dead:
		return opError("transaction", "", c.Err())
	case <-ctx.Done():
		return opError("transaction", "", ctx.Err())
	}
	defer func() { <-c.transactions }()
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

// attempt makes one transaction, and reports whether it may be tried again.
func (c *Client) attempt(ctx context.Context, fn func(tx *Tx) error) (again bool, err error) {
	tx, err := c.begin(ctx)
	if err != nil {
		full := errors.Is(err, ENOSPC) || errors.Is(err, EQUOTA) || errors.Is(err, EAGAIN)
		return full, opError("begin transaction", "", err)
	}
	committing := false
	defer func() {
		tx.over.Store(true)
		if !committing { // fn failed, or panicked, or ctx has ended: the answer would change nothing
			_ = c.inBackground(ctx, MsgTransactionEnd, tx.id, "F", nil)
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
	c.release(req)
	return false, nil
}

func (c *Client) begin(ctx context.Context) (*Tx, error) {
	req, err := c.call(ctx, MsgTransactionStart, 0, "", nil)
	if err != nil {
		return nil, err
	}
	answer, _, _ := bytes.Cut(req.reply, []byte{0})
	id, err := ParseUint32(string(answer))
	c.release(req)
	if err == nil && id == 0 {
		err = fmt.Errorf("transaction id 0: %w", EIO)
	}
	if err != nil {
		return nil, fmt.Errorf("the server's answer: %w", err)
	}
	return &Tx{c: c, id: id}, nil
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
