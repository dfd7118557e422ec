package evtchn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// What is opened after Xen let the new incarnation run, and before Native was told, is closed when it is: also where it has the number
// of a channel of before.
func TestBindBeforeResumeIsTold(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	old, err := n.AllocUnbound(x.id)
	require.NoError(t, err)
	x.resume()
	_, err = n.AllocUnbound(x.id)
	require.ErrorIs(t, err, hypercall.ErrStale, "the number of the channel of before")
	late, err := n.AllocUnbound(x.id)
	require.NoError(t, err)
	require.Len(t, x.ports, 2)
	require.NoError(t, n.Resume(x.info))
	require.Empty(t, x.ports)
	require.ErrorIs(t, late.Close(), hypercall.ErrStale)
	require.ErrorIs(t, old.Close(), hypercall.ErrStale)
	require.Zero(t, n.Stats().Open)
	require.Zero(t, n.strayCount())
}

// A port that Xen opens in the new incarnation for an operation that began in the one before is closed.
func TestBindAcrossResume(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, err := n.bind("allocate", func(hypercall.Caller) (hypercall.Port, error) {
		x.resume()
		require.NoError(t, n.Resume(x.info))
		return hypercall.AllocUnbound(x, hypercall.DomSelf, x.id)
	})
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Empty(t, x.ports)
	require.Zero(t, n.Stats().Open)
}

// A port of the incarnation before is not closed in the new one, where it is somebody else's, known already or not yet.
func TestBindAcrossResumeSparesOthers(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	var fresh Channel
	_, err := n.bind("allocate", func(hypercall.Caller) (hypercall.Port, error) {
		port, err := hypercall.AllocUnbound(x, hypercall.DomSelf, x.id)
		require.NoError(t, err)
		x.resume()
		require.NoError(t, n.Resume(x.info))
		fresh, err = n.AllocUnbound(x.id)
		require.NoError(t, err)
		require.Equal(t, port, fresh.Port())
		return port, nil
	})
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.NotNil(t, x.ports[fresh.Port()])

	fresh, err = n.bind("allocate", func(hypercall.Caller) (hypercall.Port, error) {
		port, err := hypercall.AllocUnbound(x, hypercall.DomSelf, x.id)
		require.NoError(t, err)
		old := newChannel(n, &incarnation{slots: n.now.Load().slots}, port)
		_, err = n.enter("allocate", old, 0) // one of before that comes back just now with the same number
		require.ErrorIs(t, err, hypercall.ErrStale)
		n.sweep()
		return port, nil
	})
	require.NoError(t, err)
	require.NotNil(t, x.ports[fresh.Port()])
	require.Zero(t, n.strayCount())
	require.NoError(t, fresh.Notify())
}

// The port that the toolstack made for the new incarnation's store has the number of a channel of before: it stays.
func TestResumeSparesToolstacksPorts(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	old, err := n.AllocUnbound(x.id)
	require.NoError(t, err)
	x.resume()
	x.store = old.Port()
	x.ports[x.store] = &hypercall.EvtchnStatus{Port: x.store, State: hypercall.EvtchnUnbound}
	require.NoError(t, n.Resume(x.info))
	require.NotNil(t, x.ports[x.store])
	store, err := n.Adopt(x.store)
	require.NoError(t, err)
	require.NoError(t, store.Close())
}
