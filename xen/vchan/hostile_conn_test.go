package vchan

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// V-07: a close comes only when the peer has read everything: one with libxenvchan loses what it has not read when it sees the close.
func TestV07_CloseWaitsForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := testConns(t, Layout{12, 12}, nil)
		_, err := client.Write([]byte("last words"))
		require.NoError(t, err)
		closed := make(chan error, 1)
		go func() { closed <- client.Close() }()
		<-time.After(DefaultLinger / 2)
		require.True(t, server.ctl.Load8(offCliLive).Is(liveConnected), "the close came before the bytes were read")
		buf := make([]byte, 10)
		_, err = io.ReadFull(server, buf)
		require.NoError(t, err)
		require.Equal(t, "last words", string(buf))
		require.NoError(t, <-closed)
		_, err = server.Read(buf)
		require.Equal(t, io.EOF, err)
		require.NoError(t, server.Close())
	})
}

// frame is a message as it is on the wire, with any length.
func frame(length uint32, body string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, length), body...)
}

// V-14: messages without a byte, and messages with lengths that nobody may send, leave the reader's memory and the messages around them
// alone.
func TestV14_HostileFrames(t *testing.T) {
	const maxPacket = 5000
	around := bytes.Repeat([]byte{canary}, 3*maxPacket)
	untouched := func(t *testing.T, from int) {
		t.Helper()
		require.Equal(t, len(around)-from, bytes.Count(around[from:], []byte{canary}))
	}
	bubble := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) // a reader that waits for ever fails at once
	}

	bubble("empty", func(t *testing.T) {
		client, server := testConns(t, Layout{12, 12}, &Config{MaxPacket: maxPacket, Linger: -1})
		in := NewFramed(server)
		for _, f := range [][]byte{frame(0, ""), frame(0, ""), frame(0, ""), frame(4, "next"), frame(0, ""), frame(3, "end")} {
			require.NoError(t, client.Send(f))
		}
		for _, buf := range [][]byte{nil, around[:0], around[:100]} {
			n, err := in.ReadMsg(buf)
			require.NoError(t, err)
			require.Zero(t, n)
			untouched(t, 0)
		}
		n, err := in.ReadMsg(around[:2])
		require.ErrorIs(t, err, io.ErrShortBuffer)
		require.Equal(t, 4, n)
		untouched(t, 0)
		n, err = in.ReadMsg(around[:10])
		require.NoError(t, err)
		require.Equal(t, "next", string(around[:n]))
		untouched(t, 4)
		n, err = in.Next()
		require.NoError(t, err)
		require.Zero(t, n)
		n, err = in.ReadMsg(around[4:10])
		require.NoError(t, err)
		require.Zero(t, n)
		untouched(t, 4)
		n, err = in.ReadMsg(around[:3])
		require.NoError(t, err)
		require.Equal(t, "end", string(around[:n]))
		copy(around, bytes.Repeat([]byte{canary}, 4))
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})

	for _, length := range []uint32{maxPacket + 1, 1 << 31, 1<<31 - 1, 0xffffffff, 0xfffffffc} {
		bubble(fmt.Sprintf("length %d", length), func(t *testing.T) {
			client, server := testConns(t, Layout{12, 12}, &Config{MaxPacket: maxPacket, Linger: -1})
			in := NewFramed(server)
			require.NoError(t, client.Send(frame(length, "body")))
			for range 2 {
				n, err := in.ReadMsg(around)
				requirePeerError(t, err, "message length", uint64(length))
				require.Zero(t, n)
				untouched(t, 0)
				_, err = in.Next()
				requirePeerError(t, err, "message length", uint64(length))
				_, err = server.Write([]byte("x"))
				requirePeerError(t, err, "message length", uint64(length))
			}
			_ = client.Close()
			require.NoError(t, server.Close())
		})
	}

	bubble("largest", func(t *testing.T) {
		client, server := testConns(t, Layout{12, 12}, &Config{MaxPacket: maxPacket, Linger: -1})
		in := NewFramed(server)
		data := bytes.Repeat([]byte("x"), maxPacket)
		wrote := make(chan error, 1)
		go func() { wrote <- NewFramed(client).WriteMsg(data) }()
		n, err := in.ReadMsg(around)
		require.NoError(t, err)
		require.NoError(t, <-wrote)
		require.Equal(t, data, around[:n])
		untouched(t, n)
		require.NoError(t, client.Close())
		require.NoError(t, server.Close())
	})

	bubble("cut off", func(t *testing.T) {
		client, server := testConns(t, Layout{12, 12}, &Config{MaxPacket: maxPacket, Linger: -1})
		in := NewFramed(server)
		require.NoError(t, client.Send(frame(10, "half")))
		_ = client.Close()
		n, err := in.ReadMsg(around)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Zero(t, n)
		require.NoError(t, server.Close())
	})
}

// V-19: a peer that reads nothing holds a writer up until its deadline or its close, and a close for the linger time. What was written is
// counted right.
func TestV19_PeerStopsReading(t *testing.T) {
	const ring = 4096
	for name, write := range map[string]func(c *Conn) (int, error){
		"Write":    func(c *Conn) (int, error) { return c.Write(make([]byte, 2*ring)) },
		"Send":     func(c *Conn) (int, error) { _, _ = c.Write(make([]byte, ring)); return ring, c.Send(make([]byte, 1)) },
		"WriteMsg": func(c *Conn) (int, error) { return ring, NewFramed(c).WriteMsg(make([]byte, 2*ring)) },
	} {
		for _, c := range []struct {
			what string
			stop func(c *Conn)
			want error
		}{
			{"deadline", func(c *Conn) { _ = c.SetWriteDeadline(time.Now().Add(time.Hour)) }, os.ErrDeadlineExceeded},
			{"close", func(c *Conn) { time.AfterFunc(time.Hour, func() { _ = c.Close() }) }, net.ErrClosed},
			{"death", func(c *Conn) {
				time.AfterFunc(time.Hour, func() { c.ctl.Store8(offSrvLive, 0); c.onEvent() })
			}, syscall.ECONNRESET},
		} {
			t.Run(name+", "+c.what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := testConns(t, Layout{12, 12}, &Config{MaxPacket: 1 << 20})
					began := time.Now()
					c.stop(client)
					n, err := write(client)
					require.ErrorIs(t, err, c.want)
					require.Equal(t, time.Hour, time.Since(began))
					require.Equal(t, ring, n)
					_ = client.SetWriteDeadline(time.Time{})
					began = time.Now()
					err = client.Close()
					switch c.what {
					case "deadline":
						require.ErrorIs(t, err, os.ErrDeadlineExceeded)
						var unread *UnreadError
						require.ErrorAs(t, err, &unread)
						require.Equal(t, ring, unread.Bytes)
						require.Equal(t, DefaultLinger, time.Since(began))
					case "close":
						require.NoError(t, err, "the second Close")
						<-time.After(DefaultLinger) // the first one still waits
						synctest.Wait()
					case "death":
						require.ErrorIs(t, err, syscall.EPIPE)
						require.Zero(t, time.Since(began))
					}
					require.True(t, server.ctl.Load8(offCliLive).Is(liveExited))
					require.NoError(t, server.Close())
				})
			})
		}
	}
}
