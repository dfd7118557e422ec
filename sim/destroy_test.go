package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// A dead domain's number and name are nobody's until Xenstore has forgotten them: else the next domain's home would go with its own.
func TestNumberAndNameOfTheDying(t *testing.T) {
	h := NewHost(nil)
	defer func() { require.NoError(t, h.Close()) }()
	d, err := h.NewDomain(&DomainConfig{Name: "dying"})
	require.NoError(t, err)
	id := d.ID()

	d.life.Lock() // which holds up what is done in Xenstore
	destroyed := make(chan error, 1)
	go func() { destroyed <- d.Destroy() }()
	require.Eventually(t, func() bool { return h.Domain(id) == nil }, 10*time.Second, time.Millisecond)
	_, err = h.NewDomain(&DomainConfig{ID: id})
	require.ErrorIs(t, err, hypercall.EEXIST)
	_, err = h.NewDomain(&DomainConfig{Name: "dying"})
	require.ErrorIs(t, err, hypercall.EEXIST)
	h.mu.Lock()
	h.hv.lastID = id - 1
	h.mu.Unlock()
	next, err := h.NewDomain(nil)
	require.NoError(t, err)
	require.NotEqual(t, id, next.ID())

	d.life.Unlock()
	require.NoError(t, <-destroyed)
	again, err := h.NewDomain(&DomainConfig{ID: id, Name: "dying"})
	require.NoError(t, err)
	require.NoError(t, again.Destroy())
	require.NoError(t, next.Destroy())
}
