package simtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/sim"
	"github.com/hvkit/hvkit/sim/simtest"
)

func TestJoin(t *testing.T) {
	h := simtest.NewHost(t, &sim.HostConfig{Shared: true})
	socket := simtest.Serve(t, h, nil)
	d := simtest.Join(t, socket, "out")
	require.Equal(t, "out", d.Name())
	require.NotNil(t, h.Domain(d.ID()))
	require.Nil(t, h.Domain(d.ID()).Xen(), "what runs in another process has no half here")
}
