package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startHost serves a host in this process, and checks at the end that nothing was left behind.
func startHost(t *testing.T, args ...string) (socket string, out *text) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "h.sock")
	out = new(text)
	var errs text
	ctx, cancel := context.WithCancelCause(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"host", "--socket", socket}, args...), &streams{nil, out, &errs})
	}()
	t.Cleanup(func() {
		cancel(&interrupt{os.Interrupt})
		require.Equal(t, exitOK, <-code, errs.String())
		if !t.Failed() {
			require.Contains(t, out.String(), "The host ends: nothing is left behind.")
		}
	})
	out.await(t, "^C ends it.")
	t.Setenv("HVKIT_HOST", socket)
	return socket, out
}

// awaitGone waits until the host has seen that a domain has gone.
func awaitGone(t *testing.T, host *text, names ...string) {
	t.Helper()
	for _, name := range names {
		require.Eventually(t, func() bool {
			return strings.Count(host.String(), `"`+name+`" has gone`) == strings.Count(host.String(), `"`+name+`" is there`)
		}, patient, time.Millisecond, name)
	}
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := rand.Read(b)
	require.NoError(t, err)
	return b
}

// listen starts a listener in a process of its own and waits until it has joined.
func listen(t *testing.T, host *text, name string, args ...string) *process {
	t.Helper()
	joined := func() int { return strings.Count(host.String(), `"`+name+`" is there`) }
	before := joined()
	p := spawn(t, append([]string{"vchan", "listen", "--domain", name}, args...)...)
	require.Eventually(t, func() bool { return joined() > before }, patient, time.Millisecond)
	return p
}

func TestListenAndDial(t *testing.T) {
	_, host := startHost(t)
	for _, c := range []struct{ name, listen, dial string }{
		{"port", "--client client 5000", "server 5000"},
		{"any client", "5000", "server 5000"},
		{"small ring", "--ring 1K --client client name", "server name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := randomBytes(t, 3<<20)
			server := listen(t, host, "server", strings.Fields(c.listen)...)
			require.NoError(t, server.in.Close())
			var out, errs text
			code := run(t.Context(), append([]string{"vchan", "dial", "--domain", "client", "--json"}, strings.Fields(c.dial)...),
				&streams{bytes.NewReader(data), &out, &errs})
			require.Equal(t, exitOK, code, errs.String())
			require.Equal(t, exitOK, server.wait(t), server.errs.String())
			require.Equal(t, len(data), len(server.out.String()))
			require.True(t, bytes.Equal(data, []byte(server.out.String())))
			var stats connStats
			require.NoError(t, json.Unmarshal([]byte(errs.String()), &stats))
			require.EqualValues(t, len(data), stats.BytesWritten)
			awaitGone(t, host, "server", "client")
		})
	}
}

func TestDialReceives(t *testing.T) {
	_, host := startHost(t)
	data := randomBytes(t, 1<<20)
	server := listen(t, host, "server", "5000")
	go func() {
		server.in.Write(data)
		server.in.Close()
	}()
	stdout, stderr, code := hvkit(t, "", "vchan", "dial", "--domain", "client", "server", "5000") // an empty input does not end it
	require.Equal(t, exitOK, code, stderr)
	require.True(t, bytes.Equal(data, []byte(stdout)))
	require.Equal(t, exitOK, server.wait(t), server.errs.String())
	awaitGone(t, host, "server", "client")
}

func TestPath(t *testing.T) {
	_, host := startHost(t)
	client := spawn(t, "vchan", "listen", "--domain", "waiting", "x") // a domain that stays, so that its name is known
	host.await(t, `"waiting" is there`)
	_, stderr, code := hvkit(t, "", "vchan", "listen", "--domain", "s", "/local/domain/2/data/x")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "give it with --client")
	_, stderr, code = hvkit(t, "", "vchan", "dial", "--domain", "d", "--timeout", "20ms", "waiting", "/local/domain/1/data/none")
	require.Equal(t, exitFailure, code)
	require.Equal(t, "hvkit: vchan dial waiting:/local/domain/1/data/none: nothing was offered within 20ms\n", stderr)
	client.cmd.Process.Kill()
	awaitGone(t, host, "waiting")
}

func TestNoSuchDomain(t *testing.T) {
	_, host := startHost(t)
	_, stderr, code := hvkit(t, "", "vchan", "dial", "--domain", "client", "nobody", "5000")
	require.Equal(t, exitFailure, code)
	require.Contains(t, stderr, `hvkit: vchan dial nobody:5000: xen: look up domain "nobody"`)
	awaitGone(t, host, "client")
}

