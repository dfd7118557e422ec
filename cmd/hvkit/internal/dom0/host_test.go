package dom0

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/leaktest"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/hypercall/hypercalltest"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// fakeXen answers domctl as a Xen that speaks one version of the interface and has some domains.
type fakeXen struct {
	version uint32
	flags   map[hypercall.DomID]hypercall.DomainFlags
	calls   int
}

func (x *fakeXen) answer(c *hypercall.Call) (uint64, error) {
	x.calls++
	var info hypercall.DomainInfo
	if err := c.Decode(hypercall.X86_64, 0, &info); err != nil {
		return 0, err
	}
	if info.Version != x.version {
		return 0, hypercall.EACCES
	}
	for id := info.Dom; id < hypercall.DomFirstReserved; id++ { // the next one that there is
		if flags, ok := x.flags[id]; ok {
			info.Dom, info.Of, info.Flags = id, id, flags
			return 0, c.Encode(hypercall.X86_64, 0, &info)
		}
	}
	return 0, hypercall.ESRCH
}

func (x *fakeXen) caller() hypercall.Caller {
	return &hypercalltest.Func{Layout: hypercall.X86_64, Answer: x.answer}
}

// channel is an event channel that the test fires.
type channel struct {
	evtchn.Channel
	fire     chan struct{}
	notified int
	closed   bool
}

func (c *channel) Wait(ctx context.Context) error {
	select {
	case <-c.fire:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *channel) Notify() error { c.notified++; return nil }
func (c *channel) Handle(func()) {}
func (c *channel) Close() error  { c.closed = true; return nil }

// events is a table that has one channel for whatever is bound.
type events struct {
	evtchn.Table
	ch    *channel
	bound []hypercall.Port
	err   error
}

func (e *events) BindVIRQ(v hypercall.VIRQ, _ uint32) (evtchn.Channel, error) {
	if v != hypercall.VIRQDomExc {
		return nil, hypercall.EINVAL
	}
	return e.ch, e.err
}

func (e *events) BindInterdomain(_ hypercall.DomID, p hypercall.Port) (evtchn.Channel, error) {
	e.bound = append(e.bound, p)
	return e.ch, e.err
}

// mapping is a domain's page.
type mapping struct {
	grant.Mapping
	page   *shm.Region
	closed bool
}

func (m *mapping) Region() *shm.Region { return m.page }
func (m *mapping) Close() error        { m.closed = true; return m.page.Close() }

// grants has one page, under the reference of Xenstore's page.
type grants struct {
	grant.Table
	m *mapping
}

func (g *grants) Map(_ hypercall.DomID, refs []grant.Ref, a grant.Access) (grant.Mapping, error) {
	if len(refs) != 1 || refs[0] != grant.Ref(hypercall.GrantXenstore) || a != grant.ReadWrite {
		return nil, hypercall.EINVAL
	}
	return g.m, nil
}

// TestDomainsThatGo: of those that the server knows, those that have shut down are said to once, those that die or have gone are released.
func TestDomainsThatGo(t *testing.T) {
	x := &fakeXen{version: 0x17, flags: map[hypercall.DomID]hypercall.DomainFlags{
		0: 0, 1: hypercall.DomainRunning, 2: hypercall.DomainShutdown, 3: hypercall.DomainShutdown | hypercall.DomainDying,
		5: hypercall.DomainPaused, 6: hypercall.DomainDying,
	}}
	ev := &events{ch: &channel{fire: make(chan struct{})}}
	h := &Host{caller: x.caller(), events: ev, version: hypercall.DomctlVersion}
	s := xenstored.New(nil)
	defer s.Close()
	c := s.LocalClient()
	defer c.Close()
	for _, id := range []hypercall.DomID{1, 2, 3, 4} {
		require.NoError(t, s.IntroduceDomain(id))
	}
	for _, id := range []hypercall.DomID{6, 7} { // own a node, and are not introduced
		path := xenstore.DomainPath(id)
		require.NoError(t, c.Mkdir(t.Context(), path))
		require.NoError(t, c.SetPerms(t.Context(), path, xenstore.Perm{Dom: id}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() { over <- h.Watch(ctx, s) }()
	ev.ch.fire <- struct{}{} // it has looked once
	ev.ch.fire <- struct{}{} // and again
	require.Equal(t, []xenstored.Domain{{ID: 1, Introduced: true}, {ID: 2, Introduced: true, Shutdown: true}, {ID: 6}}, s.Domains())
	require.EqualValues(t, 0x17, h.version, "Xen's own")
	cancel()
	require.NoError(t, <-over)
	require.True(t, ev.ch.closed)

	ev.err = hypercall.EEXIST
	require.ErrorContains(t, h.Watch(t.Context(), s), "another Xenstore server")
}

func TestUnknownVersion(t *testing.T) {
	x := &fakeXen{version: 0x1000}
	h := &Host{caller: x.caller(), version: hypercall.DomctlVersion}
	_, err := h.domain(1)
	require.ErrorIs(t, err, hypercall.EACCES)
	require.Equal(t, 1+lastVersion-firstVersion+1, x.calls, "each is tried once")
}

// TestStreams: a domain's stream is on its granted page, tells the domain that a server is there, gives everything back, and is found again
// by its name.
func TestStreams(t *testing.T) {
	ev := &events{ch: &channel{}}
	gr := &grants{m: &mapping{page: shm.New(1)}}
	kernel := shm.New(1)
	h := &Host{
		events: ev, grants: gr, log: slog.New(slog.DiscardHandler),
		backend: func() (*backend, error) { return &backend{kernel, 9}, nil },
	}
	rw, err := h.Introduce(5, 0, 7)
	require.NoError(t, err)
	require.Equal(t, 1, ev.ch.notified)
	require.Equal(t, "ring:7", Hold(rw))
	require.NoError(t, rw.Close())
	require.True(t, gr.m.closed)
	require.True(t, ev.ch.closed)
	_, err = rw.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)

	gr.m = &mapping{page: shm.New(1)}
	rw, err = h.Attach(5, "ring:7")
	require.NoError(t, err)
	require.NoError(t, rw.Close())
	rw, err = h.Attach(0, "ring:1") // the kernel says which port it has now
	require.NoError(t, err)
	require.NoError(t, rw.Close())
	require.Equal(t, []hypercall.Port{7, 7, 9}, ev.bound)

	for _, handle := range []string{"", "socket:3", "ring:", "ring:x"} {
		_, err := h.Attach(5, handle)
		require.Error(t, err, handle)
	}
	near, far := net.Pipe()
	require.Empty(t, Hold(near))
	require.NoError(t, errors.Join(near.Close(), far.Close()))

	gr.m = &mapping{page: shm.New(1)}
	ev.err = hypercall.EINVAL
	_, err = h.Introduce(5, 0, 7)
	require.ErrorIs(t, err, hypercall.EINVAL)
	require.True(t, gr.m.closed)
}

var _ io.ReadWriteCloser = (*stream)(nil)
