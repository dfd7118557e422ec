package dom0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// own is the control domain.
const own hypercall.DomID = 0

// Host is the control domain's kernel, and Xen. It is safe for concurrent use.
type Host struct {
	caller  hypercall.Caller
	grants  grant.Table
	events  evtchn.Table
	backend func() (*backend, error)
	closers []io.Closer // in the order of opening
	log     *slog.Logger
	version uint32 // of domctl's interface; belongs to Watch
}

var _ xenstored.Introducer = (*Host)(nil)

// backend is the page that the kernel shares with the server, and the kernel's port.
type backend struct {
	page *shm.Region
	port hypercall.Port
}

// Open opens the devices of the kernel, which must be a control domain's. Close the host after use.
func Open(log *slog.Logger) (_ *Host, err error) {
	h := &Host{log: log, version: hypercall.DomctlVersion, backend: openBackend}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	privcmd, err := hypercall.OpenPrivcmd()
	if err != nil {
		return nil, err
	}
	h.caller, h.closers = privcmd, append(h.closers, privcmd)
	events, err := evtchn.OpenLinux(privcmd, nil)
	if err != nil {
		return nil, err
	}
	h.events, h.closers = events, append(h.closers, events)
	grants, err := grant.OpenLinux(nil)
	if err != nil {
		return nil, err
	}
	h.grants, h.closers = grants, append(h.closers, grants)
	return h, nil
}

// openBackend asks the kernel for its page and port. The page stays mapped when the device is closed.
func openBackend() (_ *backend, err error) {
	node, err := xendev.Open(xendev.DevXenbusBackend)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	port, err := node.Ioctl(xendev.XenbusBackendEvtchn, nil)
	if err != nil {
		return nil, fmt.Errorf("the port of the kernel's Xenstore client: %w", err)
	}
	page, err := node.Map(0, 1, true)
	if err != nil {
		return nil, fmt.Errorf("the page of the kernel's Xenstore client: %w", err)
	}
	return &backend{page, hypercall.Port(port)}, nil
}

// Close gives the devices back. Streams that the host made end.
func (h *Host) Close() error {
	var errs []error
	for i := len(h.closers) - 1; i >= 0; i-- {
		errs = append(errs, h.closers[i].Close())
	}
	h.closers = nil
	return errors.Join(errs...)
}

// Kernel returns the stream of the control domain's own kernel, which waits for its first event to know that there is a server.
func (h *Host) Kernel() (io.ReadWriteCloser, error) {
	b, err := h.backend()
	if err != nil {
		return nil, fmt.Errorf("dom0: %w", err)
	}
	s, err := h.stream(own, b.port, b.page, b.page)
	if err != nil {
		return nil, fmt.Errorf("dom0: connect to the kernel's port %d: %w", b.port, err)
	}
	return s, nil
}

// Introduce implements [xenstored.Introducer]. The page is the one that the toolstack has granted for it; the frame number is not used,
// as in the C server, so that no privilege over the domain's memory is needed.
func (h *Host) Introduce(dom hypercall.DomID, _ hypercall.GFN, port hypercall.Port) (io.ReadWriteCloser, error) {
	m, err := h.grants.Map(dom, []grant.Ref{grant.Ref(hypercall.GrantXenstore)}, grant.ReadWrite)
	if err != nil {
		return nil, fmt.Errorf("dom0: the page of domain %d: %w", dom, err)
	}
	s, err := h.stream(dom, port, m.Region(), m)
	if err != nil {
		return nil, fmt.Errorf("dom0: connect to port %d of domain %d: %w", port, dom, err)
	}
	return s, nil
}

// stream is a ring whose page goes when it is closed.
type stream struct {
	*xenstore.RingConn
	page io.Closer
	dom  hypercall.DomID
	port hypercall.Port // the domain's
}

// Hold returns the name under which [Host.Attach] of another process finds the stream again, if this host has made it, else "". Pages and
// the domains' ports stay where they are; what a domain says meanwhile waits in its page.
func Hold(rw io.ReadWriteCloser) string {
	s, ok := rw.(*stream)
	if !ok {
		return ""
	}
	return ringHandle + strconv.FormatUint(uint64(s.port), 10)
}