// A peer that is killed in the middle ends the transfer with an error for who sends.
func TestPeerKilled(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "5000")
	sender := spawn(t, "vchan", "dial", "--domain", "client", "server", "5000")
	go func() {
		block := make([]byte, 64<<10)
		for {
			if _, err := sender.in.Write(block); err != nil {
				return
			}
		}
	}()
	require.Eventually(t, func() bool { return len(server.out.String()) > 1<<20 }, patient, time.Millisecond)
	require.NoError(t, server.cmd.Process.Kill())
	require.Equal(t, exitFailure, sender.wait(t))
	require.Regexp(t, "^hvkit: vchan dial: the peer.*\n$", sender.errs.String())
	awaitGone(t, host, "server", "client")
}

func TestInterrupt(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "5000")
	require.NoError(t, server.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 130, server.wait(t))
	require.Empty(t, server.errs.String())
	awaitGone(t, host, "server")
}

func TestExec(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "-exec", `read line; echo "$line back to $HVKIT_PEER"`, "--count", "2", "echo")
	for _, word := range []string{"one", "two"} {
		stdout, stderr, code := hvkit(t, word+"\n", "vchan", "dial", "--domain", "client", "--at-eof", "wait", "server", "echo")
		require.Equal(t, exitOK, code, stderr)
		require.Regexp(t, "^"+word+" back to [0-9]+\n$", stdout)
	}
	require.Equal(t, exitOK, server.wait(t), server.errs.String())
	server = listen(t, host, "server2", "--exec", "exit 3", "--count", "1", "fails")
	_, _, code := hvkit(t, "", "vchan", "dial", "--domain", "client", "server2", "fails")
	require.Equal(t, exitOK, code)
	require.Equal(t, exitFailure, server.wait(t))
	require.Equal(t, "hvkit: vchan listen: exit 3: exit status 3\n", server.errs.String())
	awaitGone(t, host, "server", "server2", "client")
}

// A peer that is killed is an error for a command, too, which may else take what it got for all.
func TestExecPeerKilled(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "5000")
	file := filepath.Join(t.TempDir(), "got")
	receive := "cat > " + file + " && mv " + file + " " + file + ".whole"
	receiver := spawn(t, "vchan", "dial", "--domain", "client", "--exec", receive, "server", "5000")
	data := randomBytes(t, 100_000)
	_, err := server.in.Write(data)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		got, _ := os.ReadFile(file)
		return len(got) == len(data)
	}, patient, time.Millisecond)
	require.NoError(t, server.cmd.Process.Kill())
	require.Equal(t, exitFailure, receiver.wait(t))
	require.Regexp(t, "^hvkit: vchan dial: .*connection reset by peer.*\n$", receiver.errs.String())
	require.NoFileExists(t, file+".whole", "the command took what it got for all there was")

	file = filepath.Join(t.TempDir(), "got") // a fresh one
	server = listen(t, host, "server2", "--count", "1", "--exec", "cat > "+file, "5000")
	sender := spawn(t, "vchan", "dial", "--domain", "client2", "server2", "5000")
	_, err = sender.in.Write(data)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		got, _ := os.ReadFile(file)
		return bytes.Equal(got, data)
	}, patient, time.Millisecond)
	require.NoError(t, sender.cmd.Process.Kill())
	require.Equal(t, exitFailure, server.wait(t))
	require.Regexp(t, "^hvkit: vchan listen: .*connection reset by peer.*\n$", server.errs.String())
	awaitGone(t, host, "server", "client", "server2", "client2")
}

