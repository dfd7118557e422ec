package vchan_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

// proxy is Xen's vchan-socket-proxy, a user of libxenvchan, which passes on its standard input and output.
type proxy struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	stderr bytes.Buffer
}

// startProxy starts one that talks to a vchan of a domain at the path.
func startProxy(t *testing.T, mode string, dom int, path string) *proxy {
	t.Helper()
	p := &proxy{cmd: exec.Command("vchan-socket-proxy", "-m", mode, strconv.Itoa(dom), path, "-")}
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	p.stdout, err = p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = &p.stderr
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			t.Logf("vchan-socket-proxy -m %s: %s", mode, p.stderr.String())
		}
	})
	return p
}

// ended waits for the program to end by itself.
func (p *proxy) ended(t *testing.T) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case <-done: // whatever it says of the end: that it was the peer's is an error to some versions
	case <-time.After(vchantest.Patience):
		require.Fail(t, "vchan-socket-proxy goes on: "+p.stderr.String())
	}
}

// volume is how many bytes go each way.
var volume = flag.Int("vchan.bytes", 1<<20, "how many bytes go each way between libxenvchan and this package")

// perRing bounds how often a ring is filled: on an emulated processor the smallest moves a megabyte a second.
const perRing = 16384

// pass has n bytes go both ways at the same time, in pieces of many sizes, and compares checksums.
func pass(t *testing.T, c *vchan.Conn, p *proxy, n int) {
	t.Helper()
	require.NoError(t, c.SetDeadline(time.Now().Add(vchantest.Patience+time.Duration(n>>20)*time.Second)))
	errs := make(chan error, 4)
	source := func(seed uint64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), int64(n)) }
	want := func(seed uint64) []byte {
		h := sha256.New()
		_, _ = io.Copy(h, source(seed))
		return h.Sum(nil)
	}
	send := func(w io.Writer, seed uint64) {
		sizes := rand.New(rand.NewPCG(seed, 1))
		r := source(seed)
		for {
			_, err := io.CopyN(struct{ io.Writer }{w}, r, 1+sizes.Int64N(10000))
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				errs <- err
				return
			}
		}
	}
	receive := func(r io.Reader, seed uint64, name string) {
		h := sha256.New()
		k, err := io.CopyN(h, r, int64(n))
		switch {
		case err != nil:
			err = fmt.Errorf("%s: after %d of %d bytes: %w", name, k, n, err)
		case !bytes.Equal(h.Sum(nil), want(seed)):
			err = fmt.Errorf("%s: other bytes arrived than were sent", name)
		}
		errs <- err
	}
	go send(c, 1)
	go send(p.stdin, 2)
	go receive(p.stdout, 1, "from Go to C")
	go receive(c, 2, "from C to Go")
	for range 4 {
		require.NoError(t, <-errs)
	}
}

// needProxy opens the control domain that the test runs in.
func needProxy(t *testing.T) *xen.Domain {
	d := insideDomain(t)
	if _, err := exec.LookPath("vchan-socket-proxy"); err != nil {
		t.Skip("Xen's vchan-socket-proxy is not here")
	}
	return d
}

// Ours is the server, and libxenvchan the client.
func TestLinuxServesLibxenvchan(t *testing.T) {
	d := needProxy(t)
	path := fmt.Sprintf("/local/domain/%d/data/hvkit-c-client", d.ID())
	serve := func(t *testing.T, cfg vchan.Config) (*vchan.Conn, *proxy) {
		l, err := vchan.ListenPath(t.Context(), d, strconv.Itoa(int(d.ID())), path, &vchan.ListenConfig{Config: cfg})
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
		p := startProxy(t, "client", int(d.ID()), path)
		require.NoError(t, l.SetDeadline(time.Now().Add(vchantest.Patience)))
		c, err := l.AcceptVchan()
		require.NoError(t, err)
		require.NoError(t, l.Close())
		t.Cleanup(func() { c.SetLinger(0); _ = c.Close() })
		return c, p
	}
	for _, sizes := range [][2]int{{1024, 2048}, {2048, 1024}, {2048, 2048}, {4096, 4096}, {65536, 4096}, {1 << 20, 1 << 20}} {
		t.Run(fmt.Sprintf("%d and %d", sizes[0], sizes[1]), func(t *testing.T) {
			c, p := serve(t, vchan.Config{ReadRing: sizes[0], WriteRing: sizes[1]})
			pass(t, c, p, min(*volume, perRing*min(sizes[0], sizes[1])))
			closeOurs(t, c, p)
		})
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			c, p := serve(t, vchan.Config{})
			pass(t, c, p, 10000)
			end(t, c, p)
		})
	}
}

// libxenvchan is the server, and ours the client.
func TestLinuxDialsLibxenvchan(t *testing.T) {
	d := needProxy(t)
	dial := func(t *testing.T) (*vchan.Conn, *proxy) {
		path := fmt.Sprintf("/local/domain/%d/data/hvkit-c-server", d.ID())
		p := startProxy(t, "server", int(d.ID()), path)
		ctx, cancel := context.WithTimeout(t.Context(), vchantest.Patience)
		defer cancel()
		c, err := vchan.DialPath(ctx, d, strconv.Itoa(int(d.ID())), path, nil)
		require.NoError(t, err)
		t.Cleanup(func() { c.SetLinger(0); _ = c.Close() })
		return c, p
	}
	t.Run("volume", func(t *testing.T) {
		c, p := dial(t)
		pass(t, c, p, *volume)
		closeOurs(t, c, p)
	})
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			c, p := dial(t)
			pass(t, c, p, 10000)
			end(t, c, p)
		})
	}
}

// ends are the ways in which a connection ends.
var ends = map[string]func(t *testing.T, c *vchan.Conn, p *proxy){
	"WeClose": closeOurs,
	"TheyClose": func(t *testing.T, c *vchan.Conn, p *proxy) {
		require.NoError(t, p.stdin.Close())
		requireEnd(t, c)
		p.ended(t)
	},
	"TheyAreKilled": func(t *testing.T, c *vchan.Conn, p *proxy) {
		require.NoError(t, p.cmd.Process.Kill())
		requireEnd(t, c)
	},
}

// closeOurs closes our end: what was written last arrives before the end.
func closeOurs(t *testing.T, c *vchan.Conn, p *proxy) {
	_, err := c.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	rest, err := io.ReadAll(p.stdout)
	require.NoError(t, err)
	require.Equal(t, "last words", string(rest))
	p.ended(t)
}

// requireEnd wants the end of the connection to be seen here.
func requireEnd(t *testing.T, c *vchan.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(vchantest.Patience)))
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}
