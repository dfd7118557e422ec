package xenstored_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// channel is one end of an event channel within the process.
type channel struct {
	mu sync.Mutex
	// +checklocks:mu
	f    func()
	peer *channel
}

func newChannels() (*channel, *channel) {
	a, b := &channel{}, &channel{}
	a.peer, b.peer = b, a
	return a, b
}

func (c *channel) Notify() error {
	c.peer.mu.Lock()
	f := c.peer.f
	c.peer.mu.Unlock()
	if f != nil {
		f()
	}
	return nil
}

func (c *channel) Handle(f func()) {
	c.mu.Lock()
	c.f = f
	c.mu.Unlock()
	if f != nil {
		f()
	}
}

func (c *channel) Close() error { return nil }

// ringPeer is a page with a server's end that is served as domain 1, and what it takes to be the client.
type ringPeer struct {
	page   *shm.Region
	ch     *channel
	result chan error
}

func newRing(t *testing.T, s *xenstored.Server) *ringPeer {
	near, far := newChannels()
	p := &ringPeer{page: shm.New(1), ch: near, result: make(chan error, 1)}
	conn, err := xenstore.NewRingConn(p.page, far, xenstore.RoleServer, nil)
	require.NoError(t, err)
	go func() { p.result <- s.ServeConn(context.Background(), conn, 1) }()
	return p
}

func (p *ringPeer) client(t *testing.T, cfg *xenstore.RingConfig) *xenstore.Client {
	conn, err := xenstore.NewRingConn(p.page, p.ch, xenstore.RoleClient, cfg)
	require.NoError(t, err)
	return xenstore.NewClient(conn, nil)
}

// TestRing: requests, long values and events go over a shared page.
func TestRing(t *testing.T) {
	s := newServer(t, nil)
	host := s.LocalClient()
	defer host.Close()
	ctx := t.Context()
	require.NoError(t, host.Mkdir(ctx, "/local/domain/1"))
	require.NoError(t, host.SetPerms(ctx, "/local/domain/1", xenstore.Perm{Dom: 1}))
	p := newRing(t, s)
	c := p.client(t, nil)
	value := make([]byte, 1900) // more than the ring holds
	require.NoError(t, c.Write(ctx, "v", value))
	got, err := c.Read(ctx, "v")
	require.NoError(t, err)
	require.Equal(t, value, got)
	w, err := c.Watch(ctx, "v", nil)
	require.NoError(t, err)
	_, err = w.Next(ctx)
	require.NoError(t, err)
	require.NoError(t, host.Write(ctx, "/local/domain/1/v", nil))
	e, err := w.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "v", e.Path)
	require.NoError(t, s.ReleaseDomain(1))
	require.ErrorIs(t, ended(t, p.result), xenstored.ErrReleased)
	require.NoError(t, c.Close())
}

// TestRingReset: a client that asks for a reset begins anew, without the watches and transactions of before.
func TestRingReset(t *testing.T) {
	s := newServer(t, nil)
	p := newRing(t, s)
	ctx := t.Context()
	first := p.client(t, nil)
	for _, path := range []string{"@releaseDomain", "a"} {
		_, err := first.Watch(ctx, path, nil)
		require.NoError(t, err)
	}
	eventually(t, "the watches", func() bool { return s.Stats().Watches == 2 })
	require.NoError(t, first.Close())
	again := p.client(t, &xenstore.RingConfig{Reset: true})
	_, err := again.DomainPath(ctx, 1)
	require.NoError(t, err)
	eventually(t, "the end of the watches", func() bool { return s.Stats().Watches == 0 })
	require.NoError(t, again.Close())
}

// wantReset asks for a reset as a new kernel does, and waits until it has been done.
func (p *ringPeer) wantReset(t *testing.T, s *xenstored.Server) {
	t.Helper()
	requests := s.Stats().Requests
	c := p.client(t, &xenstore.RingConfig{Reset: true})
	eventually(t, "the reset", func() bool { return p.page.Load32(xenstore.OffConnection).Is(xenstore.Connected) })
	require.Equal(t, requests, s.Stats().Requests, "what the one before had still to ask is forgotten")
	require.NoError(t, c.Close())
}

// TestRingResetOfADeafClient: a kernel that died without reading its replies does not keep the next one from starting anew.
func TestRingResetOfADeafClient(t *testing.T) {
	s := newServer(t, nil)
	host := s.LocalClient()
	defer host.Close()
	require.NoError(t, host.Write(t.Context(), "/v", make([]byte, 900)))
	require.NoError(t, host.SetPerms(t.Context(), "/v", xenstore.Perm{Access: xenstore.AccessRead}))
	p := newRing(t, s)
	before := s.Stats().Requests
	old, err := xenstore.NewRing(p.page, xenstore.RoleClient, 0)
	require.NoError(t, err)
	for i := range uint32(25) { // more than may be outstanding, in less than the ring holds
		msg := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgRead, ReqID: i}, []byte("/v\x00"))
		n, _, err := old.Write(msg)
		require.NoError(t, err)
		require.Len(t, msg, n)
	}
	require.NoError(t, p.ch.Notify())
	eventually(t, "as many requests as may be outstanding", func() bool { return s.Stats().Requests-before == 20 })
	p.wantReset(t, s)
}

// TestRingResetWhilePaused: a reset is done at once, also where the client waits for others to take its events.
func TestRingResetWhilePaused(t *testing.T) {
	s := newServer(t, &xenstored.Config{EventTimeout: time.Hour})
	ctx := t.Context()
	host := s.LocalClient()
	defer host.Close()
	require.NoError(t, host.Mkdir(ctx, "/local/domain/1"))
	require.NoError(t, host.SetPerms(ctx, "/local/domain/1", xenstore.Perm{Dom: 1}, xenstore.Perm{Dom: 2, Access: xenstore.AccessRead}))
	deaf, _ := connect(s, 2)
	defer deaf.Close()
	_, err := deaf.Write(xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch}, []byte("/local/domain/1\x00t\x00")))
	require.NoError(t, err)
	eventually(t, "the watch", func() bool { return s.Stats().Watches == 1 })
	p := newRing(t, s)
	before := s.Stats().Requests
	c := p.client(t, nil)
	for i := range 20 {
		require.NoError(t, c.Mkdir(ctx, fmt.Sprint(i)))
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Mkdir(short, "more"), context.DeadlineExceeded)
	require.EqualValues(t, 20, s.Stats().Requests-before)
	require.NoError(t, c.Close())
	p.wantReset(t, s)
}
