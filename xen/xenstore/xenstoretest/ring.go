package xenstoretest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/stretchr/testify/require"
)

// Channel is one end of an event channel that exists only in this process: Notify calls the handler of the other end.
type Channel struct {
	peer     *Channel
	Notified atomic.Uint64 // how often Notify was called

	mu sync.Mutex
	// +checklocks:mu
	f func()
	// +checklocks:mu
	pending bool
	// +checklocks:mu
	closed bool
}

var _ xenstore.RingChannel = (*Channel)(nil)

// NewChannels returns the two ends of an event channel.
func NewChannels() (a, b *Channel) {
	a, b = &Channel{}, &Channel{}
	a.peer, b.peer = b, a
	return a, b
}

// Notify sends an event to the other end. It is remembered where that has no handler yet.
func (c *Channel) Notify() error {
	c.Notified.Add(1)
	p := c.peer
	p.mu.Lock()
	f := p.f
	p.pending = f == nil && !p.closed
	p.mu.Unlock()
	if f != nil {
		f()
	}
	return nil
}

// Handle has f called for each event.
func (c *Channel) Handle(f func()) {
	c.mu.Lock()
	c.f = f
	now := f != nil && c.pending
	c.pending = c.pending && f == nil
	c.mu.Unlock()
	if now {
		f()
	}
}

// Close ends the end's use.
func (c *Channel) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.f, c.closed = nil, true
	return nil
}

// NewRings returns both ends of a ring page in this process. They are closed when the test ends.
func NewRings(tb testing.TB, clientConfig, serverConfig *xenstore.RingConfig) (client, server *xenstore.RingConn) {
	tb.Helper()
	page := shm.New(1)
	a, b := NewChannels()
	server, err := xenstore.NewRingConn(page, b, xenstore.RoleServer, serverConfig)
	require.NoError(tb, err)
	client, err = xenstore.NewRingConn(page, a, xenstore.RoleClient, clientConfig)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		require.NoError(tb, client.Close())
		require.NoError(tb, server.Close())
	})
	return client, server
}
