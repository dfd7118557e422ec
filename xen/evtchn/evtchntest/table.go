package evtchntest

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// Side is one domain of a test.
type Side struct {
	ID    hypercall.DomID
	Table evtchn.Table
	// VIRQ is a virtual interrupt that nothing else in the domain has bound; 0 (the timer's) stands for VIRQ_DEBUG.
	VIRQ hypercall.VIRQ
}

// Pair makes two sides for one test, and has them cleaned up when it ends.
type Pair func(t *testing.T) (a, b Side)

// patience is how long something may take that must happen. In a domain of the testbed the processor is an emulated one.
var patience = bearable()

func bearable() time.Duration {
	if os.Getenv("HVKIT_TESTBED_INSIDE") != "" {
		return time.Minute
	}
	return 10 * time.Second
}

// silence is how long a test listens for something that must not happen.
const silence = 20 * time.Millisecond

// TestTable checks all that package evtchn says of a Table and its channels.
func TestTable(t *testing.T, newPair Pair) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, a, b Side)
	}{
		{"Interdomain", testInterdomain},
		{"StatusOfEachState", testStatus},
		{"ArrivalBeforeWait", testArrivalBeforeWait},
		{"Coalesce", testCoalesce},
		{"WaitEndsWithContext", testWaitContext},
		{"CloseWakesWaiter", testCloseWakesWaiter},
		{"AfterClose", testAfterClose},
		{"Handle", testHandle},
		{"HandleFindsOutstanding", testHandleOutstanding},
		{"HandleNil", testHandleNil},
		{"CloseDuringHandler", testCloseDuringHandler},
		{"MaskHoldsBack", testMask},
		{"MaskWithoutEvent", testMaskWithoutEvent},
		{"BindRefusals", testBindRefusals},
		{"NotifyWhereNobodyIs", testNotifyNobody},
		{"RebindAfterPeerClosed", testRebind},
		{"PortReuse", testPortReuse},
		{"VIRQ", testVIRQ},
		{"IPI", testIPI},
		{"AdoptRefusals", testAdopt},
		{"EachItsOwn", testEachItsOwn},
		{"PingPong", testPingPong},
		{"ConcurrentUse", testConcurrent},
		{"CloseTable", testCloseTable},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := newPair(t)
			open := [2]int{a.Table.Stats().Open, b.Table.Stats().Open}
			test.run(t, a, b)
			if test.name != "CloseTable" {
				require.Equal(t, open, [2]int{a.Table.Stats().Open, b.Table.Stats().Open}, "channels left open")
			}
		})
	}
}

// connect makes a channel between the sides.
func connect(t *testing.T, a, b Side) (ca, cb evtchn.Channel) {
	ca, err := a.Table.AllocUnbound(b.ID)
	require.NoError(t, err)
	cb, err = b.Table.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	t.Cleanup(func() {
		ca.Close()
		cb.Close()
	})
	quiet(t, ca)
	quiet(t, cb)
	return ca, cb
}

// closeAll ends channels inside the test, so that what is left open can be counted.
func closeAll(t *testing.T, chs ...evtchn.Channel) {
	for _, ch := range chs {
		require.NoError(t, ch.Close())
	}
}

// quiet takes the event that binding may have caused.
func quiet(t *testing.T, ch evtchn.Channel) {
	for wait(ch, silence) == nil {
	}
}

func wait(ch evtchn.Channel, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return ch.Wait(ctx)
}

func requireArrival(t *testing.T, ch evtchn.Channel) {
	t.Helper()
	require.NoError(t, wait(ch, patience))
}

func requireSilence(t *testing.T, ch evtchn.Channel) {
	t.Helper()
	require.ErrorIs(t, wait(ch, silence), context.DeadlineExceeded)
}

// eventually polls for what must become true.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, patience, time.Millisecond, what)
}

func testInterdomain(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	for range 3 {
		require.NoError(t, ca.Notify())
		requireArrival(t, cb)
		require.NoError(t, cb.Notify())
		requireArrival(t, ca)
	}
	require.NotZero(t, ca.Port())
	require.NotZero(t, cb.Port())
	closeAll(t, cb, ca)
}

