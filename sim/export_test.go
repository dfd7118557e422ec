package sim

import (
	"github.com/hvkit/hvkit/xen"
)

// NewBare makes a domain of this process in which nothing runs but the test: it has a machine and no native code on it.
func (h *Host) NewBare(c DomainConfig) (*Domain, xen.Machine, error) {
	d, err := h.create(c)
	if err != nil {
		return nil, nil, err
	}
	return d, &machine{d}, d.introduce(true)
}
