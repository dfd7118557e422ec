package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/xendev"
	"github.com/hvkit/hvkit/shm"
)

// driver is a model of privcmd and of the memory for hypercalls: what a call points at is found by its address.
type driver struct {
	mu      sync.Mutex
	regions []*shm.Region
	call    func(op uint64, args [5]uint64) (uint64, error)
	batch   func(m xendev.MmapBatch, frames, errs []byte) error
	res     func(r *xendev.Resource) error
}

func (d *driver) open(name string) (xendev.Node, error) {
	if name != xendev.DevPrivcmd && name != xendev.DevHypercall {
		return nil, os.ErrNotExist
	}
	return &driverNode{d: d, name: name}, nil
}

// at returns where an address is.
func (d *driver) at(addr uint64) (*shm.Region, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.regions {
		if base := xendev.Address(r, 0); !r.Closed() && addr >= base && addr < base+uint64(r.Size()) {
			return r, int(addr - base)
		}
	}
	panic(fmt.Sprintf("a call points at %#x, which is not memory for calls", addr))
}

func (d *driver) live() int {
	n := 0
	for _, r := range d.regions {
		if !r.Closed() {
			n++
		}
	}
	return n
}

type driverNode struct {
	d    *driver
	name string
}

func (n *driverNode) Ioctl(req xendev.Request, arg []byte, ps ...xendev.Pointer) (uint64, error) {
	switch req {
	case xendev.PrivcmdHypercall:
		op, args := (*xendev.Hypercall)(arg).Get()
		return n.d.call(op, args)
	case xendev.PrivcmdMmapBatchV2:
		return 0, n.d.batch(arg, ps[0].Data, ps[1].Data)
	case xendev.PrivcmdMmapResource:
		var r xendev.Resource
		r.Unmarshal(arg)
		return 0, n.d.res(&r)
	}
	return 0, syscall.EINVAL
}

func (n *driverNode) Read([]byte) (int, error)    { return 0, syscall.EINVAL }
func (n *driverNode) TryRead([]byte) (int, error) { return 0, syscall.EINVAL }
func (n *driverNode) Write([]byte) (int, error)   { return 0, syscall.EINVAL }
func (n *driverNode) Close() error                { return nil }

func (n *driverNode) Map(offset uint64, pages int, writable bool) (*shm.Region, error) {
	r := shm.New(pages)
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	n.d.regions = append(n.d.regions, r)
	return r, nil
}

func newPrivcmd(t *testing.T, d *driver) *Privcmd {
	p, err := openPrivcmd(X86_64, d.open)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		require.Zero(t, d.live(), "memory for calls is left")
	})
	return p
}

func TestPrivcmdCopiesWhatACallPointsAt(t *testing.T) {
	d := new(driver)
	p := newPrivcmd(t, d)
	d.call = func(op uint64, args [5]uint64) (uint64, error) {
		require.EqualValues(t, NrMemoryOp, op)
		require.EqualValues(t, 7, args[0])
		r, off := d.at(args[1])
		require.Equal(t, uint8(1), r.Load8(off).Unchecked())
		inner, at := d.at(r.Load64(off + 8).Unchecked())
		require.Equal(t, uint8(2), inner.Load8(at).Unchecked())
		innermost, deep := d.at(inner.Load64(at + 16).Unchecked())
		require.Equal(t, uint8(3), innermost.Load8(deep+4999).Unchecked())
		r.Store8(off, 101)
		inner.Store8(at, 102)
		innermost.Store8(deep+4999, 103)
		return 1 << 40, nil
	}
	deep := make([]byte, 5000)
	deep[4999] = 3
	inner := make([]byte, 27)
	inner[0] = 2
	data := make([]byte, 16)
	data[0] = 1
	binary.LittleEndian.PutUint64(data[8:], 0xABCD)
	call := &Call{Nr: NrMemoryOp, Args: [5]uint64{7}, N: 2, Ptr: 1, Data: data, Refs: []DataRef{
		{Off: 8, Data: inner, Refs: []DataRef{{Off: 16, Data: deep}}},
	}}
	for range 3 {
		data[0], inner[0], deep[4999] = 1, 2, 3
		r, err := p.Hypercall(call)
		require.NoError(t, err)
		require.EqualValues(t, 1<<40, r, "a result of more than 32 bits")
		require.Equal(t, []byte{101, 102, 103}, []byte{data[0], inner[0], deep[4999]})
		require.EqualValues(t, 0xABCD, binary.LittleEndian.Uint64(data[8:]), "no address comes back")
	}
	require.Len(t, d.regions, 1, "memory is used again")
}

