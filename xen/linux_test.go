package xen

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// counted is a table of a kernel's that counts what the platform does to it.
type counted struct {
	resumed, closed atomic.Int32
	err             error
}

func (c *counted) Resume() error { c.resumed.Add(1); return c.err }
func (c *counted) Close() error  { c.closed.Add(1); return nil }

type countedEvents struct {
	evtchn.Table
	*counted
}

func (c countedEvents) Close() error { return c.counted.Close() }

type countedGrants struct {
	grant.Table
	*counted
	k *kernel
}

func (c countedGrants) Forbid(peer hypercall.DomID, why error) {
	c.k.forbidden = append(c.k.forbidden, peer)
}

func (c countedGrants) Close() error { return c.counted.Close() }

// kernel is a Linux kernel's devices, as domain id.
type kernel struct {
	server             *xenstored.Server
	host               *xenstore.Client
	id                 hypercall.DomID
	ev, gt             counted
	noEvents, noGrants error
	stores             atomic.Int32
	guestType          string
	forbidden          []hypercall.DomID
	evConfig           *evtchn.Config
	askedXen           bool
	privcmd            *privcmd
}

func newKernel(t *testing.T, id hypercall.DomID) *kernel {
	k := &kernel{server: xenstored.New(nil), id: id}
	k.host = k.server.LocalClient()
	t.Cleanup(func() {
		require.NoError(t, k.host.Close())
		require.NoError(t, k.server.Close())
	})
	home := xenstore.DomainPath(id)
	require.NoError(t, k.host.Mkdir(t.Context(), home))
	if id != 0 {
		require.NoError(t, k.host.SetPerms(t.Context(), home, xenstore.Perm{Dom: id}))
		require.NoError(t, k.server.IntroduceDomain(id))
	}
	k.setID(t)
	require.NoError(t, k.host.Write(t.Context(), home+"/name", []byte("web")))
	return k
}

// setID is what the toolstack does before the domain runs. The event that it causes is like that of a watch which the kernel registers
// anew after a resume.
func (k *kernel) setID(t *testing.T) {
	require.NoError(t, k.host.Write(t.Context(), xenstore.DomainPath(k.id)+"/domid", []byte(strconv.Itoa(int(k.id)))))
}

func (k *kernel) devices() devices {
	return devices{
		guestType: func() string { return k.guestType },
		caller: func() (caller, error) {
			if k.privcmd == nil {
				return nil, fs.ErrPermission
			}
			return k.privcmd, nil
		},
		events: func(c hypercall.Caller, cfg *evtchn.Config) (evtchn.Table, error) {
			k.askedXen, k.evConfig = c != nil, cfg
			return countedEvents{nil, &k.ev}, k.noEvents
		},
		grants: func(*grant.Config) (grant.Table, error) { return countedGrants{nil, &k.gt, k}, k.noGrants },
		store: func(context.Context, *xenstore.Config) (*xenstore.Client, error) {
			k.stores.Add(1)
			near, far := net.Pipe()
			go func() { _ = k.server.ServeConn(context.Background(), far, k.id) }()
			return xenstore.NewClient(near, nil), nil
		},
	}
}

// privcmd answers every hypercall the same.
type privcmd struct {
	err    error
	closed bool
}

func (*privcmd) ABI() hypercall.ABI                          { return hypercall.X86_64 }
func (p *privcmd) Hypercall(*hypercall.Call) (uint64, error) { return 0, p.err }
func (p *privcmd) Close() error                              { p.closed = true; return nil }

func TestLinuxDomain(t *testing.T) {
	k := newKernel(t, 5)
	cfg := &Config{Events: &evtchn.Config{Spin: 1}}
	d, err := open(t.Context(), newLinux(cfg, k.devices()), cfg)
	require.NoError(t, err)
	require.Equal(t, hypercall.DomID(5), d.ID())
	require.Equal(t, "web", d.Name())
	require.Same(t, cfg.Events, k.evConfig)
	require.False(t, k.askedXen, "without privcmd there is nobody to ask")

	// A resume: what there was is stale, and Xenstore is connected to anew.
	number, next, err := d.Incarnation()
	require.NoError(t, err)
	require.EqualValues(t, 1, number)
	before := d.Store()
	for range 2 {
		k.setID(t)
		<-next
		_, next, err = d.Incarnation()
		require.NoError(t, err)
	}
	require.EqualValues(t, 2, k.ev.resumed.Load())
	require.EqualValues(t, 2, k.gt.resumed.Load())
	require.NotSame(t, before, d.Store())
	<-before.Done()
	_, err = d.Store().Read(t.Context(), "name")
	require.NoError(t, err)

	// Where it fails the domain says so.
	k.ev.err = errors.New("no device")
	k.setID(t)
	<-next
	_, _, err = d.Incarnation()
	require.ErrorIs(t, err, k.ev.err)
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	require.EqualValues(t, 1, k.ev.closed.Load())
	require.EqualValues(t, 1, k.gt.closed.Load())
	<-d.Done()
}

// A domain that would lose pages by mapping its own is kept from it, in each incarnation.
func TestLinuxOwnPages(t *testing.T) {
	for kind, want := range map[string][]hypercall.DomID{"PV": nil, "": nil, "HVM": {5, 5}, "PVH": {5, 5}} {
		k := newKernel(t, 5)
		k.guestType = kind
		d, err := open(t.Context(), newLinux(nil, k.devices()), nil)
		require.NoError(t, err)
		_, next, _ := d.Incarnation()
		k.setID(t)
		<-next
		require.Equal(t, want, k.forbidden, kind)
		require.NoError(t, d.Close())
	}
}

// The control domain is not suspended, and whoever writes its domid does it no harm.
func TestLinuxControlDomain(t *testing.T) {
	k := newKernel(t, 0)
	k.privcmd = new(privcmd)
	d, err := open(t.Context(), newLinux(nil, k.devices()), nil)
	require.NoError(t, err)
	defer d.Close()
	require.True(t, k.askedXen)
	k.setID(t)
	_, err = d.Store().Read(t.Context(), "domid")
	require.NoError(t, err)
	require.Zero(t, k.ev.resumed.Load())
	require.EqualValues(t, 1, k.stores.Load())
}

// Where the kernel has the device but allows no hypercall there is nobody to ask.
func TestLinuxUselessPrivcmd(t *testing.T) {
	k := newKernel(t, 5)
	k.privcmd = &privcmd{err: hypercall.EPERM}
	d, err := open(t.Context(), newLinux(nil, k.devices()), nil)
	require.NoError(t, err)
	require.False(t, k.askedXen)
	require.True(t, k.privcmd.closed)
	require.NoError(t, d.Close())
}

func TestLinuxWithoutDevices(t *testing.T) {
	k := newKernel(t, 5)
	k.noEvents = &os.PathError{Op: "open", Path: "/dev/xen/evtchn", Err: fs.ErrNotExist}
	_, err := open(t.Context(), newLinux(nil, k.devices()), nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "hvkit doctor")
	k.noEvents, k.noGrants = nil, &os.PathError{Op: "open", Path: "/dev/xen/gntdev", Err: fs.ErrPermission}
	_, err = open(t.Context(), newLinux(nil, k.devices()), nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.NotErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorContains(t, err, "hvkit doctor")
	require.EqualValues(t, 1, k.ev.closed.Load(), "what was opened is closed")
}

func TestOpenPrefersTheSimulatedHost(t *testing.T) {
	t.Setenv(EnvHost, t.TempDir()+"/no-host")
	_, err := Open(t.Context())
	require.ErrorContains(t, err, "no-host")
}
