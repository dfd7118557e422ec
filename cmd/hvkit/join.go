package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hvkit/hvkit/xen"
)

// hostFlags name the simulated host.
type hostFlags struct {
	Host string `env:"HVKIT_HOST" default:"${hostsocket}" placeholder:"PATH" help:"Socket of the simulated host (${env}; ${default})."`
}

// joinFlags say which domain of which host a command is.
type joinFlags struct {
	hostFlags
	Domain string `env:"HVKIT_DOMAIN" placeholder:"NAME" help:"Join the host as a new domain of this name (${env})."`
	Token  string `env:"HVKIT_TOKEN" placeholder:"TOKEN" help:"Join the host as the domain that the token claims (${env})."`
}

// join makes this process a domain of the host. Close the domain after use.
func (f *joinFlags) join(ctx context.Context) (*xen.Domain, error) {
	d, err := xen.Join(ctx, f.Host, f.Token, f.Domain, nil)
	if err == nil {
		return d, nil
	}
	if absentSocket(err) {
		return nil, &nobodyError{"no simulated host at " + f.Host + " (start one with 'hvkit host')", lastCause(err)}
	}
	return nil, err
}

// within returns a context that ends after the time, or with ctx where that is 0: a --timeout of 0 waits for ever.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// absentSocket reports whether nobody serves a socket.
func absentSocket(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// lastCause returns the innermost error of a chain: the operating system's.
func lastCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// defaultHostSocket returns where hosts are served and looked for when nobody says otherwise: a directory of the user's own.
func defaultHostSocket() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "hvkit", "host.sock")
	}
	return filepath.Join(os.TempDir(), "hvkit-"+strconv.Itoa(os.Getuid()), "host.sock")
}

// storeSocket returns where a host serves Xenstore to privileged callers: beside its socket.
func storeSocket(host string) string {
	return strings.TrimSuffix(host, ".sock") + ".xenstore.sock"
}

// needLinux says that processes can join a simulated host on Linux only.
func needLinux() error {
	if runtime.GOOS == "linux" {
		return nil
	}
	return fmt.Errorf("domains in processes of their own need Linux, not %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
