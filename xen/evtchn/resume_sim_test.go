package evtchn_test

import (
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen/evtchn/evtchntest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Channels come and go while their domains are suspended and resumed again and again: in the end no port is open.
func TestNoPortIsLostAcrossResumes(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	const resumes, workers = 60, 3
	sides := []evtchntest.Side{newSide(t, host, "a"), newSide(t, host, "b")}
	doms := []*sim.Domain{host.Domain(sides[0].ID), host.Domain(sides[1].ID)}
	stop := make(chan struct{})
	failed := make(chan error, workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := connectAndClose(sides[i%2], sides[1-i%2]); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for i := range resumes {
		require.NoError(t, doms[i%2].Suspend())
		require.NoError(t, doms[i%2].Resume(false))
	}
	close(stop)
	group.Wait()
	close(failed)
	require.NoError(t, <-failed)
	for _, s := range sides {
		require.Equal(t, 1, s.Table.Stats().Open, "Xenstore's")
	}
	require.Empty(t, host.Leaks())
}

// connectAndClose makes a channel of a to b. That one of them was resumed in between is no error.
func connectAndClose(a, b evtchntest.Side) error {
	ca, err := a.Table.AllocUnbound(b.ID)
	if err != nil {
		return unlessResumed(err)
	}
	cb, err := b.Table.BindInterdomain(a.ID, ca.Port())
	if err == nil {
		err = errors.Join(unlessResumed(ca.Notify()), unlessResumed(cb.Close()))
	}
	return errors.Join(unlessResumed(err), unlessResumed(ca.Close()))
}

// unlessResumed drops the errors that a resume makes: Xen knows no such port or domain any more, or has given the number away again
// before the table was told.
func unlessResumed(err error) error {
	for _, resumed := range []error{hypercall.ErrStale, hypercall.EINVAL, hypercall.ESRCH, net.ErrClosed} {
		if errors.Is(err, resumed) {
			return nil
		}
	}
	return err
}
