package xen_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// muffled is a machine that no event leaves or reaches from quiet on until the second resume.
type muffled struct {
	xen.Machine
	quiet   atomic.Bool
	kept    atomic.Int64 // events that did not leave it
	resumes atomic.Int64
}

func (m *muffled) SetUpcall(f func()) {
	m.Machine.SetUpcall(func() {
		if !m.quiet.Load() {
			f()
		}
	})
}

func (m *muffled) SetResume(f func()) {
	m.Machine.SetResume(func() {
		if m.resumes.Add(1) == 2 {
			m.quiet.Store(false)
		}
		f()
	})
}

func (m *muffled) Hypercall(c *hypercall.Call) (uint64, error) { return m.call(m.Machine, c) }

func (m *muffled) call(to hypercall.Caller, c *hypercall.Call) (uint64, error) {
	if m.quiet.Load() && c.Nr == hypercall.NrEventChannelOp && c.Args[0] == hypercall.EvtchnopSend {
		m.kept.Add(1)
		return 0, nil
	}
	return to.Hypercall(c)
}

// Incarnation implements hypercall.Incarnations.
func (m *muffled) Incarnation() hypercall.Caller { return &muffledCaller{m.Machine.Incarnation(), m} }

type muffledCaller struct {
	hypercall.Caller
	m *muffled
}

func (c *muffledCaller) Hypercall(call *hypercall.Call) (uint64, error) {
	return c.m.call(c.Caller, call)
}

// A domain becomes another incarnation while it waits for Xenstore in the one before: what it waits for will not come, and so the later
// resume ends the earlier one.
func TestResumeDuringResume(t *testing.T) {
	h := simtest.NewHost(t, nil)
	dom, bare, err := h.NewBare(&sim.DomainConfig{Name: "twice"})
	require.NoError(t, err)
	m := &muffled{Machine: bare}
	d, err := xen.NewDomain(t.Context(), m, nil)
	require.NoError(t, err)
	defer d.Close()

	m.quiet.Store(true)
	first := make(chan error, 1)
	go func() { first <- dom.SoftReset() }() // which returns when the domain has begun anew
	require.Eventually(t, func() bool { return m.kept.Load() > 0 }, 10*time.Second, time.Millisecond, "it asks Xenstore who it is")
	second := make(chan error, 1)
	go func() { second <- dom.SoftReset() }()
	for _, reset := range []chan error{first, second} {
		select {
		case err := <-reset:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			require.Fail(t, "the domain waits for what does not come")
		}
	}
	n, _, err := d.Incarnation()
	require.NoError(t, err, "the present one has started")
	require.EqualValues(t, 3, n)
	name, err := d.Store().Read(t.Context(), "name")
	require.NoError(t, err)
	require.Equal(t, "twice", string(name))
}
