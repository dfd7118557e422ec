package attach

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/shm"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// fakeHost is a host that answers as the test says.
type fakeHost struct {
	t    *testing.T
	conn *Conn
}

// join returns a machine, and its host.
func join(t *testing.T) (*Machine, *fakeHost) {
	inside, outside := socketPair(t)
	h := &fakeHost{t, outside}
	joined := make(chan *Machine, 1)
	go func() {
		m, err := greet(inside, "token", "")
		if err != nil {
			t.Error(err)
		}
		joined <- m
	}()
	require.Equal(t, Hello, h.receive().Kind)
	h.begin(Welcome, 1)
	m := <-joined
	require.NotNil(t, m)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, h
}

func (h *fakeHost) receive() *Message {
	m, fds, err := h.conn.Receive()
	require.NoError(h.t, err)
	fds.Close()
	return m
}

// begin sends what an incarnation begins with.
func (h *fakeHost) begin(kind Kind, gen uint32) {
	memory, err := shm.NewFile("memory", 1)
	require.NoError(h.t, err)
	defer memory.Close()
	ear, event := h.port()
	defer ear.Close()
	defer event.Close()
	m := &Message{Kind: kind, Gen: gen, Dom: 7, ABI: hypercall.X86_64, Port: 1}
	require.NoError(h.t, h.conn.Send(m, int(memory.Fd()), int(memory.Fd()), ear.FD(), event.FD()))
}

// port returns what a port's descriptors are.
func (h *fakeHost) port() (*Ear, *Event) {
	event, err := NewEvent()
	require.NoError(h.t, err)
	ear, err := NewEar(event)
	require.NoError(h.t, err)
	return ear, event
}

// A reply that was made in an incarnation which has ended says nothing of the present one: the port that it is about is another's now.
func TestReplyOfAnEarlierIncarnation(t *testing.T) {
	m, h := join(t)
	next := m.following()
	called := make(chan error, 1)
	go func() {
		_, err := hypercall.AllocUnbound(m, hypercall.DomSelf, 0)
		called <- err
	}()
	request := h.receive()
	require.EqualValues(t, 1, request.Gen)
	h.begin(Resumed, 2)
	<-next
	ear, event := h.port()
	defer ear.Close()
	defer event.Close()
	reply := &Message{Kind: Reply, ID: request.ID, Gen: 1, Call: request.Call, Port: 5}
	require.NoError(t, h.conn.Send(reply, ear.FD(), event.FD()))
	select {
	case err := <-called:
		require.ErrorIs(t, err, hypercall.ErrStale)
	case <-time.After(10 * time.Second):
		require.Fail(t, "no answer")
	}
	require.Nil(t, m.line(5))
	require.NotNil(t, m.line(1), "Xenstore's of the present incarnation")
}

// An event that arrives while its port is being closed is dropped: the port may be another's by the time that it is looked at.
func TestEventAtAClosedPort(t *testing.T) {
	bits := NewEventBits(hypercall.X86_64)
	pending := func() bool {
		word, bit := bits.bit(5)
		return bits.load(bits.layout.EvtchnPending+word)&bit != 0
	}
	var l line
	require.True(t, l.pend(bits, 5))
	require.True(t, pending())
	l.leave(bits, 5)
	require.False(t, pending(), "what was pending goes with the port")
	require.False(t, l.pend(bits, 5))
	require.False(t, pending())
}
