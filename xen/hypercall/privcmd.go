package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync"
	"syscall"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
)

// Privcmd makes hypercalls as the domain of a Linux kernel, through /dev/xen/privcmd. What a call points at is copied into memory that
// the kernel keeps where it is (/dev/xen/hypercall), because Xen reads and writes it without the kernel's help. It is a [Caller], safe
// for concurrent use.
//
// Xen lets a kernel's domain do through it what that domain may do, so that it is for root alone.
type Privcmd struct {
	abi  ABI
	node xendev.Node
	safe safeMemory
}

var _ Caller = (*Privcmd)(nil)

// OpenPrivcmd opens the kernel's devices, of which /dev/xen/hypercall is there since Linux 4.18. Close it after use. A kernel may have them
// and yet let only a control domain's programs make hypercalls: then each answers EPERM.
func OpenPrivcmd() (*Privcmd, error) {
	abi, err := hostABI()
	if err != nil {
		return nil, err
	}
	return openPrivcmd(abi, xendev.Open)
}

func hostABI() (ABI, error) {
	switch runtime.GOARCH {
	case "amd64":
		return X86_64, nil
	case "arm64":
		return ARM64, nil
	}
	return 0, fmt.Errorf("hypercall: privcmd on %s: %w", runtime.GOARCH, errors.ErrUnsupported)
}

func openPrivcmd(abi ABI, open xendev.Opener) (*Privcmd, error) {
	node, err := open(xendev.DevPrivcmd)
	if err != nil {
		return nil, fmt.Errorf("hypercall: %w", err)
	}
	memory, err := open(xendev.DevHypercall)
	if err != nil {
		node.Close()
		return nil, fmt.Errorf("hypercall: memory for what hypercalls point at: %w", err)
	}
	return &Privcmd{abi: abi, node: node, safe: safeMemory{node: memory}}, nil
}

// Close closes the devices. Regions that were mapped stay.
func (p *Privcmd) Close() error {
	p.safe.close()
	return errors.Join(p.node.Close(), p.safe.node.Close())
}

// ABI implements [Caller].
func (p *Privcmd) ABI() ABI { return p.abi }

// pointerAlign is the alignment of what a call points at.
const pointerAlign = 8

// Hypercall implements [Caller].
func (p *Privcmd) Hypercall(c *Call) (uint64, error) {
	args := c.Args
	size := 0
	if c.Data != nil {
		size = sizeOf(c.Data, c.Refs)
	}
	var region *shm.Region
	if size > 0 {
		var err error
		if region, err = p.safe.take(size); err != nil {
			return 0, err
		}
		defer p.safe.put(region)
		args[c.Ptr] = xendev.Address(region, 0)
		copyIn(region, 0, c.Data, c.Refs)
	}
	var h xendev.Hypercall
	h.Set(uint64(c.Nr), &args)
	r, err := p.node.Ioctl(xendev.PrivcmdHypercall, h[:])
	if region != nil {
		copyOut(region, 0, c.Data, c.Refs)
	}
	return r, xenError(err)
}

// xenError makes what the device answers an [Errno], whoever of Xen and the kernel said it: their numbers are the same.
func xenError(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return Errno(errno)
	}
	return err
}

// sizeOf returns how many bytes data takes with what it points at, each aligned.
func sizeOf(data []byte, refs []DataRef) int {
	n := (len(data) + pointerAlign - 1) &^ (pointerAlign - 1)
	for i := range refs {
		n += sizeOf(refs[i].Data, refs[i].Refs)
	}
	return n
}

// copyIn copies data, and what it points at behind it, to offset at, and has the words that point point there. It returns the offset
// behind.
func copyIn(r *shm.Region, at int, data []byte, refs []DataRef) int {
	r.CopyIn(at, data)
	next := at + sizeOf(data, nil)
	for i := range refs {
		ref := &refs[i]
		r.Store64(at+ref.Off, xendev.Address(r, next))
		next = copyIn(r, next, ref.Data, ref.Refs)
	}
	return next
}

// copyOut copies back what Xen wrote. The words that point stay what they were for the caller.
func copyOut(r *shm.Region, at int, data []byte, refs []DataRef) int {
	words := make([]uint64, len(refs))
	for i := range refs {
		words[i] = binary.LittleEndian.Uint64(data[refs[i].Off:])
	}
	r.CopyOut(data, at)
	for i := range refs {
		binary.LittleEndian.PutUint64(data[refs[i].Off:], words[i])
	}
	next := at + sizeOf(data, nil)
	for i := range refs {
		next = copyOut(r, next, refs[i].Data, refs[i].Refs)
	}
	return next
}

// ForeignError says that some frames of a domain could not be mapped.
type ForeignError struct {
	Dom    DomID
	Frames []GFN
	Errs   []error // one a frame, nil for those that could be
}

func (e *ForeignError) Error() string {
	failed, first := 0, -1
	for i, err := range e.Errs {
		if err != nil {
			if failed++; first < 0 {
				first = i
			}
		}
	}
	if first < 0 {
		return fmt.Sprintf("hypercall: map %d frames of domain %d", len(e.Frames), e.Dom)
	}
	return fmt.Sprintf("hypercall: map %d frames of domain %d: %d failed, the first frame %#x: %v",
		len(e.Frames), e.Dom, failed, uint64(e.Frames[first]), e.Errs[first])
}

