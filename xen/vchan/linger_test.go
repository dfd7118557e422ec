package vchan

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// V-19: an end that closes waits for its peer to read. The peer cannot before its own write, of more than the ring holds, has gone on: what
// it writes is thrown away, and it is told of the room.
func TestV19_CloseWhileThePeerWrites(t *testing.T) {
	for name, early := range map[string]bool{"it waits already": true, "it begins later": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := testConns(t, Layout{12, 12}, &Config{})
				read := make(chan string, 1)
				talk := func() {
					_, _ = client.Write(make([]byte, 3*client.core.Out.Size()))
					b := make([]byte, 10)
					_, err := io.ReadFull(client, b)
					read <- string(b)
					if err != nil {
						t.Error(err)
					}
				}
				if early {
					go talk()
					synctest.Wait()
				}
				_, err := server.Write([]byte("0123456789"))
				require.NoError(t, err)
				closed := make(chan error, 1)
				go func() { closed <- server.Close() }()
				synctest.Wait()
				if !early {
					go talk()
				}
				require.NoError(t, <-closed, "the peer did not come to read")
				require.Equal(t, "0123456789", <-read)
				_ = client.Close() // of what the server threw away it says that nobody read it
			})
		})
	}
}
