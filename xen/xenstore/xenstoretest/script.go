package xenstoretest

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hvkit/hvkit/xen/xenstore"
	"github.com/stretchr/testify/require"
)

// Script is a server that does what a test tells it, right or wrong, one message at a time. Its methods are for one goroutine. They do
// not fail the test: a connection that has ended answers with the zero Message, and what is sent is lost.
type Script struct {
	rw  io.ReadWriteCloser
	dec xenstore.Decoder
}

// Message is a decoded message.
type Message struct {
	xenstore.Header
	Payload string
}

// NewScript returns a scripted server and a client that is connected to it by a net.Pipe. Both are closed when the test ends.
func NewScript(tb testing.TB, cfg *xenstore.Config) (*Script, *xenstore.Client) {
	tb.Helper()
	a, b := net.Pipe()
	s := &Script{rw: b}
	c := xenstore.NewClient(a, cfg)
	tb.Cleanup(func() {
		require.NoError(tb, c.Close())
		require.NoError(tb, s.Close())
	})
	return s, c
}

// NewScriptOver returns a scripted server over any connection.
func NewScriptOver(rw io.ReadWriteCloser) *Script { return &Script{rw: rw} }

// Next returns the next request.
func (s *Script) Next() Message {
	for {
		h, payload, ok, err := s.dec.Next()
		if err != nil {
			return Message{}
		}
		if ok {
			return Message{h, string(payload)}
		}
		n, err := s.rw.Read(s.dec.Space())
		if err != nil {
			return Message{}
		}
		s.dec.Filled(n)
	}
}

// Reply answers a request with a payload.
func (s *Script) Reply(m Message, payload string) {
	s.Send(xenstore.Header{Type: m.Type, ReqID: m.ReqID, TxID: m.TxID}, payload)
}

// Fail answers a request with an error of that name.
func (s *Script) Fail(m Message, name string) {
	s.Send(xenstore.Header{Type: xenstore.MsgError, ReqID: m.ReqID, TxID: m.TxID}, name+"\x00")
}

// Event sends an event.
func (s *Script) Event(path, token string) {
	s.Send(xenstore.Header{Type: xenstore.MsgWatchEvent}, path+"\x00"+token+"\x00")
}

// Send sends a message; the length in the header is that of the payload.
func (s *Script) Send(h xenstore.Header, payload string) {
	s.Raw(xenstore.AppendMessage(nil, h, []byte(payload)))
}

// Raw sends bytes.
func (s *Script) Raw(b []byte) { _, _ = s.rw.Write(b) }

// Close ends the connection.
func (s *Script) Close() error { return s.rw.Close() }

// Serve answers every request with what handle returns: a payload, or the name of an error.
func (s *Script) Serve(handle func(m Message) (payload, errno string)) {
	for {
		m := s.Next()
		if m == (Message{}) {
			return
		}
		if payload, errno := handle(m); errno != "" {
			s.Fail(m, errno)
		} else {
			s.Reply(m, payload)
		}
	}
}

// Token returns the token of a WATCH or UNWATCH request.
func (m Message) Token() string {
	_, rest, _ := strings.Cut(m.Payload, "\x00")
	token, _, _ := strings.Cut(rest, "\x00")
	return token
}
