package vchan_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/hypercall"
	"github.com/hvkit/hvkit/xen/vchan"
	"github.com/hvkit/hvkit/xen/vchan/vchantest"
)

var (
	rounds = flag.Int("vchan.rounds", 3, "how often each end of a connection with libxenvchan is closed or killed, at random times")
	seed   = flag.Uint64("vchan.seed", 1, "of those times")
	flood  = flag.String("vchan.flood", "", "what TestLinuxFlood is: server or client")
)

const floodPath = "/local/domain/0/data/hvkit-flood"

// TestLinuxFlood is a process that writes and reads as much as it can, until the connection ends or its input does.
func TestLinuxFlood(t *testing.T) {
	if *flood == "" {
		t.Skip("TestLinuxEndsWithLibxenvchan starts it")
	}
	d, err := xen.Open(t.Context())
	require.NoError(t, err)
	defer func() {
		st := d.Grants().Stats()
		require.Zero(t, st.Shared+st.Mapped+st.Leaked, "%+v", st)
		require.NoError(t, d.Close())
	}()
	c := floodConn(t, d)
	c.SetLinger(0)
	fmt.Println("flood: connected")
	var others sync.WaitGroup
	defer others.Wait()
	others.Go(func() {
		_, _ = io.Copy(struct{ io.Writer }{io.Discard}, os.Stdin)
		_ = c.Close()
	})
	others.Go(func() { _, _ = io.Copy(struct{ io.Writer }{c}, rand.NewChaCha8([32]byte{})) })
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, c)
	fmt.Println("flood: ended after", n, err)
	_ = c.Close()
}

func floodConn(t *testing.T, d *xen.Domain) *vchan.Conn {
	if *flood == "client" {
		c, err := vchan.DialPath(t.Context(), d, "0", floodPath, nil)
		require.NoError(t, err)
		return c
	}
	l, err := vchan.ListenPath(t.Context(), d, "0", floodPath, nil)
	require.NoError(t, err)
	defer l.Close()
	fmt.Println("flood: listens")
	c, err := l.AcceptVchan()
	require.NoError(t, err)
	return c
}

// flooder is a process that runs TestLinuxFlood.
type flooder struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string

	mu sync.Mutex
	// +checklocks:mu
	said []string
}

func startFlood(t *testing.T, role string) *flooder {
	t.Helper()
	f := &flooder{cmd: exec.Command(os.Args[0], "-test.run=^TestLinuxFlood$", "-vchan.flood="+role), lines: make(chan string, 100)}
	var err error
	f.stdin, err = f.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := f.cmd.StdoutPipe()
	require.NoError(t, err)
	f.cmd.Stderr = os.Stderr
	require.NoError(t, f.cmd.Start())
	go func() {
		defer close(f.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			f.add(s.Text())
			f.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait()
		if t.Failed() {
			f.mu.Lock()
			defer f.mu.Unlock()
			t.Logf("our %s said:\n%s", role, strings.Join(f.said, "\n"))
		}
	})
	return f
}

func (f *flooder) add(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, line)
}

// ended waits for the process to end well.
func (f *flooder) ended(t *testing.T) {
	t.Helper()
	require.NoError(t, f.stdin.Close())
	for range f.lines {
	}
	require.NoError(t, f.cmd.Wait())
}

// says waits for a line that begins so.
func (f *flooder) says(t *testing.T, begin string) {
	t.Helper()
	deadline := time.After(vchantest.Patience)
	for {
		select {
		case line, ok := <-f.lines:
			require.True(t, ok, "the process ended before it said %q", begin)
			if strings.HasPrefix(line, begin) {
				return
			}
		case <-deadline:
			require.FailNow(t, "the process does not say "+begin)
		}
	}
}

// TestLinuxEndsWithLibxenvchan: data goes both ways as fast as it can, and at some time one end closes or is killed. The other sees the
// end, and Xen's tables hold what they held before.
func TestLinuxEndsWithLibxenvchan(t *testing.T) {
	d := needProxy(t)
	if os.Getenv("HVKIT_TESTBED_INSIDE") != "dom0" {
		t.Skip("only dom0 has C's program")
	}
	times := rand.New(rand.NewPCG(*seed, 0))
	before := xenTables(t)
	for _, ours := range []string{"server", "client"} {
		for _, event := range []string{"we close", "we are killed", "they close", "they are killed"} {
			t.Run("our "+ours+", "+event, func(t *testing.T) {
				for range *rounds {
					endOnce(t, int(d.ID()), ours, event, time.Duration(times.Int64N(int64(300*time.Millisecond))))
				}
			})
		}
	}
	require.Eventually(t, func() bool { return xenTables(t) == before }, vchantest.Patience, 100*time.Millisecond,
		"before there were %+v", before)
}

func endOnce(t *testing.T, dom int, ours, event string, after time.Duration) {
	var p *proxy
	var f *flooder
	if ours == "server" {
		f = startFlood(t, ours)
		f.says(t, "flood: listens")
		p = startProxy(t, "client", dom, floodPath)
	} else {
		p = startProxy(t, "server", dom, floodPath)
		f = startFlood(t, ours)
	}
	if event != "they close" { // C's program, when it has bytes to send at the end of its input, may wait for an event that nobody owes it
		go func() { _, _ = io.Copy(struct{ io.Writer }{p.stdin}, rand.NewChaCha8([32]byte{})) }()
	}
	go func() { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, p.stdout) }()
	f.says(t, "flood: connected")
	<-time.After(after) // the moment is the test's input, and not for anything to happen
	switch event {
	case "we close":
		f.ended(t)
		p.ended(t)
	case "we are killed":
		require.NoError(t, f.cmd.Process.Kill())
		p.ended(t)
	case "they close":
		require.NoError(t, p.stdin.Close())
		f.says(t, "flood: ended")
		f.ended(t)
	case "they are killed":
		require.NoError(t, p.cmd.Process.Kill())
		f.says(t, "flood: ended")
		f.ended(t)
	}
}

// tables are how many of Xen's entries dom0 uses.
type tables struct{ ports, grants int }

// activeGrant is a line of Xen's list of grants that somebody has mapped: "(XEN) [0x008]      0 0x000123 0x00000001 ...".
var activeGrant = regexp.MustCompile(`(?m)^\(XEN\) \[\s*(0x)?[0-9a-f]+\]`)

// xenTables asks Xen: for the status of each port, and for its list of grants, which it writes to its console.
func xenTables(t *testing.T) (all tables) {
	c, err := hypercall.OpenPrivcmd()
	require.NoError(t, err)
	defer c.Close()
	for port := hypercall.Port(1); port < 1024; port++ {
		if st, err := hypercall.PortStatus(c, hypercall.DomSelf, port); err == nil && st.State != hypercall.EvtchnClosed {
			all.ports++
		}
	}
	require.NoError(t, exec.Command("xl", "debug-keys", "g").Run())
	out, err := exec.Command("xl", "dmesg").Output()
	require.NoError(t, err)
	_, list, found := cutLast(string(out), "gnttab_usage_print_all [")
	require.True(t, found, "Xen lists no grants")
	all.grants = len(activeGrant.FindAllString(list, -1))
	return all
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
