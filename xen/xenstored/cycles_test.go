package xenstored_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/hvkit/hvkit/xen/xenstore/xenstoretest"
	"github.com/hvkit/hvkit/xen/xenstored"
)

// cyclesPerLife is how many connections a domain makes, more or less, before it dies.
const cyclesPerLife = 20

// TestCycles: clients come and go by the thousand, over every kind of connection, and die wherever they are: in a message, in transactions,
// with watches open, with replies that they have not read, by their domain's end. Nothing is left of any of them, and memory does not
// grow. It makes 100,000 cycles; 10,000 where everything takes ten times as long.
func TestCycles(t *testing.T) {
	cycles := 100_000
	if (raceDetector || os.Getenv("HVKIT_EMULATOR") != "") && !long() {
		cycles = 10_000
	}
	begin := seed(t)
	t.Logf("HVKIT_SEED=%d", begin)
	st := newStage(t, nil)
	const workers = 4
	dir := t.TempDir()
	var listeners []net.Listener
	for i := range workers {
		l, err := net.Listen("unix", filepath.Join(dir, string(rune('a'+i))))
		require.NoError(t, err)
		defer l.Close()
		listeners = append(listeners, l)
	}
	before := st.left(t)

	run := func(part uint64, n int) {
		var work sync.WaitGroup
		for i := range workers {
			c := &cycler{s: st.Server, l: listeners[i], rng: rand.New(rand.NewPCG(begin+part, uint64(i))), first: hypercall.DomID(10 + 100*i)}
			work.Go(func() {
				if err := c.run(t.Context(), n/workers); err != nil {
					t.Errorf("after %d cycles: %v", c.done, err)
				}
			})
		}
		work.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	run(0, cycles/5) // what is kept for later use is there then
	warm := st.left(t)
	run(1, cycles-cycles/5)
	after := st.left(t)
	require.Equal(t, before.stats, after.stats)
	require.LessOrEqual(t, after.goroutines, before.goroutines)
	require.LessOrEqual(t, after.descriptors, before.descriptors)
	require.Less(t, int64(after.heap)-int64(warm.heap), int64(1<<20))
	t.Logf("%d cycles; heap %d KiB before, %d KiB after a fifth, %d KiB after all", cycles, before.heap>>10, warm.heap>>10, after.heap>>10)
	s := st.Stats()
	require.NotZero(t, s.Commits)
	require.NotZero(t, s.Violations)
	require.NotZero(t, s.Errors)
	st.end(t)
}

// left is what there is when no client is connected but the stage's own.
type left struct {
	stats                   xenstored.Stats // only what is held
	goroutines, descriptors int
	heap                    uint64
}

func (st *stage) left(t *testing.T) left {
	t.Helper()
	eventually(t, "the end of all connections", func() bool { return st.Stats().Connections == 2 })
	st.alive(t)
	require.NoError(t, st.host.Remove(t.Context(), "/local/domain/0")) // what clients of domain 0 wrote
	require.Equal(t, 3, st.Known())
	s := st.Stats()
	l := left{stats: xenstored.Stats{Connections: s.Connections, Domains: s.Domains, Nodes: s.Nodes, Watches: s.Watches,
		Transactions: s.Transactions}}
	var mem runtime.MemStats
	for range 2 { // the second one frees what finalizers held
		runtime.GC()
	}
	runtime.ReadMemStats(&mem)
	l.heap = mem.HeapAlloc
	last := 0
	eventually(t, "the end of all goroutines", func() bool {
		n := runtime.NumGoroutine()
		defer func() { last = n }()
		return n == last
	})
	l.goroutines, l.descriptors = last, descriptors()
	return l
}

// cycler makes connections and has them die.
type cycler struct {
	s     *xenstored.Server
	l     net.Listener
	rng   *rand.Rand
	first hypercall.DomID // of the ids of its domains
	done  int
}

func (c *cycler) run(ctx context.Context, n int) error {
	host := c.s.LocalClient()
	defer host.Close()
	for c.done < n {
		dom := c.first + hypercall.DomID(c.rng.IntN(50))
		home := xenstore.DomainPath(dom)
		if err := errors.Join(c.s.IntroduceDomain(dom), host.Mkdir(ctx, home), host.SetPerms(ctx, home, xenstore.Perm{Dom: dom})); err != nil {
			return err
		}
		for range c.rng.IntN(2 * cyclesPerLife) {
			if err := c.cycle(dom); err != nil {
				return err
			}
			c.done++
		}
		if err := errors.Join(c.s.ReleaseDomain(dom), c.s.Recount()); err != nil {
			return err
		}
	}
	return nil
}

// pair connects both ends of one of the kinds of connection.
func (c *cycler) pair() (near, far io.ReadWriteCloser, err error) {
	switch c.rng.IntN(3) {
	case 0:
		near, far = net.Pipe()
		return near, far, nil
	case 1:
		r, far, err := makeRing(c.rng.Uint32())
		return r, far, err
	}
	if near, err = net.Dial("unix", c.l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if far, err = c.l.Accept(); err != nil {
		return nil, nil, errors.Join(err, near.Close())
	}
	return near, far, nil
}

// cycle makes a connection of the domain, or one of domain 0, and has it die.
func (c *cycler) cycle(dom hypercall.DomID) error {
	near, far, err := c.pair()
	if err != nil {
		return err
	}
	if c.rng.IntN(4) == 0 {
		dom = 0
	}
	served := make(chan error, 1)
	go func() { served <- c.s.ServeConn(context.Background(), far, dom) }()
	if c.rng.IntN(3) == 0 {
		c.client(near)
	} else {
		c.raw(near)
	}
	if dom != 0 && c.rng.IntN(10) == 0 {
		if err := errors.Join(c.s.ReleaseDomain(dom), c.s.IntroduceDomain(dom)); err != nil {
			return err
		}
	}
	_ = near.Close() // the server may have closed it
	<-served
	return nil
}

// client is a well-behaved client whose program ends while calls are under way.
func (c *cycler) client(near io.ReadWriteCloser) {
	cl := xenstore.NewClient(near, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Errors are what may come of a domain that another step has released.
	for range c.rng.IntN(3) {
		_, _ = cl.Watch(ctx, "data", nil)
	}
	_ = cl.Transaction(ctx, func(tx *xenstore.Tx) error {
		_ = tx.Write(ctx, "data/x", []byte("v"))
		if c.rng.IntN(2) == 0 {
			_ = cl.Close()
		}
		return nil
	})
	_ = cl.Close()
}

// raw sends a few messages, takes a few replies or none, and stops in the middle of a message.
func (c *cycler) raw(near io.ReadWriteCloser) {
	messages := [][]byte{
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgTransactionStart}, []byte("\x00")),
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWrite, TxID: 1}, []byte("data/t\x00v")),
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch}, []byte("data\x00t\x00")),
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWatch}, []byte("@releaseDomain\x00t\x00")),
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgWrite}, []byte("data/x\x00v")),
		xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.MsgRead}, []byte("data/x\x00")),
		xenstore.Header{Type: xenstore.MsgRead, Len: 5000}.Append(nil),
	}
	var stream []byte
	whole := 0 // messages that will be answered
	for range c.rng.IntN(8) {
		m := messages[c.rng.IntN(len(messages))]
		if stream = append(stream, m...); len(m) == xenstore.HeaderSize {
			break // the server does not listen after that
		}
		whole++
	}
	if c.rng.IntN(3) == 0 && len(stream) > 0 {
		stream = stream[:c.rng.IntN(len(stream))]
		whole = 0
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = near.Write(stream) // until the connection ends
	}()
	script := xenstoretest.NewScriptOver(near)
	for range c.rng.IntN(whole + 1) {
		script.Next()
	}
	_ = near.Close() // the server may have closed it
	<-sent
}
