package xen

import (
	"context"
	"fmt"
	"os"

	"github.com/hvkit/hvkit/internal/attach"
)

// The environment variables by which a process is told which simulated host to join, and as which domain. The hvkit command sets them
// for the programs that it starts.
const (
	// EnvHost is the path of the Unix socket that the host serves.
	EnvHost = "HVKIT_HOST"
	// EnvToken claims a domain that the host has made.
	EnvToken = "HVKIT_TOKEN"
	// EnvDomain is the name of a new domain, for a host that lets anybody make one. It counts where EnvToken is not set.
	EnvDomain = "HVKIT_DOMAIN"
)

// Open finds the platform that this program runs on and returns the domain that it is. Where HVKIT_HOST is set that is a domain of a
// simulated host, named by HVKIT_TOKEN or HVKIT_DOMAIN. Otherwise it is the domain of this Linux kernel, through its devices (see
// [OpenLinux]). Where there are none the error is [errors.ErrUnsupported].
//
// ctx bounds the opening only. Close the domain after use.
func Open(ctx context.Context) (*Domain, error) { return OpenConfig(ctx, nil) }

// OpenConfig is Open with a configuration.
func OpenConfig(ctx context.Context, cfg *Config) (*Domain, error) {
	if socket := os.Getenv(EnvHost); socket != "" {
		return Join(ctx, socket, os.Getenv(EnvToken), os.Getenv(EnvDomain), cfg)
	}
	d, err := OpenLinux(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("xen: open: %s names no simulated host: %w", EnvHost, err)
	}
	return d, nil
}

// Join joins the simulated host that serves the Unix socket: as the domain that the token claims or, where the token is empty, as a
// new domain of that name.
func Join(ctx context.Context, socket, token, name string, cfg *Config) (*Domain, error) {
	m, err := attach.Join(ctx, socket, token, name)
	if err != nil {
		return nil, fmt.Errorf("xen: %w", err)
	}
	return NewDomain(ctx, m, cfg)
}
