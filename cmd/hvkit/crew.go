package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hvkit/hvkit/internal/selfexec"
	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/xen"
)

// crew is a host in this process, and workers: domains in processes of their own.
type crew struct {
	host    *sim.Host
	dir     string // temporary
	socket  string
	stderr  io.Writer
	members []*member
	served  chan error
	ctx     context.Context // kills the workers when it ends
	stop    context.CancelFunc
}

// newCrew starts the host. Close it after use.
func newCrew(ctx context.Context, stderr io.Writer) (*crew, error) {
	if err := needLinux(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hvkit-")
	if err != nil {
		return nil, err
	}
	c := &crew{dir: dir, socket: filepath.Join(dir, "host.sock"), stderr: stderr, served: make(chan error, 1)}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: c.socket, Net: "unixpacket"})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.host = sim.NewHost(&sim.HostConfig{Shared: true})
	c.ctx, c.stop = context.WithCancel(ctx)
	go func() { c.served <- c.host.Serve(c.ctx, l, nil) }()
	return c, nil
}

// close ends the workers and the host, and waits for them.
func (c *crew) close() {
	for _, m := range c.members {
		m.dismiss()
	}
	c.stop()
	<-c.served
	c.host.Close()
	os.RemoveAll(c.dir)
}

// leaks returns what domains have not given back. Those who die do it in their own time, so it waits a while for the list to be empty.
func (c *crew) leaks() []string {
	for end := time.Now().Add(leakPatience); ; time.Sleep(time.Millisecond) {
		leaks := c.host.Leaks()
		if len(leaks) == 0 || time.Now().After(end) {
			return leaks
		}
	}
}

const leakPatience = 2 * time.Second

// member is one worker, as its parent sees it.
type member struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	jobs    *json.Encoder
	results *json.Decoder
}

// dismissal is how long a worker may take to end by itself.
const dismissal = 5 * time.Second

// token makes a domain for a process to claim.
func (c *crew) token(name string) (string, error) {
	d, err := c.host.NewDomain(&sim.DomainConfig{Name: name, External: true})
	if err != nil {
		return "", err
	}
	return d.Token(), nil
}

// hire makes a domain, and a process that is it, and waits until it has joined the host.
func (c *crew) hire(name string) (*member, error) {
	token, err := c.token(name)
	if err != nil {
		return nil, err
	}
	cmd, err := selfexec.Command(c.ctx, "worker")
	if err != nil {
		return nil, err
	}
	m := &member{name: name, cmd: cmd}
	m.cmd.Env = append(withoutHost(os.Environ()), xen.EnvHost+"="+c.socket, xen.EnvToken+"="+token)
	m.cmd.Stderr = c.stderr
	dieWithParent(m.cmd)
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	m.jobs, m.results = json.NewEncoder(m.in), json.NewDecoder(out)
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process for domain %q: %w", name, err)
	}
	c.members = append(c.members, m)
	if _, err := m.await(nil); err != nil {
		return nil, err
	}
	return m, nil
}

// withoutHost removes the variables of this module.
func withoutHost(env []string) []string {
	var out []string
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		if name != xen.EnvHost && name != xen.EnvToken && name != xen.EnvDomain {
			out = append(out, v)
		}
	}
	return out
}

// do has the worker do a job and waits for what comes out. progress, which may be nil, is called with what is reported meanwhile.
func (m *member) do(j job, progress func(int64)) (result, error) {
	if err := m.jobs.Encode(j); err != nil {
		return result{}, fmt.Errorf("domain %q: %w", m.name, err)
	}
	r, err := m.await(progress)
	if err != nil {
		return r, fmt.Errorf("%s: %w", j.Do, err)
	}
	return r, nil
}

func (m *member) await(progress func(int64)) (result, error) {
	for {
		var r result
		err := m.results.Decode(&r)
		switch {
		case err != nil:
			return r, fmt.Errorf("domain %q: its process has ended (%w)", m.name, err)
		case r.Err != "":
			return r, fmt.Errorf("domain %q: %s", m.name, r.Err)
		case r.Done:
			return r, nil
		case progress != nil:
			progress(r.Bytes)
		}
	}
}

// both has two workers do a job each, at once. It returns when one has failed: the other one may wait for it in vain.
func both(a *member, ja job, pa func(int64), b *member, jb job, pb func(int64)) (ra, rb result, err error) {
	type outcome struct {
		r   result
		err error
	}
	first, second := make(chan outcome, 1), make(chan outcome, 1)
	start := func(m *member, j job, p func(int64), to chan<- outcome) {
		r, err := m.do(j, p)
		to <- outcome{r, err}
	}
	go start(a, ja, pa, first)
	go start(b, jb, pb, second)
	for range 2 {
		var o outcome
		select {
		case o = <-first:
			ra = o.r
		case o = <-second:
			rb = o.r
		}
		if o.err != nil {
			return ra, rb, o.err
		}
	}
	return ra, rb, nil
}

// dismiss has the worker end in order, or else kills it.
func (m *member) dismiss() {
	m.in.Close()
	timer := time.AfterFunc(dismissal, func() { m.cmd.Process.Kill() })
	defer timer.Stop()
	m.reap()
}

// reap waits for the end of the process. It may be called again.
func (m *member) reap() {
	if m.cmd.ProcessState == nil {
		m.cmd.Wait()
	}
}
