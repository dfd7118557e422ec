package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/xenstore"
)

// The kinds of operation on Xenstore that are measured.
const (
	storeRead  = "read"
	storeWrite = "write"
	storeRMW   = "rmw"   // a transaction that reads a node and writes it
	storeWatch = "watch" // from the write to the event that tells of it
)

const benchNode = "data/bench" // below the domain's home

// measureStore does operations for some time: as this domain alone or, with tokens, as those domains at once. Each works on a node of
// its own, so that transactions do not conflict.
func (w *worker) measureStore(ctx context.Context, j job) (result, error) {
	clients := []*xenstore.Client{w.d.Store()}
	if len(j.Tokens) > 0 {
		clients = nil
		for _, token := range j.Tokens {
			d, err := xen.Join(ctx, os.Getenv(xen.EnvHost), token, "", nil)
			if err != nil {
				return result{}, err
			}
			defer d.Close()
			clients = append(clients, d.Store())
		}
	}
	for _, c := range clients {
		if err := c.Write(ctx, benchNode, []byte("0")); err != nil {
			return result{}, err
		}
		defer c.Remove(context.WithoutCancel(ctx), benchNode)
	}
	each := make([]samples, len(clients))
	errs := make([]error, len(clients))
	start := time.Now()
	var work sync.WaitGroup
	for i, c := range clients {
		work.Go(func() { errs[i] = each[i].operate(ctx, c, j.Kind, start.Add(j.For)) })
	}
	work.Wait()
	var all samples
	for i := range each {
		all.merge(&each[i])
	}
	return result{Took: time.Since(start), Latency: all.latency()}, errors.Join(errs...)
}

// operate repeats one kind of operation.
func (s *samples) operate(ctx context.Context, c *xenstore.Client, kind string, until time.Time) error {
	op, end, err := storeOperation(ctx, c, kind)
	if err != nil {
		return err
	}
	defer end()
	for begin := time.Now(); begin.Before(until); {
		if err := op(); err != nil {
			return err
		}
		now := time.Now()
		s.add(now.Sub(begin))
		begin = now
	}
	return nil
}

func storeOperation(ctx context.Context, c *xenstore.Client, kind string) (op func() error, end func(), err error) {
	nothing := func() {}
	value := []byte("0")
	switch kind {
	case storeRead:
		return func() error {
			_, err := c.Read(ctx, benchNode)
			return err
		}, nothing, nil
	case storeWrite:
		return func() error { return c.Write(ctx, benchNode, value) }, nothing, nil
	case storeRMW:
		return func() error { return c.Transaction(ctx, func(tx *xenstore.Tx) error { return increment(ctx, tx) }) }, nothing, nil
	case storeWatch:
		watch, err := c.Watch(ctx, benchNode, nil)
		if err != nil {
			return nil, nil, err
		}
		if _, err := watch.Next(ctx); err != nil { // every watch begins with an event
			return nil, nil, err
		}
		return func() error {
			if err := c.Write(ctx, benchNode, value); err != nil {
				return err
			}
			_, err := watch.Next(ctx)
			return err
		}, func() { watch.Close() }, nil
	}
	return nil, nil, fmt.Errorf("no such operation: %q", kind)
}

func increment(ctx context.Context, tx *xenstore.Tx) error {
	text, err := tx.Read(ctx, benchNode)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return err
	}
	return tx.Write(ctx, benchNode, strconv.AppendInt(nil, int64(n+1), 10))
}
