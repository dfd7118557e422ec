package attach

import (
	"fmt"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// maxBatch is how many grants one message maps, unmaps or copies, so that message and reply fit.
const maxBatch = 512

// grantTableOp has the host answer; what is mapped becomes reachable behind its frame number, what is unmapped ceases to be.
func (m *Machine) grantTableOp(gen uint32, c *hypercall.Call) error {
	switch c.Args[0] {
	case hypercall.GnttabopMapGrantRef:
		return m.inBatches(gen, c, new(hypercall.MapGrantRef).Size(m.abi), m.mapGrants)
	case hypercall.GnttabopUnmapGrantRef:
		return m.inBatches(gen, c, new(hypercall.UnmapGrantRef).Size(m.abi), m.unmapGrants)
	case hypercall.GnttabopCopy:
		return m.inBatches(gen, c, new(hypercall.GrantCopy).Size(m.abi), m.pass)
	}
	return m.pass(gen, c)
}

func (m *Machine) pass(gen uint32, c *hypercall.Call) error {
	_, err := m.forward(gen, c, nil)
	return err
}

// inBatches makes a call with an array of structures as several that fit messages.
func (m *Machine) inBatches(gen uint32, c *hypercall.Call, size int, f func(uint32, *hypercall.Call) error) error {
	if c.Args[2] > uint64(len(c.Data)/size) {
		return hypercall.EFAULT
	}
	n := int(c.Args[2])
	for at := 0; at < n; at += maxBatch {
		k := min(n-at, maxBatch)
		part := *c
		part.Args[2] = uint64(k)
		part.Data = c.Data[at*size : (at+k)*size]
		if err := f(gen, &part); err != nil {
			return err
		}
	}
	return nil
}

// mapGrants maps a batch. A message takes [MaxFDs] descriptors, so where pages are in more files than that some are located after.
func (m *Machine) mapGrants(gen uint32, c *hypercall.Call) error {
	var missing []Place
	_, err := m.forward(gen, c, func(r *Message, fds FDs) error {
		m.placeAll(r, fds)
		missing = m.missing(c)
		return nil
	})
	for err == nil && len(missing) > 0 {
		missing, err = m.locate(gen, missing)
	}
	return err
}

// missing returns the frames that a call mapped and whose places are not known.
func (m *Machine) missing(c *hypercall.Call) []Place {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Place
	var op hypercall.MapGrantRef
	for i := 0; c.Decode(m.abi, i, &op) == nil; i++ {
		at := hypercall.GFN(op.HostAddr / shm.PageSize)
		if _, ok := m.space[at]; !ok && op.Status == hypercall.StatusOkay {
			list = append(list, Place{GFN: at})
		}
	}
	return list
}

// locate asks for the places of frames, and returns those that did not fit into the reply.
func (m *Machine) locate(gen uint32, frames []Place) (rest []Place, err error) {
	err = m.request(&Message{Kind: Locate, Gen: gen, Places: frames}, nil, func(r *Message, fds FDs) error {
		if err := failure(r); err != nil {
			return err
		}
		if len(r.Places) == 0 {
			return fmt.Errorf("%w: %d frames are nowhere", ErrMessage, len(frames))
		}
		if r.Gen != m.gen.Load() {
			return hypercall.ErrStale
		}
		m.placeAll(r, fds)
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range frames {
		if _, ok := m.space[p.GFN]; !ok {
			rest = append(rest, p)
		}
	}
	return rest, nil
}

// placeAll takes over the pages that a reply brings.
func (m *Machine) placeAll(r *Message, fds FDs) {
	sources := make([]*source, len(fds))
	for i := range fds {
		sources[i] = &source{file: fds.File(i), refs: 1}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range r.Places {
		if p.FD >= len(sources) {
			continue // the host is wrong: nothing is there, and View will say so
		}
		src := sources[p.FD]
		src.refs++
		m.forgetLocked(p.GFN)
		m.space[p.GFN] = place{src: src, page: p.Page, readOnly: p.ReadOnly}
	}
	for _, s := range sources {
		s.drop()
	}
}

func (m *Machine) unmapGrants(gen uint32, c *hypercall.Call) error {
	_, err := m.forward(gen, c, func(*Message, FDs) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		var op hypercall.UnmapGrantRef
		for i := 0; c.Decode(m.abi, i, &op) == nil; i++ {
			if op.Status == hypercall.StatusOkay && op.HostAddr != 0 {
				m.forgetLocked(hypercall.GFN(op.HostAddr / shm.PageSize))
			}
		}
		return nil
	})
	return err
}

// Alloc implements hypercall.Memory: an extent is a memfd that this process makes and the host gets to know.
func (m *Machine) Alloc(n int) (hypercall.GFN, *shm.Region, error) {
	if err := m.enter(m.gen.Load()); err != nil {
		return 0, nil, err
	}
	first, err := m.takeRAM(n)
	if err != nil {
		return 0, nil, err
	}
	r, err := m.allocAt(first, n)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.alloc.FreeRAM(first, n)
		return 0, nil, fmt.Errorf("allocate %d pages: %w", n, err)
	}
	return first, r, nil
}

func (m *Machine) takeRAM(n int) (hypercall.GFN, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc.RAM(n)
}

func (m *Machine) allocAt(first hypercall.GFN, n int) (*shm.Region, error) {
	f, err := shm.NewFile("hvkit-extent", n)
	if err != nil {
		return nil, err
	}
	fd := int(f.Fd())
	r, err := shm.Map(true, shm.Extent{FD: fd, Pages: n})
	if err != nil {
		f.Close()
		return nil, err
	}
	err = m.plain(&Message{Kind: AddMemory, GFN: first, Pages: n}, func() {
		src := &source{file: f, refs: n}
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range n {
			m.space[first+hypercall.GFN(i)] = place{src: src, page: i}
		}
	}, fd)
	if err != nil {
		r.Close()
		f.Close()
		return nil, err
	}
	return r, nil
}

// Free implements hypercall.Memory.
func (m *Machine) Free(first hypercall.GFN, n int) error {
	if err := m.enter(m.gen.Load()); err != nil {
		return err
	}
	err := m.plain(&Message{Kind: FreeMem, GFN: first, Pages: n}, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range n {
			m.forgetLocked(first + hypercall.GFN(i))
		}
	})
	if err != nil {
		return fmt.Errorf("free %d pages: %w", n, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc.FreeRAM(first, n)
}

// Reserve implements hypercall.Memory.
func (m *Machine) Reserve(n int) (hypercall.GFN, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc.Reserve(n)
}

// Unreserve implements hypercall.Memory.
func (m *Machine) Unreserve(first hypercall.GFN, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc.Unreserve(first, n)
}

// View implements hypercall.Memory.
func (m *Machine) View(first hypercall.GFN, n int, writable bool) (*shm.Region, error) {
	if n <= 0 {
		return nil, fmt.Errorf("view of %d frames", n)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return nil, m.broken
	}
	if p, ok := m.space[first]; ok && p.src == nil && n == 1 {
		return shm.Join(m.bits.Page()), nil
	}
	var extents []shm.Extent
	for i := range n {
		at := first + hypercall.GFN(i)
		p, ok := m.space[at]
		switch {
		case !ok:
			return nil, fmt.Errorf("nothing is behind frame %#x: %w", uint64(at), hypercall.EINVAL)
		case p.src == nil:
			return nil, fmt.Errorf("frame %#x is shared_info, which is viewed alone", uint64(at))
		case writable && p.readOnly:
			return nil, fmt.Errorf("frame %#x is mapped read-only", uint64(at))
		}
		extents = appendPage(extents, int(p.src.file.Fd()), p.page)
	}
	return shm.Map(writable, extents...)
}

// appendPage adds a page to a list of extents, to the last of them where it follows it.
func appendPage(extents []shm.Extent, fd, page int) []shm.Extent {
	if k := len(extents) - 1; k >= 0 && extents[k].FD == fd && extents[k].First+extents[k].Pages == page {
		extents[k].Pages++
		return extents
	}
	return append(extents, shm.Extent{FD: fd, First: page, Pages: 1})
}

// SetUnmapNotify implements hypercall.UnmapNotifier.
func (m *Machine) SetUnmapNotify(frame hypercall.GFN, off int, port hypercall.Port) error {
	gen := m.gen.Load()
	if err := m.enter(gen); err != nil {
		return err
	}
	return m.plain(&Message{Kind: SetNotify, Gen: gen, GFN: frame, Offset: off, Port: port}, nil)
}