const ringHandle = "ring:"

// Attach returns the stream of a domain that Hold has named. The control domain's port is asked for again.
func (h *Host) Attach(dom hypercall.DomID, handle string) (io.ReadWriteCloser, error) {
	port, ok := strings.CutPrefix(handle, ringHandle)
	if !ok {
		return nil, fmt.Errorf("dom0: %q is no ring: %w", handle, xenstore.EINVAL)
	}
	if dom == own {
		return h.Kernel()
	}
	n, err := xenstore.ParseUint32(port)
	if err != nil {
		return nil, fmt.Errorf("dom0: the port of %q: %w", handle, err)
	}
	return h.Introduce(dom, 0, hypercall.Port(n))
}

// Close ends the use of the ring, and gives the page back.
func (s *stream) Close() error { return errors.Join(s.RingConn.Close(), s.page.Close()) }

// stream connects to a port and makes the stream of a page. It owns held, which is what holds the page.
func (h *Host) stream(dom hypercall.DomID, port hypercall.Port, page *shm.Region, held io.Closer) (*stream, error) {
	ch, err := h.events.BindInterdomain(dom, port)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	// Who was there before the server may wait to be told of it, and what a server before this one wrote last may not have been told of.
	if err := ch.Notify(); err != nil {
		return nil, errors.Join(err, ch.Close(), held.Close())
	}
	conn, err := xenstore.NewRingConn(page, ch, xenstore.RoleServer, &xenstore.RingConfig{Logger: h.log})
	if err != nil {
		return nil, errors.Join(err, ch.Close(), held.Close())
	}
	return &stream{conn, held, dom, port}, nil
}

// domains is what Watch needs of a server.
type domains interface {
	Domains() []xenstored.Domain
	ShutdownDomain(hypercall.DomID) error
	ReleaseDomain(hypercall.DomID) error
}

// Watch tells the server of domains that shut down and die, until ctx is done. It looks once at the beginning, too: some may have gone
// while there was no server.
func (h *Host) Watch(ctx context.Context, s *xenstored.Server) error { return h.watch(ctx, s) }

func (h *Host) watch(ctx context.Context, s domains) error {
	ch, err := h.events.BindVIRQ(hypercall.VIRQDomExc, 0)
	if err != nil {
		return fmt.Errorf("dom0: bind VIRQ_DOM_EXC (does another Xenstore server run?): %w", err)
	}
	defer func() { _ = ch.Close() }()
	for {
		if err := h.look(s); err != nil {
			return err
		}
		if err := ch.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dom0: wait for VIRQ_DOM_EXC: %w", err)
		}
	}
}

// look asks Xen for each domain that the server knows. A domain that dies is released at once: while the server has its page mapped, Xen
// keeps the domain.
func (h *Host) look(s domains) error {
	for _, d := range s.Domains() {
		info, err := h.domain(d.ID)
		switch {
		case errors.Is(err, hypercall.ESRCH):
			err = s.ReleaseDomain(d.ID)
		case err != nil:
		case d.Introduced && info.Flags&hypercall.DomainDying != 0:
			err = s.ReleaseDomain(d.ID)
		case d.Introduced && info.Flags&hypercall.DomainShutdown != 0 && !d.Shutdown:
			err = s.ShutdownDomain(d.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Versions of domctl's interface that are tried: those of Xen 4.6 and later, in all of which a domain's flags are in the same place.
const firstVersion, lastVersion = 0xb, 0x20

// domain asks Xen for a domain, in the version of the interface that Xen has.
func (h *Host) domain(id hypercall.DomID) (hypercall.DomainInfo, error) {
	info, err := hypercall.GetDomainInfo(h.caller, h.version, id)
	if !errors.Is(err, hypercall.EACCES) {
		return info, err
	}
	for v := uint32(firstVersion); v <= lastVersion; v++ {
		info, again := hypercall.GetDomainInfo(h.caller, v, id)
		if !errors.Is(again, hypercall.EACCES) {
			h.version = v
			return info, again
		}
	}
	return hypercall.DomainInfo{}, err
}
