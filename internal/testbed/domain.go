package testbed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hvkit/hvkit/internal/testbed/guest"
)

// Where the control domain's image has what domains boot from.
const (
	DomainKernel = "/boot/vmlinuz"
	DomainImage  = "/boot/initrd"
)

// startPatience bounds how long a domain may take to start. It is many times what one takes where nothing else runs.
const startPatience = 5 * time.Minute

// Domain is a virtual machine of a host, or the one that controls the others. It is safe for concurrent use.
type Domain struct {
	*guest.Client
	host    *Host
	name    string
	kind    string
	id      int
	console *tail // nil for the control domain, which has the host's

	destroyOnce sync.Once
	destroyErr  error
}

// Name is the domain's name: "dom0" of the control domain.
func (d *Domain) Name() string { return d.name }

// Kind is "dom0", or one of the recipe's kinds of domains.
func (d *Domain) Kind() string { return d.kind }

// ID is the domain's number.
func (d *Domain) ID() int { return d.id }

// Arch is the domain's architecture.
func (d *Domain) Arch() string { return d.host.recipe.Arch }

// Console returns the end of what the domain's console said. The agent's part of it is left out: lines that are not text.
func (d *Domain) Console() string {
	if d.console == nil {
		return d.host.Console()
	}
	var b strings.Builder
	for line := range strings.Lines(d.console.String()) {
		line = strings.TrimRight(line, "\r\n")
		if utf8.ValidString(line) && strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' }) < 0 {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// DomainConfig is what a new domain is like.
type DomainConfig struct {
	// Name is the domain's. Default: its kind and a number.
	Name string
	// Kind is one of the recipe's.
	Kind string
	// Memory in MiB. Default 256.
	Memory int
	// VCPUs is how many processors it has. Default 1.
	VCPUs int
	// Lines are added to xl's configuration.
	Lines []string
}

// Create creates a domain and waits until its agent answers. It ends with Destroy, or with the host.
func (h *Host) Create(ctx context.Context, cfg *DomainConfig) (*Domain, error) {
	c := *cfg
	lines, ok := h.recipe.Domains[c.Kind]
	if !ok {
		return nil, fmt.Errorf("testbed: %s has no domains of kind %q; it has %q", h.recipe.Name, c.Kind,
			slices.Sorted(maps.Keys(h.recipe.Domains)))
	}
	if c.Name == "" {
		c.Name = h.newName(c.Kind)
	}
	if c.Memory == 0 {
		c.Memory = 256
	}
	if c.VCPUs == 0 {
		c.VCPUs = 1
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("not ready after %v", startPatience))
	defer cancel()
	d := &Domain{host: h, name: c.Name, kind: c.Kind, console: newTail(64 << 10)}
	if err := h.start(ctx, d, &c, lines); err != nil {
		_ = d.Destroy(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("testbed: create %s: %w\n--- its console:\n%s\n---", c.Name, err, d.Console())
	}
	return d, nil
}

// start has xl create the domain, and dials its agent.
func (h *Host) start(ctx context.Context, d *Domain, c *DomainConfig, kind []string) error {
	config := append([]string{
		fmt.Sprintf("name = %q", c.Name), fmt.Sprintf("kernel = %q", DomainKernel), fmt.Sprintf("ramdisk = %q", DomainImage),
		fmt.Sprintf("memory = %d", c.Memory), fmt.Sprintf("vcpus = %d", c.VCPUs),
		`extra = "console=hvc0 quiet panic=1"`, `on_reboot = "destroy"`,
	}, kind...)
	file := "/run/" + c.Name + ".cfg"
	text := strings.Join(append(config, c.Lines...), "\n") + "\n"
	if err := h.dom0.Put(ctx, file, 0o644, strings.NewReader(text)); err != nil {
		return err
	}
	if _, err := h.dom0.Output(ctx, "xl", "create", "-q", file); err != nil {
		return err
	}
	out, err := h.dom0.Output(ctx, "xl", "domid", c.Name)
	if err != nil {
		return err
	}
	if d.id, err = strconv.Atoi(out); err != nil {
		return fmt.Errorf("xl domid: %w", err)
	}
	tty, err := h.consoleOf(ctx, d.id)
	if err != nil {
		return err
	}
	pipe, err := h.dom0.Pipe(ctx, tty)
	if err != nil {
		return err
	}
	via := &guest.Via{Client: h.dom0.Client, Self: h.dom0.id, Dom: d.id}
	ready, err := guest.Await(ctx, &teeConn{pipe, io.TeeReader(pipe, d.console)})
	if err != nil {
		return err
	}
	h.enter(d.name, d)
	d.Client = guest.NewClient(ready, &guest.ClientConfig{Console: true, Via: via})
	return d.Wake(ctx) // Xen's clock stands still while its host is a snapshot
}

// teeConn is a connection whose input is also written elsewhere.
type teeConn struct {
	net.Conn
	r io.Reader
}

func (c *teeConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// consoleOf waits for the pseudo-terminal that xenconsoled makes for a domain's console.
func (h *Host) consoleOf(ctx context.Context, id int) (string, error) {
	node := fmt.Sprintf("/local/domain/%d/console/tty", id)
	for {
		out, err := h.dom0.Output(ctx, "xenstore-read", node)
		if err == nil && out != "" {
			return out, nil
		}
		if _, ok := errors.AsType[*guest.ExitError](err); err != nil && !ok {
			return "", err // the node is not what is missing
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for %s: %w", node, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Destroy ends the domain at once, as xl destroy does. It may be called again.
func (d *Domain) Destroy(ctx context.Context) error {
	if d == d.host.dom0 {
		return fmt.Errorf("testbed: dom0 ends with its host: %w", fs.ErrInvalid)
	}
	d.destroyOnce.Do(func() {
		if d.Client != nil {
			_ = d.Close()
		}
		d.host.enter(d.name, nil)
		_, d.destroyErr = d.host.dom0.Output(ctx, "xl", "destroy", d.name)
	})
	return d.destroyErr
}
