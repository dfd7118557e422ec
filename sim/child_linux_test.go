package sim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/selfexec"
	"github.com/hvkit/hvkit/xen"
	"github.com/hvkit/hvkit/xen/evtchn"
	"github.com/hvkit/hvkit/xen/grant"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// childEnv has the test binary be a domain. Its value says what that domain does, and childPeer whom it does it with.
const (
	childEnv  = "HVKIT_SIM_TEST_CHILD"
	childPeer = "HVKIT_SIM_TEST_PEER"
)

// runChild is what the process does if it is such a domain.
func runChild() bool {
	what := os.Getenv(childEnv)
	if what == "" {
		return false
	}
	if err := child(what); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	return true
}

// child joins the host and does what it is told, with the peer's words on standard input and its own on standard output.
func child(what string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := xen.Open(ctx)
	if err != nil {
		return err
	}
	var peer hypercall.DomID
	if _, err := fmt.Sscan(os.Getenv(childPeer), &peer); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	switch what {
	case "give":
		return give(ctx, d, peer, in)
	case "idle":
		fmt.Println(d.ID())
	case "ask": // one hypercall after another, until they fail
		fmt.Println(d.ID())
		for err == nil {
			_, err = hypercallStatus(d)
		}
		return err
	case "echo":
		return echo(ctx, d, peer, in)
	case "share": // whenever it is told to
		fmt.Println(d.ID())
		for {
			if _, err := in.ReadString('\n'); err != nil {
				return nil
			}
			_, err := d.Grants().Share(peer, 1, grant.ReadWrite)
			fmt.Printf("%t %q\n", errors.Is(err, hypercall.EMFILE), fmt.Sprint(err))
		}
	}
	in.ReadString('\n') // until killed, or the test has ended
	return nil
}

func hypercallStatus(d *xen.Domain) (evtchn.Status, error) {
	ch, err := d.Events().BindIPI(0)
	if err != nil {
		return evtchn.Status{}, err
	}
	st, err := ch.Status()
	if err != nil {
		return st, err
	}
	return st, ch.Close()
}

// give shares a page and a channel with the peer, and maps a page of the peer's, each with a byte that is cleared when this domain goes.
func give(ctx context.Context, d *xen.Domain, peer hypercall.DomID, in *bufio.Reader) error {
	s, err := d.Grants().Share(peer, 2, grant.ReadWrite)
	if err != nil {
		return err
	}
	ch, err := d.Events().AllocUnbound(peer)
	if err != nil {
		return err
	}
	s.Region().Store8(4096+7, 1) // alive
	s.Region().CopyIn(0, []byte("still here"))
	if err := s.SetNotify(grant.Notify{ClearByte: true, Offset: 4096 + 7, Port: ch.Port()}); err != nil {
		return err
	}
	fmt.Println(d.ID(), s.Refs()[0], s.Refs()[1], ch.Port())
	var ref grant.Ref
	if _, err := fmt.Fscan(in, &ref); err != nil {
		return err
	}
	m, err := d.Grants().Map(peer, []grant.Ref{ref}, grant.ReadWrite)
	if err != nil {
		return err
	}
	m.Region().Store8(9, 1)
	if err := m.SetNotify(grant.Notify{ClearByte: true, Offset: 9}); err != nil {
		return err
	}
	if err := d.Store().Write(ctx, "data/alive", []byte("yes")); err != nil {
		return err
	}
	fmt.Println("ready")
	in.ReadString('\n')
	in.ReadString('\n')
	return nil
}

// echo answers each event with one, for measuring.
func echo(ctx context.Context, d *xen.Domain, peer hypercall.DomID, in *bufio.Reader) error {
	ch, err := d.Events().AllocUnbound(peer)
	if err != nil {
		return err
	}
	s, err := d.Grants().Share(peer, 256, grant.ReadWrite)
	if err != nil {
		return err
	}
	fmt.Println(d.ID(), ch.Port(), s.Refs()[0])
	go func() {
		in.ReadString('\n')
		os.Exit(0)
	}()
	for {
		if err := ch.Wait(context.Background()); err != nil {
			return err
		}
		if err := ch.Notify(); err != nil {
			return err
		}
	}
}

// process is a child of the test.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *os.File
	out *bufio.Reader
}

// startChild starts a process that joins the host as a domain, by a token or, if that is "", by name.
func startChild(t testing.TB, socket, token, what string, peer hypercall.DomID) *process {
	t.Helper()
	inR, inW, err := os.Pipe()
	require.NoError(t, err)
	outR, outW, err := os.Pipe()
	require.NoError(t, err)
	cmd, err := selfexec.Command(context.Background())
	require.NoError(t, err)
	cmd.Env = append(os.Environ(), childEnv+"="+what, fmt.Sprintf("%s=%d", childPeer, peer),
		xen.EnvHost+"="+socket, xen.EnvToken+"="+token, xen.EnvDomain+"=child")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, os.Stderr
	require.NoError(t, cmd.Start())
	inR.Close()
	outW.Close()
	p := &process{t, cmd, inW, bufio.NewReader(outR)}
	t.Cleanup(func() {
		p.kill()
		inW.Close()
		outR.Close()
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// line reads what the process says.
func (p *process) line(args ...any) {
	p.t.Helper()
	text, err := p.out.ReadString('\n')
	require.NoError(p.t, err, "the process said %q", text)
	_, err = fmt.Sscan(text, args...)
	require.NoError(p.t, err, "the process said %q", text)
}

func (p *process) say(args ...any) {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, args...)
	require.NoError(p.t, err)
}