// echoServer answers, on a socket, with what it got when that has ended.
func echoServer(t *testing.T, l net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				line := make([]byte, 6)
				if _, err := io.ReadFull(c, line); err == nil {
					c.Write(append([]byte("you said "), line...))
				}
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

func TestProxy(t *testing.T) {
	_, host := startHost(t)
	dir := t.TempDir()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	echoServer(t, tcp)
	unix, err := net.Listen("unix", filepath.Join(dir, "echo.sock"))
	require.NoError(t, err)
	echoServer(t, unix)
	var proxies []*process
	proxy := func(name, from, to string) *process {
		p := spawn(t, "vchan", "proxy", "--timeout", "0", "--domain", name, from, to)
		p.errs.await(t, " -> "+to)
		proxies = append(proxies, p)
		return p
	}
	proxy("tcp-server", "vchan:1", "tcp:"+tcp.Addr().String())
	proxy("unix-server", "vchan:2", "unix:"+unix.Addr().String())
	proxy("unix-client", "unix:"+filepath.Join(dir, "in.sock"), "vchan:tcp-server:1")
	in, _, _ := strings.Cut(proxy("tcp-client", "tcp:127.0.0.1:0", "vchan:unix-server:2").errs.String(), " -> ")
	for _, at := range [][2]string{{"unix", filepath.Join(dir, "in.sock")}, {"tcp", strings.TrimPrefix(in, "tcp:")}} {
		for range 3 {
			c, err := net.Dial(at[0], at[1])
			require.NoError(t, err)
			_, err = io.WriteString(c, "hello\n")
			require.NoError(t, err)
			answer, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, "you said hello\n", string(answer))
			c.Close()
		}
	}
	for _, p := range proxies {
		require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
		require.Equal(t, 130, p.wait(t))
	}
	awaitGone(t, host, "tcp-server", "unix-server", "unix-client", "tcp-client")
}

// A peer that is killed is no orderly end for who is at the other side of a proxy.
func TestProxyPeerKilled(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "5000")
	p := spawn(t, "vchan", "proxy", "--domain", "p", "tcp:127.0.0.1:0", "vchan:server:5000")
	p.errs.await(t, " -> ")
	at, _, _ := strings.Cut(p.errs.String(), " -> ")
	c, err := net.Dial("tcp", strings.TrimPrefix(at, "tcp:"))
	require.NoError(t, err)
	defer c.Close()
	_, err = server.in.Write([]byte("half of an answer"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 4))
	require.NoError(t, err)
	require.NoError(t, server.cmd.Process.Kill())
	_, err = io.ReadAll(c)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	p.cmd.Process.Kill()
	<-p.done
	awaitGone(t, host, "server", "p")
}

// A TCP connection that is reset is no orderly end for the vchan behind the proxy.
func TestProxyClientResets(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "5000")
	p := spawn(t, "vchan", "proxy", "--domain", "p", "tcp:127.0.0.1:0", "vchan:server:5000")
	p.errs.await(t, " -> ")
	at, _, _ := strings.Cut(p.errs.String(), " -> ")
	c, err := net.Dial("tcp", strings.TrimPrefix(at, "tcp:"))
	require.NoError(t, err)
	_, err = io.WriteString(c, "half of a question")
	require.NoError(t, err)
	server.out.await(t, "half of a question")
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
	require.Equal(t, exitFailure, server.wait(t))
	require.Contains(t, server.errs.String(), "connection reset by peer")
	p.cmd.Process.Kill()
	<-p.done
	awaitGone(t, host, "server", "p")
}

// A server that answers and closes before it has read all does not cost the client the answer, though the proxy's writes to it fail.
func TestProxyServerClosesFirst(t *testing.T) {
	_, host := startHost(t)
	server := listen(t, host, "server", "--count", "1", "--exec", "head -c 1 > /dev/null; head -c 300000 /dev/zero", "5000")
	p := spawn(t, "vchan", "proxy", "--domain", "p", "tcp:127.0.0.1:0", "vchan:server:5000")
	p.errs.await(t, " -> ")
	at, _, _ := strings.Cut(p.errs.String(), " -> ")
	c, err := net.Dial("tcp", strings.TrimPrefix(at, "tcp:"))
	require.NoError(t, err)
	defer c.Close()
	said := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, 1<<20))
		said <- err
	}()
	server.wait(t) // whatever it says of what was not read
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Len(t, answer, 300_000)
	require.NoError(t, <-said)
	p.cmd.Process.Kill()
	<-p.done
	awaitGone(t, host, "server", "p")
}

func TestProxyWithNobodyBehind(t *testing.T) {
	_, host := startHost(t)
	at := filepath.Join(t.TempDir(), "in.sock")
	p := spawn(t, "vchan", "proxy", "--domain", "p", "unix:"+at, "vchan:nobody:1")
	p.errs.await(t, " -> ")
	c, err := net.Dial("unix", at)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	p.errs.await(t, "hvkit: vchan proxy: vchan:nobody:1: ")
	p.cmd.Process.Kill()
	<-p.done
	awaitGone(t, host, "p")
}