func TestPrivcmdErrors(t *testing.T) {
	d := &driver{call: func(uint64, [5]uint64) (uint64, error) { return 0, syscall.ESRCH }}
	p := newPrivcmd(t, d)
	_, err := PortStatus(p, 5, 3)
	require.ErrorIs(t, err, ESRCH)
	_, err = p.Hypercall(&Call{Nr: NrMemoryOp, N: 2, Ptr: 1, Data: make([]byte, (maxSafePages+1)*shm.PageSize)})
	require.ErrorIs(t, err, E2BIG)
	other := errors.New("the device is gone")
	d.call = func(uint64, [5]uint64) (uint64, error) { return 0, other }
	_, err = p.Hypercall(NewCall(NrXenVersion))
	require.Equal(t, other, err)
}

func TestPrivcmdAtOnce(t *testing.T) {
	d := new(driver)
	p := newPrivcmd(t, d)
	d.call = func(_ uint64, args [5]uint64) (uint64, error) {
		r, off := d.at(args[1])
		return r.Load64(off).Unchecked(), nil
	}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			data := make([]byte, 8+i*1000)
			binary.LittleEndian.PutUint64(data, uint64(i))
			for range 50 {
				r, err := p.Hypercall(&Call{Nr: NrXenVersion, N: 2, Ptr: 1, Data: data})
				if err != nil || r != uint64(i) {
					t.Errorf("call %d: %d, %v", i, r, err)
					return
				}
			}
		})
	}
	group.Wait()
	require.LessOrEqual(t, d.live(), maxIdle*len(p.safe.idle), "of each size few are kept")
}

func TestMapForeign(t *testing.T) {
	d := new(driver)
	p := newPrivcmd(t, d)
	d.batch = func(m xendev.MmapBatch, frames, errs []byte) error {
		require.EqualValues(t, 4, m.DomID())
		r, off := d.at(m.Addr())
		require.Zero(t, off)
		require.Equal(t, 2, r.Pages())
		require.EqualValues(t, 0x1001, binary.LittleEndian.Uint64(frames[8:]))
		return nil
	}
	r, err := p.MapForeign(4, []GFN{0x1000, 0x1001}, true)
	require.NoError(t, err)
	require.NoError(t, r.Close())

	for _, whole := range []error{nil, syscall.ENOENT} {
		d.batch = func(_ xendev.MmapBatch, _, errs []byte) error {
			binary.LittleEndian.PutUint32(errs[4:], ^uint32(EINVAL)+1)
			return whole
		}
		_, err = p.MapForeign(4, []GFN{0x1000, 0x1001}, true)
		failed, ok := errors.AsType[*ForeignError](err)
		require.True(t, ok)
		require.Equal(t, []error{nil, EINVAL}, failed.Errs)
		require.ErrorContains(t, err, "1 failed, the first frame 0x1001: EINVAL")
	}
	d.batch = func(xendev.MmapBatch, []byte, []byte) error { return syscall.EPERM }
	_, err = p.MapForeign(4, []GFN{1}, true)
	require.ErrorIs(t, err, EPERM)
	_, err = p.MapForeign(4, nil, true)
	require.ErrorIs(t, err, EINVAL)
}

func TestMapResource(t *testing.T) {
	d := new(driver)
	p := newPrivcmd(t, d)
	d.res = func(r *xendev.Resource) error {
		region, _ := d.at(r.Addr)
		require.Equal(t, 3, region.Pages())
		r.Addr = 0
		require.Equal(t, xendev.Resource{DomID: 9, Type: 1, First: 2, Num: 3}, *r)
		return nil
	}
	r, err := p.MapResource(9, ResourceGrantTable, ResourceGrantShared, 2, 3, true)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	d.res = func(*xendev.Resource) error { return syscall.EINVAL }
	_, err = p.MapResource(9, ResourceGrantTable, ResourceGrantShared, 2, 3, true)
	require.ErrorIs(t, err, EINVAL)
	_, err = p.MapResource(9, ResourceGrantTable, ResourceGrantShared, 2, 0, true)
	require.ErrorIs(t, err, EINVAL)
}
