package grant

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Linux is the grants of the domain of a Linux kernel: what it shares through /dev/xen/gntalloc, what it maps and copies through
// /dev/xen/gntdev. It is a [Table], safe for concurrent use.
//
// The kernel owns the grant table. It chooses pages and references, and takes them back when a share ends: it does not tell whether the
// peer still has a page mapped, and keeps the page until the peer lets go. So ending a share always answers [Surrendered]. How many pages
// may be shared at once, in the whole domain, is a parameter of gntalloc's module ("limit", 1024 by default).
//
// Notifications are the kernel's own, and come also when the process dies without a word.
type Linux struct {
	open  xendev.Opener
	limit func() int // of gntalloc; 0 where it is not known
	cfg   Config

	mu sync.Mutex
	// +checklocks:mu
	changed *sync.Cond // a handle's state or uses changed
	// +checklocks:mu
	now *session
	// +checklocks:mu
	closed bool
	// +checklocks:mu
	shares handles[*linuxShare]
	// +checklocks:mu
	mappings handles[*linuxMapping]
	// +checklocks:mu
	shared, mapped, leaked int
	// +checklocks:mu
	forbidden hypercall.DomID // whose pages Map refuses
	// +checklocks:mu
	why error // nil where it refuses nobody's

	maps     atomic.Uint64
	unmaps   atomic.Uint64
	copies   atomic.Uint64
	requests atomic.Uint64
}

var _ Table = (*Linux)(nil)

// session is the devices, opened once. One of them may be missing: then what needs it says why.
type session struct {
	l        *Linux
	alloc    xendev.Node
	allocErr error
	dev      xendev.Node
	devErr   error
}

// OpenLinux opens the kernel's devices. Where only one of them can be had, what needs the other fails. Of cfg, MaxFrames and
// MaxQuarantine do not count.
func OpenLinux(cfg *Config) (*Linux, error) { return openLinux(xendev.Open, gntallocLimit, cfg) }

func openLinux(open xendev.Opener, limit func() int, cfg *Config) (*Linux, error) {
	l := &Linux{open: open, limit: limit, cfg: cfg.withDefaults()}
	l.changed = sync.NewCond(&l.mu)
	s, err := l.newSession()
	if err != nil {
		return nil, err
	}
	l.now = s // +checklocksignore: nobody else has it yet
	return l, nil
}

// gntallocLimit reads how many pages may be shared at once.
func gntallocLimit() int {
	text, err := os.ReadFile("/sys/module/xen_gntalloc/parameters/limit")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func (l *Linux) newSession() (*session, error) {
	s := &session{l: l}
	s.alloc, s.allocErr = l.open(xendev.DevGntalloc)
	s.dev, s.devErr = l.open(xendev.DevGntdev)
	if s.allocErr != nil && s.devErr != nil {
		return nil, fmt.Errorf("grant: %w", errors.Join(s.allocErr, s.devErr))
	}
	return s, nil
}

func (s *session) close() error {
	var errs []error
	for _, n := range []xendev.Node{s.alloc, s.dev} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

// session returns the present one, for an operation that begins.
func (l *Linux) session() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	return l.now, nil
}

// check returns why a handle of the session cannot become one of the table's, or nil.
//
// +checklocks:l.mu
func (l *Linux) check(s *session) error {
	switch {
	case l.closed:
		return net.ErrClosed
	case l.now != s:
		return hypercall.ErrStale
	}
	return nil
}

// request makes one of gntalloc or gntdev.
func (l *Linux) request(n xendev.Node, req xendev.Request, arg []byte, ps ...xendev.Pointer) error {
	l.requests.Add(1)
	_, err := n.Ioctl(req, arg, ps...)
	return l.deviceError(err)
}

// deviceError makes what the kernel or Xen answered an [hypercall.Errno], as it is elsewhere. A device that was closed under an operation
// says that the table was closed, or resumed.
func (l *Linux) deviceError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		if _, err := l.session(); err != nil {
			return err
		}
		return hypercall.ErrStale
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return hypercall.Errno(errno)
	}
	return err
}

// wentWithDevice reports whether the error says that what was to be given back went with its device.
func wentWithDevice(err error) bool {
	return errors.Is(err, hypercall.ErrStale) || errors.Is(err, net.ErrClosed)
}

// again makes an attempt, and further ones while the error is EAGAIN: the page is being paged in, or otherwise in transition.
func (l *Linux) again(attempt func() error) error {
	err := attempt()
	wait := l.cfg.Backoff
	for i := 0; i < l.cfg.Retries && errors.Is(err, syscall.EAGAIN); i++ {
		time.Sleep(wait)
		wait = min(2*wait, maxBackoff)
		err = attempt()
	}
	return err
}

// Stats implements [Table]. Hypercalls are requests to the devices; of the kernel's grant table nothing is known.
func (l *Linux) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		Shared: l.shared, Mapped: l.mapped, Leaked: l.leaked,
		Maps: l.maps.Load(), Unmaps: l.unmaps.Load(), Copies: l.copies.Load(), Hypercalls: l.requests.Load(),
	}
}

// Resume is for the platform: the domain was suspended and runs again, with a new and empty grant table. Shares and mappings made before
// are closed, and answer [hypercall.ErrStale] from now on; the devices are opened anew.
func (l *Linux) Resume() error {
	s, err := l.newSession()
	if err != nil {
		return err
	}
	shares, mappings, old := l.swap(s)
	if old == nil {
		return errors.Join(fmt.Errorf("grant: resume: %w", net.ErrClosed), s.close())
	}
	var errs []error
	for _, m := range mappings {
		m.awaitUses()
		errs = append(errs, m.region.Close())
		l.unmaps.Add(uint64(m.pages))
	}
	for _, sh := range shares {
		sh.awaitUses()
		errs = append(errs, sh.region.Close())
	}
	return errors.Join(append(errs, old.close())...)
}

// swap makes all handles stale. old is nil where the table was closed.
func (l *Linux) swap(s *session) (shares []*linuxShare, mappings []*linuxMapping, old *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, nil
	}
	shares, mappings, old = l.shares.all(), l.mappings.all(), l.now
	for _, sh := range shares {
		sh.state, sh.stale, sh.err = ended, true, stale("end")
		l.shares.remove(sh)
	}
	for _, m := range mappings {
		m.state, m.stale = ended, true
		l.mappings.remove(m)
	}
	l.shared, l.mapped, l.now = 0, 0, s
	l.changed.Broadcast()
	return shares, mappings, old
}

// Close implements [Table].
func (l *Linux) Close() error {
	shares, mappings, s := l.beginClose()
	if s == nil {
		return nil
	}
	var errs []error
	for _, m := range mappings {
		errs = append(errs, m.Close())
	}
	for _, sh := range shares {
		_, err := sh.End()
		errs = append(errs, err)
	}
	return errors.Join(append(errs, s.close())...)
}

func (l *Linux) beginClose() ([]*linuxShare, []*linuxMapping, *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, nil
	}
	l.closed = true
	return l.shares.all(), l.mappings.all(), l.now
}
