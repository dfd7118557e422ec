package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/hvkit/hvkit/internal/testbed/guest"
	"golang.org/x/sys/unix"
)

// mountAll mounts what programs expect. Xen's file system comes with a module, later.
func mountAll() error {
	for _, m := range []struct{ kind, dir, data string }{
		{"devtmpfs", "/dev", "mode=0755"},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"debugfs", "/sys/kernel/debug", ""},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.data); err != nil && m.kind != "debugfs" {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.dir, err)
		}
	}
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
		"/var/run": "/run", "/var/lock": "/run/lock", "/etc/mtab": "/proc/self/mounts",
	} {
		if err := os.Symlink(to, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// prepare loads modules and does the rest of what a distribution's init does.
func prepare(cfg *guest.Config) error {
	for _, dir := range []string{
		"/run/lock", "/run/xen", "/run/xenstored", "/var/log/xen/console", "/var/lib/xen", "/var/lib/xenstored", "/root",
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, m := range cfg.Modules {
		if err := load(m); err != nil {
			return err
		}
	}
	// Without Xen there is nothing to mount.
	if err := unix.Mount("xenfs", "/proc/xen", "xenfs", 0, ""); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount xenfs on /proc/xen: %w", err)
	}
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return err
	}
	return loopbackUp()
}

// load gives the kernel a module. Where there is no device for it, or it is there already, that is fine.
func load(m guest.Module) error {
	f, err := os.Open(m.Path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = unix.FinitModule(int(f.Fd()), m.Parameters, 0)
	if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("load %s: %w", m.Path, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("start the loopback interface: %w", err)
	}
	return nil
}

// openChannel opens the agent's channel, which may take the kernel a moment to find.
func openChannel(name string) (conn net.Conn, err error) {
	err = await(func() error {
		conn, err = guest.OpenChannel(name)
		return err
	})
	if err != nil {
		ports, _ := filepath.Glob("/sys/class/virtio-ports/*")
		return nil, fmt.Errorf("the agent's channel (of ports %q): %w", ports, err)
	}
	return conn, nil
}