func testStatus(t *testing.T, a, b Side) {
	ca, err := a.Table.AllocUnbound(b.ID)
	require.NoError(t, err)
	defer ca.Close()
	st, err := ca.Status()
	if errors.Is(err, errors.ErrUnsupported) {
		return // /dev/xen/evtchn cannot tell
	}
	require.NoError(t, err)
	require.Equal(t, evtchn.Unbound, st.State)
	require.Equal(t, b.ID, st.Remote)

	cb, err := b.Table.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	for _, end := range []struct {
		ch     evtchn.Channel
		remote evtchn.Channel
		dom    hypercall.DomID
	}{{ca, cb, b.ID}, {cb, ca, a.ID}} {
		st, err := end.ch.Status()
		require.NoError(t, err)
		require.Equal(t, evtchn.Interdomain, st.State)
		require.Equal(t, end.dom, st.Remote)
		require.Equal(t, end.remote.Port(), st.Port)
	}
	closeAll(t, cb)
	st, err = ca.Status()
	require.NoError(t, err)
	require.Equal(t, evtchn.Unbound, st.State, "after the other end closed")
}

// An event that comes while nobody waits is found by the next Wait (E-05, E-08 of the catalogue of hostile peers).
func testArrivalBeforeWait(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	require.NoError(t, ca.Notify())
	requireArrival(t, cb)
	requireSilence(t, cb)
	closeAll(t, ca, cb)
}

func testCoalesce(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	const sent = 100
	for range sent {
		require.NoError(t, ca.Notify())
	}
	n := 0
	for wait(cb, silence) == nil {
		n++
	}
	require.GreaterOrEqual(t, n, 1)
	require.LessOrEqual(t, n, sent)
	require.NoError(t, ca.Notify()) // and it goes on
	requireArrival(t, cb)
	closeAll(t, ca, cb)
}

func testWaitContext(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cb.Wait(ctx) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.ErrorIs(t, cb.Wait(ctx), context.Canceled, "a context that is done before")

	// What came is not lost to a Wait that was given up.
	require.NoError(t, ca.Notify())
	require.ErrorIs(t, cb.Wait(ctx), context.Canceled)
	requireArrival(t, cb)
	closeAll(t, ca, cb)
}

func testCloseWakesWaiter(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	done := make(chan error, 1)
	go func() { done <- cb.Wait(context.Background()) }()
	require.NoError(t, cb.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.NoError(t, cb.Close(), "a second Close")
	closeAll(t, ca)
}

func testAfterClose(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	closeAll(t, ca, cb)
	require.ErrorIs(t, cb.Notify(), net.ErrClosed)
	require.ErrorIs(t, cb.Wait(context.Background()), net.ErrClosed)
	require.ErrorIs(t, cb.Mask(), net.ErrClosed)
	require.ErrorIs(t, cb.Unmask(), net.ErrClosed)
	_, err := cb.Status()
	require.ErrorIs(t, err, net.ErrClosed)
}

func testHandle(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	var n atomic.Int64
	cb.Handle(func() { n.Add(1) })
	for i := range 3 {
		before := n.Load()
		require.NoError(t, ca.Notify())
		eventually(t, "the handler runs", func() bool { return n.Load() > before })
		require.Greater(t, n.Load(), int64(i))
	}
	closeAll(t, cb)
	after := n.Load()
	require.NoError(t, ca.Notify())
	require.Equal(t, after, n.Load(), "no handler runs after Close")
	closeAll(t, ca)
}

func testHandleOutstanding(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	require.NoError(t, ca.Notify())
	var n atomic.Int64
	cb.Handle(func() { n.Add(1) })
	eventually(t, "the handler runs for what came before", func() bool { return n.Load() > 0 })
	closeAll(t, ca, cb)
}

func testHandleNil(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	var n atomic.Int64
	cb.Handle(func() { n.Add(1) })
	require.NoError(t, ca.Notify())
	eventually(t, "the handler runs", func() bool { return n.Load() > 0 })
	cb.Handle(nil)
	eventually(t, "Wait has the events again", func() bool {
		require.NoError(t, ca.Notify())
		return wait(cb, silence) == nil
	})
	closeAll(t, ca, cb)
}

// Close does not wait for the handler, which may wait for what the closer holds (E-02, E-03).
func testCloseDuringHandler(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	entered, leave := make(chan struct{}), make(chan struct{})
	var once sync.Once
	cb.Handle(func() {
		once.Do(func() {
			close(entered)
			<-leave // longer than a handler should take
		})
	})
	sent := make(chan error, 1)
	go func() { sent <- ca.Notify() }() // the handler may run on the sender's goroutine
	<-entered
	closed := make(chan error, 1)
	go func() { closed <- cb.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "Close waits for the handler")
	}
	close(leave)
	require.NoError(t, <-sent)
	closeAll(t, ca)
}

func testMask(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	require.NoError(t, cb.Mask())
	for range 3 {
		require.NoError(t, ca.Notify())
	}
	requireSilence(t, cb)
	require.NoError(t, cb.Unmask())
	requireArrival(t, cb)
	requireSilence(t, cb)
	require.NoError(t, ca.Notify())
	requireArrival(t, cb)
	closeAll(t, ca, cb)
}

