package sim

import "time"

// ServeConfig configures [Host.Serve]. Zero fields are defaults.
type ServeConfig struct {
	// Open lets a process join as a new domain of a name that it chooses. Otherwise it must have the token of a domain that was made
	// with DomainConfig.External.
	Open bool
	// OnLeave is called when the process that is a domain has gone, after the domain was destroyed, on a goroutine of the host.
	OnLeave func(name string)
	// HelloTimeout is how long a process may take to say who it is. The default is 5 s.
	HelloTimeout time.Duration
}
