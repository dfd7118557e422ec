package attach

import (
	"errors"
	"fmt"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// ABI implements hypercall.Caller.
func (m *Machine) ABI() hypercall.ABI { return m.abi }

// Hypercall implements hypercall.Caller. Once the domain or its host has ended, the error is [ErrEnded].
func (m *Machine) Hypercall(c *hypercall.Call) (uint64, error) { return m.call(m.gen.Load(), c) }

// Incarnation implements hypercall.Incarnations.
func (m *Machine) Incarnation() hypercall.Caller { return &incarnation{m, m.gen.Load()} }

// incarnation makes the hypercalls of one incarnation of the domain.
type incarnation struct {
	m   *Machine
	gen uint32
}

func (i *incarnation) ABI() hypercall.ABI                          { return i.m.abi }
func (i *incarnation) Hypercall(c *hypercall.Call) (uint64, error) { return i.m.call(i.gen, c) }

// call makes a hypercall in incarnation gen.
func (m *Machine) call(gen uint32, c *hypercall.Call) (uint64, error) {
	if err := m.enter(gen); err != nil {
		return 0, err
	}
	switch c.Nr {
	case hypercall.NrEventChannelOp:
		return 0, m.eventChannelOp(gen, c)
	case hypercall.NrGrantTableOp:
		return 0, m.grantTableOp(gen, c)
	case hypercall.NrMemoryOp:
		return m.memoryOp(gen, c)
	case hypercall.NrSchedOp:
		return m.schedOp(gen, c)
	case hypercall.NrMulticall:
		return 0, m.multicall(gen, c)
	}
	return m.forward(gen, c, nil)
}

// schedOp waits after a shutdown: a domain that is suspended goes on here as another incarnation, and any other does not go on.
func (m *Machine) schedOp(gen uint32, c *hypercall.Call) (uint64, error) {
	next := m.following()
	r, err := m.forward(gen, c, nil)
	if err != nil || c.Args[0] != hypercall.SchedopShutdown {
		return r, err
	}
	select {
	case <-next:
		return r, nil
	case <-m.done:
		return 0, m.failed()
	}
}

// multicall makes the calls one by one: some open or map something, which their replies bring.
func (m *Machine) multicall(gen uint32, c *hypercall.Call) error {
	if c.Args[1] > hypercall.MaxMulticall {
		return hypercall.EINVAL
	}
	for i := range int(c.Args[1]) {
		call, err := c.MulticallCall(m.abi, i)
		if err != nil {
			return err
		}
		result, err := uint64(0), error(hypercall.EINVAL) // a multicall in a multicall
		if call.Nr != hypercall.NrMulticall {
			result, err = m.call(gen, call)
		}
		errno, isErrno := errors.AsType[hypercall.Errno](err)
		if err != nil && !isErrno {
			return err
		}
		if err := c.SetMulticallResult(m.abi, i, result, errno); err != nil {
			return err
		}
	}
	return nil
}

// forward has the host answer the call. use sees the reply after what the call wrote is in c, and before any later reply is looked at.
func (m *Machine) forward(gen uint32, c *hypercall.Call, use func(*Message, FDs) error) (result uint64, err error) {
	err = m.request(&Message{Kind: Hypercall, Gen: gen, Call: c}, nil, func(r *Message, fds FDs) error {
		if err := failure(r); err != nil {
			return err
		}
		if r.Gen != m.gen.Load() {
			return hypercall.ErrStale // what it opened is gone
		}
		if r.Call == nil || !CopyBack(c, r.Call) {
			return fmt.Errorf("%w: the reply is not one to the call", ErrMessage)
		}
		result = r.Result
		if use == nil {
			return nil
		}
		return use(r, fds)
	})
	return result, err
}

// toldError is an error of the host's, in its words.
type toldError struct {
	text string
	err  error
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.err }

// inWords says an error as the host does, if it does. Hypercalls have numbers only.
func inWords(err error, text string) error {
	if text == "" || text == err.Error() {
		return err
	}
	return &toldError{text, err}
}

// plain is a request whose reply is nothing but success, on which done acts, or an error.
func (m *Machine) plain(msg *Message, done func(), fds ...int) error {
	return m.request(msg, fds, func(r *Message, _ FDs) error {
		if err := failure(r); err != nil {
			return inWords(err, r.Text)
		}
		if done != nil {
			done()
		}
		return nil
	})
}

func (m *Machine) memoryOp(gen uint32, c *hypercall.Call) (uint64, error) {
	switch c.Args[0] {
	case hypercall.XenmemAddToPhysmap:
		return 0, m.addToPhysmap(gen, c)
	case hypercall.XenmemRemoveFromPhysmap:
		return 0, m.removeFromPhysmap(gen, c)
	case hypercall.XenmemPopulatePhysmap, hypercall.XenmemDecreaseReservation:
		return 0, hypercall.ENOSYS // this domain's memory is what Alloc makes
	}
	return m.forward(gen, c, nil)
}

// addToPhysmap puts shared_info, which is here, or a frame of the grant table, which the host has too, behind a frame number.
func (m *Machine) addToPhysmap(gen uint32, c *hypercall.Call) error {
	var op hypercall.PhysmapAdd
	if err := c.Decode(m.abi, 0, &op); err != nil {
		return err
	}
	_, err := m.forward(gen, c, func(*Message, FDs) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.evictLocked(&op)
		m.forgetLocked(op.GFN)
		p := place{}
		if op.Space == hypercall.SpaceGrantTable {
			m.table.refs++
			p = place{src: m.table, page: int(op.Idx)}
		}
		m.space[op.GFN] = p
		return nil
	})
	return err
}

// evictLocked takes a frame of Xen's away from where it was before: it is in one place at a time.
//
// +checklocks:m.mu
func (m *Machine) evictLocked(op *hypercall.PhysmapAdd) {
	for n, p := range m.space {
		isTable := op.Space == hypercall.SpaceGrantTable && p.src == m.table && p.page == int(op.Idx)
		if isTable || op.Space == hypercall.SpaceSharedInfo && p.src == nil {
			m.forgetLocked(n)
		}
	}
}

func (m *Machine) removeFromPhysmap(gen uint32, c *hypercall.Call) error {
	var op hypercall.PhysmapRemove
	if err := c.Decode(m.abi, 0, &op); err != nil {
		return err
	}
	_, err := m.forward(gen, c, func(*Message, FDs) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.forgetLocked(op.GFN)
		return nil
	})
	return err
}
