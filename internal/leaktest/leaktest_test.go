package leaktest

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { Main(m) }

const soon = 50 * time.Millisecond

func TestGoroutines(t *testing.T) {
	before := take()
	stop := make(chan struct{})
	go lingering(stop)
	left := before.left(soon)
	require.Contains(t, left, "1 goroutines, among these:")
	require.Contains(t, left, "lingering")
	close(stop)
	require.Empty(t, before.left(patience))
}

func lingering(stop <-chan struct{}) { <-stop }

func TestDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors are counted on Linux only")
	}
	before := take()
	f, err := os.Open(os.DevNull)
	require.NoError(t, err)
	require.Regexp(t, "^1 descriptors; before: .*; now: .*"+os.DevNull, before.left(soon))
	require.NoError(t, f.Close())
	require.Empty(t, before.left(patience))
}
