package grant_test

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/grant/granttest"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Shares and mappings go on while their domains are suspended and resumed again and again: in the end nothing is lost.
func TestNothingIsLostAcrossResumes(t *testing.T) {
	host := sim.NewHost(nil)
	defer host.Close()
	const resumes, workers = 200, 3
	var doms [2]*sim.Domain
	var sides [2]granttest.Side
	for i, name := range []string{"a", "b"} {
		var err error
		log := slog.New(slog.NewTextHandler(t.Output(), nil)) // says what leaked
		doms[i], err = host.NewDomain(&sim.DomainConfig{Name: name, Xen: &xen.Config{Grants: &grant.Config{Logger: log}}})
		require.NoError(t, err)
		sides[i] = granttest.Side{ID: doms[i].Xen().ID(), Table: doms[i].Xen().Grants()}
	}
	stop := make(chan struct{})
	failed := make(chan error, workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for pages := 1; ; pages = pages%20 + 1 {
				select {
				case <-stop:
					return
				default:
				}
				if err := shareAndMap(sides[i%2], sides[1-i%2], pages); err != nil {
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
	for i := range doms {
		sides[i].Table.(*grant.Native).Reap()
		st := sides[i].Table.Stats()
		require.Zero(t, st.Leaked+st.Shared+st.Mapped+st.Quarantined, "%+v", st)
	}
	require.Empty(t, host.Leaks())
}

// shareAndMap shares pages of a with b, and lets go of them in either order. That a resume came in between is no error.
func shareAndMap(a, b granttest.Side, pages int) error {
	s, err := a.Table.Share(b.ID, pages, grant.ReadWrite)
	if err != nil {
		return unlessResumed(err)
	}
	m, err := b.Table.Map(a.ID, s.Refs(), grant.ReadWrite)
	if err == nil {
		m.Region().Store32(0, 1)
		if pages%2 == 0 {
			_, err = s.End()
		}
		err = errors.Join(unlessResumed(err), unlessResumed(m.Close()))
	}
	_, ended := s.End()
	return errors.Join(unlessResumed(err), unlessResumed(ended))
}

func unlessResumed(err error) error {
	_, refused := errors.AsType[*grant.MapError](err) // what the peer shared is gone
	if refused || errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