func testMaskWithoutEvent(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	for range 2 {
		require.NoError(t, cb.Mask())
		require.NoError(t, cb.Mask())
		require.NoError(t, cb.Unmask())
		require.NoError(t, cb.Unmask())
	}
	requireSilence(t, cb)
	closeAll(t, ca, cb)
}

// E-09: what may not be bound is an error, and leaves nothing open.
func testBindRefusals(t *testing.T, a, b Side) {
	open := b.Table.Stats().Open
	forOther, err := a.Table.AllocUnbound(stranger(a, b))
	if errors.Is(err, hypercall.ESRCH) { // Xen 4.17 on arm64, as Debian has it, wants the domain to be there
		forOther, err = a.Table.AllocUnbound(b.ID)
	} else if err == nil {
		_, bindErr := b.Table.BindInterdomain(a.ID, forOther.Port())
		require.Error(t, bindErr, "a port that is meant for another domain")
	}
	require.NoError(t, err)
	defer forOther.Close()

	ca, cb := connect(t, a, b)
	_, err = b.Table.BindInterdomain(a.ID, ca.Port())
	require.Error(t, err, "a port that is bound already")
	port := ca.Port()
	closeAll(t, cb, ca)
	_, err = b.Table.BindInterdomain(a.ID, port)
	require.Error(t, err, "a port that is closed")
	for _, port := range []hypercall.Port{0, 4095, 4096, 1 << 17, 1<<32 - 1} {
		_, err = b.Table.BindInterdomain(a.ID, port)
		require.Error(t, err, "port %d", port)
	}
	_, err = b.Table.BindInterdomain(hypercall.DomInvalid, 1)
	require.Error(t, err, "no domain")
	if a.Table == b.Table {
		open++ // forOther
	}
	require.Equal(t, open, b.Table.Stats().Open)
	closeAll(t, forOther)
}

// stranger is the number of a domain that is neither.
func stranger(a, b Side) hypercall.DomID {
	id := hypercall.DomID(0)
	for id == a.ID || id == b.ID {
		id++
	}
	return id
}

// An event that nobody is there to take is dropped, and is no error.
func testNotifyNobody(t *testing.T, a, b Side) {
	unbound, err := a.Table.AllocUnbound(b.ID)
	require.NoError(t, err)
	require.NoError(t, unbound.Notify())
	closeAll(t, unbound)

	ca, cb := connect(t, a, b)
	closeAll(t, cb)
	require.NoError(t, ca.Notify())
	closeAll(t, ca)
}

// When one end closes, the other's port is unbound again, for the same domain.
func testRebind(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	closeAll(t, cb)
	cb, err := b.Table.BindInterdomain(a.ID, ca.Port())
	require.NoError(t, err)
	quiet(t, cb)
	quiet(t, ca)
	require.NoError(t, ca.Notify())
	requireArrival(t, cb)
	require.NoError(t, cb.Notify())
	requireArrival(t, ca)
	closeAll(t, ca, cb)
}

// E-04: a port that is used again works, and its new owner is not told of the old one's events; but for one that was being taken in at
// the very moment that the port was closed, which is a spurious arrival as any.
func testPortReuse(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	seen := map[hypercall.Port]bool{cb.Port(): true}
	again, spurious := false, 0
	for range 50 {
		require.NoError(t, ca.Notify())
		closeAll(t, ca, cb)
		fresh, err := b.Table.AllocUnbound(a.ID) // nobody can have sent to it
		require.NoError(t, err)
		again = again || seen[fresh.Port()]
		seen[fresh.Port()] = true
		if wait(fresh, time.Millisecond) == nil {
			spurious++
		}
		cb = fresh
		ca, err = a.Table.BindInterdomain(b.ID, cb.Port())
		require.NoError(t, err)
		require.NoError(t, ca.Notify())
		requireArrival(t, cb)
	}
	require.True(t, again, "no port was used again")
	require.Less(t, spurious, 25, "of 50 ports that were used again so many were told of events before")
	closeAll(t, ca, cb)
}

func testVIRQ(t *testing.T, a, _ Side) {
	virq := a.VIRQ
	if virq == 0 {
		virq = hypercall.VIRQDebug
	}
	ch, err := a.Table.BindVIRQ(virq, 0)
	require.NoError(t, err)
	if st, err := ch.Status(); !errors.Is(err, errors.ErrUnsupported) {
		require.NoError(t, err)
		require.Equal(t, evtchn.VirtualIRQ, st.State)
		require.Equal(t, virq, st.VIRQ)
	}
	_, err = a.Table.BindVIRQ(virq, 0)
	require.Error(t, err, "bound twice")
	closeAll(t, ch)
	ch, err = a.Table.BindVIRQ(virq, 0)
	require.NoError(t, err, "after it was closed")
	closeAll(t, ch)
	_, err = a.Table.BindVIRQ(24, 0)
	require.Error(t, err, "there are 24 virtual interrupts")
	_, err = a.Table.BindVIRQ(virq, 1<<20)
	require.Error(t, err, "no such vCPU")
}

