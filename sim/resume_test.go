package sim_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// tardy is a machine whose domain does something after it has been resumed and before it is told so.
type tardy struct {
	xen.Machine
	meanwhile chan func()
}

func (m *tardy) SetResume(f func()) {
	m.Machine.SetResume(func() {
		(<-m.meanwhile)()
		f()
	})
}

// TestHandlesOfBeforeActOnNothing: the host lets a resumed domain run before the domain is told that it was. What it does meanwhile with
// channels of before is not done to the ports that have their numbers now, of which the first is Xenstore's.
func TestHandlesOfBeforeActOnNothing(t *testing.T) {
	for name, next := range incarnations {
		t.Run(name, func(t *testing.T) {
			onBare(t, sim.Limits{}, func(t *testing.T, _ *sim.Host, a, b *bare) {
				m := &tardy{a.m, make(chan func(), 1)}
				d, err := xen.NewDomain(within(t), m, nil)
				require.NoError(t, err)
				defer d.Close()
				ch, err := d.Events().AllocUnbound(b.ID())
				require.NoError(t, err)
				store, answers := d.Store(), make(chan error, 4)
				m.meanwhile <- func() {
					_, err := ch.Status()
					answers <- err
					answers <- ch.Notify()
					answers <- ch.Close()
					_, err = d.Events().AllocUnbound(b.ID())
					answers <- err
					_ = store.Close() // as it does by itself when it finds that the server has hung up
				}
				_, changed, _ := d.Incarnation()
				require.NoError(t, next(a.Domain))
				<-changed
				for range cap(answers) {
					require.ErrorIs(t, <-answers, hypercall.ErrStale)
				}
				_, _, err = d.Incarnation()
				require.NoError(t, err, "the store's port was closed")
				_, err = d.Store().Read(within(t), "domid")
				require.NoError(t, err)
				require.Equal(t, 1, d.Events().Stats().Open, "Xenstore's")
			})
		})
	}
}
