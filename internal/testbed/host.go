package testbed

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/hvkit/hvkit/internal/testbed/monitor"
)

// bootPatience bounds a boot. It is many times what one takes where nothing else runs.
const bootPatience = 5 * time.Minute

// Config is what a host may be told.
type Config struct {
	// Cache has the packages; nil is OpenCache's.
	Cache *Cache
	// Log takes a line for each slow thing that is done; nil is nobody.
	Log io.Writer
	// Console takes what the machine's serial console says, as it says it; nil is nobody. Host.Console has its end in any case.
	Console io.Writer
	// Fresh has the host boot even if there is a snapshot of it, and make none.
	Fresh bool
}

// Host is a machine that runs. It is safe for concurrent use.
type Host struct {
	recipe       *Recipe
	config       Config
	dir          string
	files        []string // that the machine boots from
	snapshotFile string
	qemu         *process
	monitor      *monitor.Monitor
	console      *tail
	serial       net.Conn
	dom0         *Domain
	stop         context.CancelFunc

	closeOnce sync.Once

	mu sync.Mutex
	// +checklocks:mu
	domains map[string]*Domain // by name
	// +checklocks:mu
	created int // domains, for their names
}

// Boot boots a host. It ends with Close, with ctx, and with this process.
func Boot(ctx context.Context, r *Recipe, cfg *Config) (_ *Host, err error) {
	h := &Host{recipe: r, console: newTail(64 << 10), domains: make(map[string]*Domain)}
	if cfg != nil {
		h.config = *cfg
	}
	if h.config.Log == nil {
		h.config.Log = io.Discard
	}
	if h.config.Console == nil {
		h.config.Console = io.Discard
	}
	if h.config.Cache == nil {
		if h.config.Cache, err = OpenCache(); err != nil {
			return nil, err
		}
	}
	ctx, h.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	if h.dir, err = os.MkdirTemp("", "hvkit-testbed-*"); err != nil {
		return nil, err
	}
	args, err := h.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.boot(ctx, args); err != nil {
		return nil, fmt.Errorf("%w%s", err, h.Evidence())
	}
	// QEMU has read its files. So nothing is left of them even if nobody calls Close.
	return h, os.RemoveAll(h.dir)
}

// prepare makes the files that QEMU starts from and returns the arguments that name them.
func (h *Host) prepare(ctx context.Context) ([]string, error) {
	r, c := h.recipe, h.config.Cache
	tree, err := c.tree(ctx, r.packages(), h.config.Log)
	if err != nil {
		return nil, err
	}
	kernel, err := h.unpack("kernel", tree, r.Kernel)
	if err != nil {
		return nil, err
	}
	initBin := filepath.Join(h.dir, "init")
	if err := buildInit(ctx, r.Arch, initBin); err != nil {
		return nil, err
	}
	im, err := r.controlImage(tree, initBin)
	if err != nil {
		return nil, err
	}
	if len(r.Domains) > 0 {
		if err := r.addDomainImage(im, kernel, initBin); err != nil {
			return nil, err
		}
	}
	initrd := filepath.Join(h.dir, "initrd")
	f, err := os.Create(initrd)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(im.write(f), f.Close()); err != nil {
		return nil, err
	}
	words := []string{"{kernel}", kernel, "{kernel-line}", r.KernelLine, "{initrd}", initrd, "{hypervisor-line}", r.HypervisorLine}
	if r.Hypervisor != "" {
		hypervisor, err := h.unpack("hypervisor", tree, r.Hypervisor)
		if err != nil {
			return nil, err
		}
		words = append(words, "{hypervisor}", hypervisor)
		h.files = append(h.files, hypervisor)
	}
	h.files = append(h.files, kernel, initrd)
	fill := strings.NewReplacer(words...)
	var args []string
	for _, a := range r.Boot {
		args = append(args, fill.Replace(a))
	}
	return args, nil
}

// unpack returns a file of the tree, or if that is compressed, another file that is not.
func (h *Host) unpack(name, tree, pattern string) (string, error) {
	p, err := one(tree, pattern)
	if err != nil {
		return "", err
	}
	from, to := filepath.Join(tree, p), filepath.Join(h.dir, name)
	err = gunzip(to, from)
	if errors.Is(err, gzip.ErrHeader) {
		return from, nil
	}
	return to, err
}