// Unwrap returns the frames' errors.
func (e *ForeignError) Unwrap() []error { return e.Errs }

// MapForeign maps frames of another domain's memory, without its leave: a toolstack's privilege. Either all are mapped or none: where
// some could not be, the error is a [*ForeignError]. Close the region after use.
func (p *Privcmd) MapForeign(dom DomID, frames []GFN, writable bool) (*shm.Region, error) {
	if len(frames) == 0 {
		return nil, fmt.Errorf("hypercall: map no frame of domain %d: %w", dom, EINVAL)
	}
	r, err := p.node.Map(0, len(frames), writable)
	if err != nil {
		return nil, fmt.Errorf("hypercall: map %d frames of domain %d: %w", len(frames), dom, err)
	}
	numbers := make([]uint64, len(frames))
	for i, f := range frames {
		numbers[i] = uint64(f)
	}
	arg, ps, errs := xendev.NewMmapBatch(uint16(dom), xendev.Address(r, 0), numbers)
	_, err = p.node.Ioctl(xendev.PrivcmdMmapBatchV2, arg, ps...)
	err = xenError(err)
	failed := &ForeignError{Dom: dom, Frames: append([]GFN(nil), frames...), Errs: make([]error, len(frames))}
	bad := false
	for i := range frames {
		if e := int32(binary.LittleEndian.Uint32(errs[4*i:])); e != 0 {
			failed.Errs[i], bad = Errno(-e), true
		}
	}
	switch {
	case bad:
		err = failed
	case err == nil:
		return r, nil
	default:
		err = fmt.Errorf("hypercall: map %d frames of domain %d: %w", len(frames), dom, err)
	}
	return nil, errors.Join(err, r.Close())
}

// Resource is what XENMEM_acquire_resource knows of a domain.
type Resource uint32

// The resources of a domain, with what their id is.
const (
	ResourceIOReqServer Resource = 0 // the id of the server; the frames are its pages
	ResourceGrantTable  Resource = 1 // ResourceGrantShared or ResourceGrantStatus
	ResourceVMTrace     Resource = 2 // the number of a vCPU
)

// The ids of ResourceGrantTable.
const (
	ResourceGrantShared = 0 // the table's entries
	ResourceGrantStatus = 1 // the status words of a table of version 2
)

// MapResource maps count frames, from number first on, of a resource of a domain: a toolstack's privilege. Close the region after use.
func (p *Privcmd) MapResource(dom DomID, what Resource, id, first uint32, count int, writable bool) (*shm.Region, error) {
	op := fmt.Sprintf("hypercall: map %d frames of resource %d/%d of domain %d", count, what, id, dom)
	if count <= 0 {
		return nil, fmt.Errorf("%s: %w", op, EINVAL)
	}
	r, err := p.node.Map(0, count, writable)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	res := xendev.Resource{
		DomID: uint16(dom), Type: uint32(what), ID: id, First: first, Num: uint64(count), Addr: xendev.Address(r, 0),
	}
	if _, err := p.node.Ioctl(xendev.PrivcmdMmapResource, res.Marshal()); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", op, xenError(err)), r.Close())
	}
	return r, nil
}

const (
	// maxSafePages bounds what one call may point at, in pages.
	maxSafePages = 1024
	// maxIdle is how many pieces of memory of each size are kept for the next call.
	maxIdle = 4
)

// safeMemory is memory that hypercalls may point at, in pieces of 1, 2, 4 ... pages.
type safeMemory struct {
	node xendev.Node

	mu sync.Mutex
	// +checklocks:mu
	idle [11][]*shm.Region // by the logarithm of the size in pages
	// +checklocks:mu
	closed bool
}

func (s *safeMemory) take(size int) (*shm.Region, error) {
	pages := (size + shm.PageSize - 1) / shm.PageSize
	if pages > maxSafePages {
		return nil, fmt.Errorf("hypercall: a call that points at %d bytes: %w", size, E2BIG)
	}
	class := bits.Len(uint(pages - 1))
	if r := s.reuse(class); r != nil {
		return r, nil
	}
	r, err := s.node.Map(0, 1<<class, true)
	if err != nil {
		return nil, fmt.Errorf("hypercall: memory for what a call points at: %w", err)
	}
	return r, nil
}

func (s *safeMemory) reuse(class int) *shm.Region {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.idle[class]
	if len(list) == 0 {
		return nil
	}
	r := list[len(list)-1]
	s.idle[class] = list[:len(list)-1]
	return r
}

func (s *safeMemory) put(r *shm.Region) {
	if !s.keep(r) {
		r.Close()
	}
}

func (s *safeMemory) keep(r *shm.Region) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	class := bits.Len(uint(r.Pages() - 1))
	if s.closed || len(s.idle[class]) >= maxIdle {
		return false
	}
	s.idle[class] = append(s.idle[class], r)
	return true
}

func (s *safeMemory) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for i, list := range s.idle {
		for _, r := range list {
			r.Close()
		}
		s.idle[i] = nil
	}
}