func testIPI(t *testing.T, a, _ Side) {
	ch, err := a.Table.BindIPI(0)
	if errors.Is(err, errors.ErrUnsupported) {
		return // /dev/xen/evtchn has none
	}
	require.NoError(t, err)
	require.NoError(t, ch.Notify())
	requireArrival(t, ch)
	st, err := ch.Status()
	require.NoError(t, err)
	require.Equal(t, evtchn.IPI, st.State)
	_, err = a.Table.BindIPI(1 << 20)
	require.Error(t, err, "no such vCPU")
	closeAll(t, ch)
}

func testAdopt(t *testing.T, a, b Side) {
	for _, port := range []hypercall.Port{0, 4000, 4096, 1<<32 - 1} {
		_, err := a.Table.Adopt(port)
		require.Error(t, err, "port %d is not open", port)
	}
	ca, cb := connect(t, a, b)
	_, err := a.Table.Adopt(ca.Port())
	require.Error(t, err, "the table has it already")
	require.NoError(t, cb.Notify(), "and goes on having it")
	requireArrival(t, ca)
	closeAll(t, ca, cb)
}

func testEachItsOwn(t *testing.T, a, b Side) {
	const n = 100
	var as, bs [n]evtchn.Channel
	for i := range as {
		var err error
		as[i], err = a.Table.AllocUnbound(b.ID)
		require.NoError(t, err)
		bs[i], err = b.Table.BindInterdomain(a.ID, as[i].Port())
		require.NoError(t, err)
	}
	// The events that binding caused come late where the processor is slow.
	for again := true; again; {
		again = false
		for i := range bs {
			again = wait(bs[i], silence/10) == nil || again
		}
	}
	for i := 0; i < n; i += 7 {
		require.NoError(t, as[i].Notify())
	}
	for i := 0; i < n; i += 7 {
		requireArrival(t, bs[i])
	}
	// One may come only now all the same. If events went astray it would be more than a few.
	strays := 0
	for i := range bs {
		if wait(bs[i], time.Millisecond/2) == nil {
			strays++
		}
	}
	require.Less(t, strays, n/10)
	closeAll(t, as[:]...)
	closeAll(t, bs[:]...)
}

func testPingPong(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	const rounds = 1000
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		for range rounds {
			if err := errors.Join(cb.Wait(ctx), cb.Notify()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range rounds {
		require.NoError(t, ca.Notify())
		require.NoError(t, ca.Wait(ctx))
	}
	require.NoError(t, <-done)
	closeAll(t, ca, cb)
}

// testConcurrent has goroutines bind, send, wait, mask and close at once. Each counts what it was sent: after the last of many
// notifications at least one arrival comes.
func testConcurrent(t *testing.T, a, b Side) {
	const workers, rounds = 4, 25
	var group sync.WaitGroup
	errs := make(chan error, workers)
	for range workers {
		group.Go(func() {
			for range rounds {
				if err := exchange(a, b); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

func exchange(a, b Side) error {
	ca, err := a.Table.AllocUnbound(b.ID)
	if err != nil {
		return err
	}
	defer ca.Close()
	cb, err := b.Table.BindInterdomain(a.ID, ca.Port())
	if err != nil {
		return err
	}
	defer cb.Close()
	var sent, seen atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		for seen.Load() < 20 {
			if err := cb.Wait(ctx); err != nil {
				done <- err
				return
			}
			seen.Store(sent.Load())
		}
		done <- nil
	}()
	for i := range 20 {
		sent.Add(1)
		if i%5 == 0 {
			err = errors.Join(err, cb.Mask(), cb.Unmask())
		}
		err = errors.Join(err, ca.Notify())
	}
	return errors.Join(err, <-done)
}

func testCloseTable(t *testing.T, a, b Side) {
	ca, cb := connect(t, a, b)
	done := make(chan error, 1)
	go func() { done <- cb.Wait(context.Background()) }()
	require.NoError(t, b.Table.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.Zero(t, b.Table.Stats().Open)
	_, err := b.Table.AllocUnbound(a.ID)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.Table.BindInterdomain(a.ID, ca.Port())
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = b.Table.Adopt(1)
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, b.Table.Close(), "a second Close")
	require.NoError(t, cb.Close())
}
