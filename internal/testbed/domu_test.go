package testbed_test

import (
	"testing"
	"time"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
	"github.com/stretchr/testify/require"
)

func TestDomains(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	for _, k := range []string{"pv", "pvh"} {
		s := time.Now()
		d, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: k})
		require.NoError(t, err)
		t.Log(k, time.Since(s))
		out, err := d.Output(t.Context(), "busybox", "ls", "/dev/xen")
		t.Log(out, err)
		s = time.Now()
		testbedtest.Run(t, d, "github.com/hvkit/hvkit/xen/hypercall")
		t.Log(k, time.Since(s))
		require.NoError(t, d.Destroy(t.Context()))
	}
}
