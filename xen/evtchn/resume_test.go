package evtchn

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// E-11: what channels of before do after Xen let the new incarnation run, and before Native was told, is done to none of its ports, be
// they the toolstack's or others; and no port is opened that nobody would close.
func TestE11_BeforeResumeIsTold(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	a, b := pair(t, n, x)
	x.resume()
	for _, port := range []hypercall.Port{a.port, b.port} {
		x.ports[port] = &hypercall.EvtchnStatus{Port: port, State: hypercall.EvtchnUnbound}
	}
	_, err := a.Status()
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.ErrorIs(t, a.Notify(), hypercall.ErrStale)
	require.ErrorIs(t, a.Close(), hypercall.ErrStale)
	_, err = n.AllocUnbound(x.id)
	require.ErrorIs(t, err, hypercall.ErrStale)
	_, err = n.Adopt(b.port)
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Len(t, x.ports, 2)

	require.NoError(t, n.Resume(x.info))
	require.ErrorIs(t, b.Close(), hypercall.ErrStale)
	require.Len(t, x.ports, 2)
	for port := range x.ports {
		ch, err := n.Adopt(port)
		require.NoError(t, err)
		require.NoError(t, ch.Close())
	}
	require.Empty(t, x.ports)
	require.Zero(t, n.Stats().Open)
}

// E-11: a Close that had begun before the resume works on a page that the next incarnation may have: the channel that has the number then
// is neither masked by it nor loses an event.
func TestE11_CloseAcrossResumeSparesOthers(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	old, _ := pair(t, n, x)
	x.ports = make(map[hypercall.Port]*hypercall.EvtchnStatus)
	require.NoError(t, n.Resume(x.info))
	fresh, peer := pair(t, n, x)
	require.Equal(t, old.port, fresh.port)
	x.upcall = nil // the event is pending, and not taken in yet
	require.NoError(t, peer.Notify())
	require.NoError(t, old.free())
	require.NoError(t, fresh.Wait(withinPatience(t)))
	x.upcall = n.Upcall
	n.Upcall()
	require.NoError(t, peer.Notify())
	require.NoError(t, fresh.Wait(withinPatience(t)))
}

// A call that opens a port and reaches Xen after the resume opens none.
func TestBindAcrossResume(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, err := n.bind("allocate", func(c hypercall.Caller) (hypercall.Port, error) {
		x.resume()
		require.NoError(t, n.Resume(x.info))
		return hypercall.AllocUnbound(c, hypercall.DomSelf, x.id)
	})
	require.ErrorIs(t, err, hypercall.ErrStale)
	require.Empty(t, x.ports)
	require.Zero(t, n.Stats().Open)
}

// A call that opened a port before the resume, and comes back after it, leaves the port that has the number then alone.
func TestBindAcrossResumeSparesOthers(t *testing.T) {
	n, x := newNative(t, hypercall.X86_64, nil)
	var fresh Channel
	_, err := n.bind("allocate", func(c hypercall.Caller) (hypercall.Port, error) {
		port, err := hypercall.AllocUnbound(c, hypercall.DomSelf, x.id)
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
	require.NoError(t, fresh.Notify())
}

// E-11: the domain is resumed at any step of what a channel of before does, with the same page: an event that comes to the channel that has
// the number then arrives, and so does the next.
func TestE11_ResumeAtEveryStep(t *testing.T) {
	for name, do := range map[string]func(n *Native, old *channel){
		"mask":   func(_ *Native, old *channel) { _ = old.Mask() },
		"unmask": func(_ *Native, old *channel) { _ = old.Unmask() },
		"close":  func(_ *Native, old *channel) { _ = old.Close() },
		"upcall": func(n *Native, _ *channel) { n.Upcall() },
	} {
		t.Run(name, func(t *testing.T) {
			steps := 0
			for resumed := true; resumed; steps++ {
				resumed = resumeAtStep(t, name, steps, do)
			}
			require.Greater(t, steps, 1)
		})
	}
}

// resumeAtStep has the domain resumed before the access that has the number, and reports whether there was one.
func resumeAtStep(t *testing.T, name string, at int, do func(n *Native, old *channel)) (resumed bool) {
	n, x := newNative(t, hypercall.X86_64, nil)
	_, old := pair(t, n, x)
	x.upcall = nil
	if name == "unmask" {
		require.NoError(t, old.Mask())
	}
	x.pend(old.port)
	var fresh, peer *channel
	step := 0
	x.info.Observe(hookAgain(x, func() {
		if x.inside() {
			return
		}
		if step++; step != at+1 {
			return
		}
		resumed = true
		x.gen++
		x.ports = make(map[hypercall.Port]*hypercall.EvtchnStatus)
		x.info.CopyIn(0, make([]byte, shm.PageSize))
		require.NoError(t, n.Resume(x.info))
		peer, fresh = pair(t, n, x)
		require.Equal(t, old.port, fresh.port)
		require.NoError(t, peer.Notify())
	}))
	do(n, old)
	x.info.Observe(nil)
	if !resumed {
		return false
	}
	x.upcall = n.Upcall
	n.Upcall()
	for range 2 {
		require.NoError(t, fresh.Wait(withinPatience(t)), "resumed before access %d of %s", at+1, name)
		require.NoError(t, peer.Notify())
	}
	return true
}
