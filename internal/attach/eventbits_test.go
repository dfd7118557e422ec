package attach_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/attach"
	"github.com/hvkit/hvkit/xen/hypercall"
)

// TestEventBits follows the steps of xen/common/event_2l.c on the page of each ABI.
func TestEventBits(t *testing.T) {
	for _, abi := range []hypercall.ABI{hypercall.X86_64, hypercall.X86_32, hypercall.ARM64} {
		t.Run(abi.String(), func(t *testing.T) {
			e := attach.NewEventBits(abi)
			l := abi.SharedInfo()
			per := l.WordBytes * 8
			last := hypercall.Port(l.Ports() - 1)
			for _, n := range []hypercall.Port{1, hypercall.Port(per - 1), hypercall.Port(per), last} {
				require.False(t, e.Outstanding())
				require.True(t, e.Pend(n), "the first event is told of")
				require.False(t, e.Pend(n), "it is pending already")
				require.True(t, e.Outstanding())
				word := int(n) / per
				require.NotZero(t, e.Page().Load8(l.PendingSel+word/8).Unchecked()&(1<<(word%8)), "the selector has its word")
				require.NotZero(t, e.Page().Load8(l.EvtchnPending+int(n)/8).Unchecked()&(1<<(n%8)))
				e.ClearPending(n)
				require.Zero(t, e.Page().Load8(l.EvtchnPending+int(n)/8).Unchecked())
				require.False(t, e.Pend(n), "the domain has not looked at the selector yet")
				e.Reset()
			}
			e.Page().Or8(l.EvtchnMask, 1<<2)
			require.False(t, e.Pend(2), "masked")
			require.False(t, e.Outstanding())
			require.True(t, e.Unmask(2), "and pending: told of now")
			require.False(t, e.Unmask(2), "it was not masked")
			e.Reset()
			e.Page().Or8(l.EvtchnMask, 1<<3)
			require.False(t, e.Unmask(3), "nothing is pending")
		})
	}
}
