package xenstored_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// successor freezes a server, writes and reads its state, and has another one begin with it.
func successor(t *testing.T, s *xenstored.Server, hold func(hypercall.DomID, io.ReadWriteCloser) string,
	attach func(xenstored.StateConn) (io.ReadWriteCloser, error)) *xenstored.Server {
	t.Helper()
	st, err := s.Freeze(hold)
	require.NoError(t, err)
	text, err := json.Marshal(st)
	require.NoError(t, err)
	back := new(xenstored.State)
	require.NoError(t, json.Unmarshal(text, back))
	next, err := xenstored.Restore(nil, back, attach)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, next.Close()) })
	require.NoError(t, next.Recount())
	return next
}

// TestRestartKeepsRings: a domain on a ring finds nothing changed when another server serves its page: nodes and their order, permissions,
// watches. A transaction that was open begins anew, as after a conflict.
func TestRestartKeepsRings(t *testing.T) {
	s := newServer(t, nil)
	ctx := t.Context()
	host := s.LocalClient()
	defer host.Close()
	for _, name := range []string{"z", "a", "m"} {
		require.NoError(t, host.Write(ctx, "/x/"+name, []byte{0, 255, name[0]}))
	}
	require.NoError(t, host.Mkdir(ctx, "/local/domain/1"))
	require.NoError(t, host.SetPerms(ctx, "/local/domain/1", xenstore.Perm{Dom: 1}, xenstore.Perm{Dom: 2, Access: xenstore.AccessRead}))
	require.NoError(t, host.SetPerms(ctx, xenstore.ReleaseDomain, xenstore.Perm{}, xenstore.Perm{Dom: 1, Access: xenstore.AccessRead}))
	for dom := hypercall.DomID(1); dom < 4; dom++ {
		require.NoError(t, s.IntroduceDomain(dom))
	}
	require.NoError(t, host.SetTarget(ctx, 2, 1))
	require.NoError(t, s.ShutdownDomain(3))
	p := newRing(t, s)
	guest := p.client(t, nil)
	defer guest.Close()
	w, err := guest.Watch(ctx, "news", nil)
	require.NoError(t, err)
	defer w.Close()
	_, err = w.Next(ctx)
	require.NoError(t, err)
	released, err := guest.Watch(ctx, xenstore.ReleaseDomain, nil)
	require.NoError(t, err)
	defer released.Close()
	_, err = released.Next(ctx)
	require.NoError(t, err)

	var next *xenstored.Server
	tries := 0
	require.NoError(t, guest.Transaction(ctx, func(tx *xenstore.Tx) error {
		if tries++; tries == 1 {
			before, domains := s.Snapshot().State().Nodes, s.Domains()
			next = successor(t, s, func(dom hypercall.DomID, _ io.ReadWriteCloser) string {
				if dom == 1 {
					return "ring"
				}
				return ""
			}, func(sc xenstored.StateConn) (io.ReadWriteCloser, error) {
				require.Equal(t, "ring", sc.Handle)
				require.Len(t, sc.Watches, 2)
				require.Len(t, sc.Transactions, 1)
				return xenstore.NewRingConn(p.page, p.ch.peer, xenstore.RoleServer, nil)
			})
			require.Equal(t, before, next.Snapshot().State().Nodes)
			require.Equal(t, domains, next.Domains())
		}
		return tx.Write(ctx, "answer", []byte("42"))
	}))
	require.Equal(t, 2, tries)
	require.ErrorIs(t, <-p.result, xenstored.ErrFrozen)

	host = next.LocalClient()
	defer host.Close()
	require.NoError(t, host.Write(ctx, "/local/domain/1/news", []byte("x")))
	ev, err := w.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "news", ev.Path)
	require.NoError(t, next.ReleaseDomain(3))
	_, err = released.Next(ctx)
	require.NoError(t, err)
	names, err := host.List(ctx, "/x")
	require.NoError(t, err)
	require.Equal(t, []string{"z", "a", "m"}, names)
	require.NoError(t, next.ReleaseDomain(1))
	require.NoError(t, next.Recount())
}

