package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAwait(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		_, _ = io.WriteString(b, "\r\n=== hvkit\r\n=== hvkit guest 2 ===\r\n\r\n"+strings.ReplaceAll(Ready, "\n", "\r\n")+"first words")
		_ = b.Close()
	}()
	conn, err := Await(t.Context(), a)
	require.NoError(t, err)
	rest, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "first words", string(rest))

	a, b = net.Pipe()
	go func() {
		_, _ = io.WriteString(b, "Kernel panic\n")
		_ = b.Close()
	}()
	_, err = Await(t.Context(), a)
	require.ErrorIs(t, err, io.EOF)

	a, b = net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Await(ctx, a)
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Write([]byte("x"))
	require.Error(t, err, "the connection is closed")
}

func TestFrames(t *testing.T) {
	frame := func(kind byte, text string) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(text)))) + text
	}
	end := frame(frameExit, `{"Code":7}`)
	for _, x := range []struct{ in, out, err string }{
		{frame(frameStdout, "a") + frame(frameStderr, "b") + frame(frameStdout, "") + end, "1a2b1", ""},
		{frame(frameStdout, "a"), "1a", "unexpected EOF"},
		{"\x01\x00", "", "unexpected EOF"},
		{frame(frameStdout, "a")[:5], "", "EOF"},
		{frame(9, "a") + end, "", "unknown kind 9"},
		{"\x01\xff\xff\xff\xff", "", "limit"},
		{frame(frameExit, "{"), "", "JSON"},
	} {
		var out bytes.Buffer
		e, err := readFrames(strings.NewReader(x.in), func(kind byte, p []byte) error {
			out.WriteByte('0' + kind)
			out.Write(p)
			return nil
		})
		require.Equal(t, x.out, out.String())
		if x.err != "" {
			require.ErrorContains(t, err, x.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 7, e.Code)
	}
}