// controlImage is the control domain's.
func (r *Recipe) controlImage(tree, initBin string) (*image, error) {
	im, err := newImage(tree)
	if err != nil {
		return nil, err
	}
	for _, pattern := range r.Programs {
		names, err := match(tree, pattern)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if err := im.program(n); err != nil {
				return nil, err
			}
		}
	}
	for _, pattern := range r.Tools {
		names, err := match(tree, pattern)
		if err != nil {
			continue
		}
		for _, n := range names {
			if err := im.program(n); err != nil {
				return nil, err
			}
		}
	}
	for _, pattern := range r.Files {
		names, err := match(tree, pattern)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if _, err := im.file(n); err != nil {
				return nil, err
			}
		}
	}
	im.shell()
	cfg := &guest.Config{Hostname: "dom0", Channel: "virtio:agent"}
	searched := searchPath
	for _, s := range r.Control {
		p, err := one(tree, s.Path)
		if err != nil {
			return nil, err
		}
		s.Path = "/" + p
		if !strings.Contains(searched, path.Dir(s.Path)) {
			searched = path.Dir(s.Path) + ":" + searched
		}
		if !r.Idle {
			cfg.Control = append(cfg.Control, s)
		}
	}
	cfg.Env = guestEnvironment(searched)
	var libs []string
	for _, l := range im.libs {
		libs = append(libs, "/"+l)
	}
	im.text("etc/ld.so.conf", strings.Join(libs, "\n")+"\n")
	if cfg.Modules, err = im.modules(r.Modules); err != nil {
		return nil, err
	}
	if err := im.config(cfg); err != nil {
		return nil, err
	}
	return im, im.host("init", initBin, 0o755)
}

// addDomainImage adds what domains boot from to the control domain's image.
func (r *Recipe) addDomainImage(control *image, kernel, initBin string) error {
	im, err := newImage(control.tree)
	if err != nil {
		return err
	}
	cfg := &guest.Config{Hostname: "domu", Env: guestEnvironment(searchPath), Channel: "/dev/hvc0"}
	if cfg.Modules, err = im.modules(r.DomainModules); err != nil {
		return err
	}
	im.shell()
	err = errors.Join(im.config(cfg), im.program("bin/busybox"), im.host("init", initBin, 0o755))
	if err != nil {
		return err
	}
	b, err := im.bytes()
	if err != nil {
		return err
	}
	control.text(DomainImage[1:], string(b))
	return control.host(DomainKernel[1:], kernel, 0o644)
}

const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

func guestEnvironment(searched string) []string {
	return []string{"HOME=/root", "TERM=linux", "TMPDIR=/tmp", "PATH=" + searched}
}

// buildInit builds the guests' process 1. The same source gives the same file, and so the same snapshot.
func buildInit(ctx context.Context, arch, out string) error {
	return goBuild(ctx, arch, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out,
		"github.com/hvkit/hvkit/internal/testbed/guestinit")
}

// goBuild runs the go command for a guest: Linux, of that architecture, without C.
func goBuild(ctx context.Context, arch string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = guestEnv(arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("testbed: go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func guestEnv(arch string) []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
}

func gunzip(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Close())
}

// boot starts QEMU, restores a snapshot or waits until the guest has booted, and makes a snapshot of that.
func (h *Host) boot(ctx context.Context, args []string) error {
	e, err := h.config.Cache.findEmulator(ctx, h.recipe.QEMU, h.config.Log)
	if err != nil {
		return err
	}
	all := append([]string{
		"-nodefaults", "-display", "none", "-no-reboot", "-nic", "none", "-m", strconv.Itoa(h.recipe.Memory),
		"-chardev", "socket,id=serial,fd=3", "-serial", "chardev:serial",
		"-chardev", "socket,id=agent,fd=4",
		"-chardev", "socket,id=monitor,fd=5", "-mon", "chardev=monitor,mode=control",
	}, h.recipe.Machine...)
	all = append(append(all, h.recipe.Port...), args...)
	if h.config.Fresh {
		return h.launch(ctx, e, all, "")
	}
	if h.snapshotFile, err = h.snapshot(e, slices.Clone(all), h.files); err != nil {
		return err
	}
	if _, err := os.Stat(h.snapshotFile); err == nil {
		now := time.Now()
		_ = os.Chtimes(h.snapshotFile, now, now) // it is of use still
		err := h.launch(ctx, e, all, h.snapshotFile)
		if err == nil || ctx.Err() != nil {
			return err
		}
		fmt.Fprintf(h.config.Log, "testbed: the snapshot is of no use, so the host boots: %v\n", err)
		_ = os.Remove(h.snapshotFile)
		h.halt()
		h.dom0, h.monitor, h.qemu, h.serial = nil, nil, nil, nil
	}
	return h.launch(ctx, e, all, "")
}

// launch starts QEMU, with a snapshot or without, and connects to what runs there.
func (h *Host) launch(ctx context.Context, e *emulator, args []string, snapshot string) error {
	wait, cancel := context.WithTimeoutCause(ctx, bootPatience, fmt.Errorf("not ready after %v", bootPatience))
	defer cancel()
	ours, theirs, err := socketPairs(3)
	if err != nil {
		return err
	}
	defer closeAll(theirs)
	if snapshot != "" {
		f, err := os.Open(snapshot)
		if err != nil {
			return errors.Join(err, ours[0].Close(), ours[1].Close(), ours[2].Close())
		}
		theirs = append(theirs, f)
		args = append(slices.Clone(args), "-incoming", "fd:6")
	}
	h.serial = ours[0]
	agent := ours[1]
	defer func() {
		if h.dom0 == nil {
			_ = agent.Close()
		}
	}()
	if h.qemu, err = e.start(ctx, args, theirs); err != nil {
		return errors.Join(err, ours[2].Close())
	}
	go func() { _, _ = io.Copy(io.MultiWriter(h.console, h.config.Console), ours[0]) }()
	go func() {
		select {
		case <-h.qemu.done:
			cancel()
		case <-wait.Done():
		}
	}()
	if h.monitor, err = monitor.New(wait, ours[2], nil); err != nil {
		return h.ended(err)
	}
	if err := h.connect(wait, agent, snapshot != ""); err != nil {
		return h.ended(err)
	}
	return nil
}

// restorePatience bounds how long a restored host takes to answer.
const restorePatience = time.Minute

// connect waits for the control domain's agent, makes a snapshot where there is to be one, and connects to the agent. The snapshot has
// the agent as it waits for its first request, so that one who restores it may send that.
func (h *Host) connect(ctx context.Context, agent net.Conn, restored bool) error {
	if restored {
		var cancel func()
		ctx, cancel = context.WithTimeoutCause(ctx, restorePatience, fmt.Errorf("no answer in %v", restorePatience))
		defer cancel()
		if err := h.resume(ctx); err != nil {
			return err
		}
	} else {
		ready, err := guest.Await(ctx, agent)
		if err != nil {
			return err
		}
		agent = ready
		if h.snapshotFile != "" {
			if err := h.save(ctx, h.snapshotFile); err != nil {
				fmt.Fprintf(h.config.Log, "testbed: no snapshot: %v\n", err) // the next host boots, too
			}
		}
	}
	client := guest.NewClient(agent, nil)
	if err := client.Wake(ctx); err != nil {
		return errors.Join(err, client.Close())
	}
	h.dom0 = &Domain{Client: client, host: h, name: "dom0", kind: "dom0"}
	h.enter("dom0", h.dom0)
	return nil
}

// ended says that QEMU has ended, if that is why something failed.
func (h *Host) ended(err error) error {
	select {
	case <-h.qemu.done:
		return fmt.Errorf("testbed: QEMU has ended: %w", h.qemu.err)
	default:
		return err
	}
}

// Domains are the control domain and those that were created and not destroyed, by name.
func (h *Host) Domains() []*Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*Domain
	for _, name := range slices.Sorted(maps.Keys(h.domains)) {
		all = append(all, h.domains[name])
	}
	return all
}

