package testbed_test

import (
	"bytes"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/guest"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

// TestVchanAcrossDomains has programs in two domains talk over a vchan, each domain in each role, and one of them be destroyed.
func TestVchanAcrossDomains(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	bin, err := testbed.BuildTest(t.Context(), "github.com/hvkit/hvkit/xen/vchan", h.Dom0().Arch(), t.TempDir())
	require.NoError(t, err)
	for _, kind := range []string{"pv", "pvh"} {
		t.Run(kind, func(t *testing.T) {
			d, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: kind})
			require.NoError(t, err)
			defer d.Destroy(t.Context())
			t.Run("Serves", func(t *testing.T) { both(t, bin, end{d, "server"}, end{h.Dom0(), "client"}) })
			t.Run("Dials", func(t *testing.T) { both(t, bin, end{h.Dom0(), "server"}, end{d, "client"}) })
			t.Run("IsDestroyed", func(t *testing.T) {
				doomed := make(chan error, 1)
				go func() { doomed <- end{d, "doomed"}.run(t, bin, h.Dom0(), new(marker)) }()
				w := &marker{text: "witness: connected", seen: func() { go d.Destroy(t.Context()) }}
				require.NoError(t, end{h.Dom0(), "witness"}.run(t, bin, d, w))
				require.Error(t, <-doomed)
			})
		})
	}
}

// end is a program of xen/vchan's tests in a domain.
type end struct {
	d    *testbed.Domain
	role string
}

func (e end) run(t *testing.T, bin *testbed.Binary, peer *testbed.Domain, out *marker) error {
	args := []string{
		"-test.run=^TestLinuxPeer$", "-test.v", "-test.timeout=5m", "-vchan.role=" + e.role, "-vchan.peer=" + strconv.Itoa(peer.ID()),
	}
	err := e.d.RunBinary(t.Context(), bin, &guest.Cmd{Args: args, Stdout: out, Stderr: out})
	t.Logf("%s as %s: %v\n%s", e.d.Name(), e.role, err, out.String())
	return err
}

// both runs two ends at once.
func both(t *testing.T, bin *testbed.Binary, a, b end) {
	errs := make(chan error, 2)
	go func() { errs <- a.run(t, bin, b.d, new(marker)) }()
	go func() { errs <- b.run(t, bin, a.d, new(marker)) }()
	for range 2 {
		require.NoError(t, <-errs)
	}
}

// marker keeps what is written, and calls seen when the text has come.
type marker struct {
	text string
	seen func()

	mu sync.Mutex
	// +checklocks:mu
	b bytes.Buffer
	// +checklocks:mu
	done bool
}

func (m *marker) Write(p []byte) (int, error) {
	if m.add(p) {
		m.seen()
	}
	return len(p), nil
}

func (m *marker) add(p []byte) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.b.Write(p)
	first = m.seen != nil && !m.done && bytes.Contains(m.b.Bytes(), []byte(m.text))
	m.done = m.done || first
	return first
}

func (m *marker) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.String()
}