// TestRestartKeepsHalfMessages: what a client had sent in part, and what it had not yet taken, is neither lost nor doubled.
func TestRestartKeepsHalfMessages(t *testing.T) {
	s := newServer(t, nil)
	near, far := net.Pipe() // whose writes wait for the reader: nothing is written that is not taken
	defer near.Close()
	go func() { _ = s.ServeConn(context.Background(), far, 0) }()
	first := xenstore.Header{Type: xenstore.MsgRead, ReqID: 1, Len: 6}.Append(nil)
	first = append(first, "/tool\x00"...)
	second := xenstore.Header{Type: xenstore.MsgMkdir, ReqID: 2, Len: 4}.Append(nil)
	second = append(second, "/hi\x00"...)
	cut := len(second) - 3
	write := func(to net.Conn, b []byte) {
		_, err := to.Write(b)
		require.NoError(t, err)
	}
	write(near, append(first, second[:cut]...))
	var head [7]byte // of the reply, which is of 16 bytes
	_, err := io.ReadFull(near, head[:])
	require.NoError(t, err)

	client, server := net.Pipe()
	defer client.Close()
	next := successor(t, s, func(hypercall.DomID, io.ReadWriteCloser) string { return "pipe" },
		func(sc xenstored.StateConn) (io.ReadWriteCloser, error) {
			require.Equal(t, second[:cut], sc.In)
			require.Len(t, sc.Out, xenstore.HeaderSize-len(head))
			return server, nil
		})
	rest := make([]byte, xenstore.HeaderSize-len(head))
	_, err = io.ReadFull(client, rest)
	require.NoError(t, err)
	require.Equal(t, xenstore.Header{Type: xenstore.MsgRead, ReqID: 1}, xenstore.DecodeHeader(append(head[:], rest...)))
	write(client, second[cut:])
	reply := make([]byte, xenstore.HeaderSize+3)
	_, err = io.ReadFull(client, reply)
	require.NoError(t, err)
	require.Equal(t, "OK\x00", string(reply[xenstore.HeaderSize:]))
	_, ok := next.Snapshot().Node("/hi")
	require.True(t, ok)
}

func TestRestoreRefuses(t *testing.T) {
	own := []string{"n0"}
	good := []xenstored.StateNode{
		{Path: "/", Perms: own}, {Path: xenstore.IntroduceDomain, Perms: own}, {Path: xenstore.ReleaseDomain, Perms: own},
	}
	for name, st := range map[string]*xenstored.State{
		"another version": {Version: 99, Nodes: good},
		"no root":         {Version: 1, Nodes: good[1:]},
		"no specials":     {Version: 1, Nodes: good[:1]},
		"orphan":          {Version: 1, Nodes: append(good[:3:3], xenstored.StateNode{Path: "/a/b", Perms: own})},
		"twice":           {Version: 1, Nodes: append(good[:3:3], good[0])},
		"no owner":        {Version: 1, Nodes: append(good[:3:3], xenstored.StateNode{Path: "/a"})},
		"bad permission":  {Version: 1, Nodes: append(good[:3:3], xenstored.StateNode{Path: "/a", Perms: []string{"x"}})},
		"bad path":        {Version: 1, Nodes: append(good[:3:3], xenstored.StateNode{Path: "a//b", Perms: own})},
		"bad domain":      {Version: 1, Nodes: good, Domains: []xenstored.StateDomain{{ID: 0x7ff0}}},
	} {
		_, err := xenstored.Restore(nil, st, nil)
		require.Error(t, err, name)
	}
	s, err := xenstored.Restore(nil, &xenstored.State{Version: 1, Nodes: good, Conns: []xenstored.StateConn{{Handle: "gone"}}},
		func(xenstored.StateConn) (io.ReadWriteCloser, error) { return nil, errors.New("gone") })
	require.NoError(t, err, "a connection that cannot be had is given up")
	require.NoError(t, s.Close())
}

// TestReadOnly: whoever comes by the other socket reads, watches and has transactions, and changes nothing.
func TestReadOnly(t *testing.T) {
	s := newServer(t, nil)
	l, err := net.Listen("unix", t.TempDir()+"/ro")
	require.NoError(t, err)
	go func() { _ = s.ServeReadOnly(context.Background(), l) }()
	ctx := t.Context()
	c, err := xenstore.Dial(ctx, l.Addr().String(), nil)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Read(ctx, "/tool")
	require.NoError(t, err)
	for _, err := range []error{
		c.Write(ctx, "/tool", nil), c.Mkdir(ctx, "/new"), c.Remove(ctx, "/tool"), c.SetPerms(ctx, "/tool", xenstore.Perm{Dom: 1}),
		c.Introduce(ctx, 1, 1, 1), c.Release(ctx, 1), c.Resume(ctx, 1), c.SetTarget(ctx, 1, 0),
		c.Transaction(ctx, func(tx *xenstore.Tx) error { return tx.Write(ctx, "/tool", nil) }),
	} {
		require.ErrorIs(t, err, xenstore.EROFS)
	}
}