// Domain returns the domain of that name, or nil.
func (h *Host) Domain(name string) *Domain {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.domains[name]
}

// enter makes a domain known, or with nil forgotten.
func (h *Host) enter(name string, d *Domain) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d == nil {
		delete(h.domains, name)
		return
	}
	h.domains[name] = d
}

// newName returns a name for a domain of that kind.
func (h *Host) newName(kind string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.created++
	return kind + strconv.Itoa(h.created)
}

// Run runs a program of this machine in the domain of that name, and returns what it wrote to both its outputs.
func (h *Host) Run(ctx context.Context, domain, binary string, args ...string) ([]byte, error) {
	d := h.Domain(domain)
	if d == nil {
		return nil, fmt.Errorf("testbed: there is no domain %q", domain)
	}
	var out bytes.Buffer
	err := d.RunBinary(ctx, &Binary{Path: binary}, &guest.Cmd{Args: args, Stdout: &out, Stderr: &out})
	return out.Bytes(), err
}

// Dom0 is the control domain.
func (h *Host) Dom0() *Domain { return h.dom0 }

// Console returns the end of what the machine's serial console said.
func (h *Host) Console() string { return h.console.String() }

// evidencePatience bounds the collection of evidence from a host that may be beyond answering.
const evidencePatience = 10 * time.Second

// Evidence is what a failure's report should have: what QEMU said, the end of the machine's console, and what the kernels that still answer
// have said last.
func (h *Host) Evidence() string {
	ctx, cancel := context.WithTimeout(context.Background(), evidencePatience)
	defer cancel()
	var b strings.Builder
	section := func(title, text string) {
		if text = strings.TrimSpace(text); text != "" {
			fmt.Fprintf(&b, "\n--- %s:\n%s", title, lastLines(text, 40))
		}
	}
	if h.qemu != nil {
		section("QEMU", h.qemu.stderr.String())
	}
	section("the console", h.Console())
	for _, d := range h.Domains() {
		if d.console != nil {
			section("the console of "+d.name, d.Console())
		}
		if text, err := d.Output(ctx, "busybox", "dmesg"); err == nil {
			section("the kernel of "+d.name, text)
		}
	}
	return b.String()
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// halt ends the machine.
func (h *Host) halt() {
	if h.dom0 != nil {
		_ = h.dom0.Close()
	}
	if h.monitor != nil {
		_ = h.monitor.Disconnect()
	}
	if h.qemu != nil {
		h.qemu.kill()
	}
	if h.serial != nil {
		_ = h.serial.Close()
	}
}

// Close ends the machine and removes what it left. It may be called again.
func (h *Host) Close() {
	h.closeOnce.Do(func() {
		h.stop()
		h.halt()
		if h.dir != "" {
			_ = os.RemoveAll(h.dir)
		}
	})
}
