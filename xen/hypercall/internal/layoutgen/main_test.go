package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hvkit/hvkit/internal/clayout"
)

// TestGoldenFilesAnswerTheList sees, without a compiler, that the files were made from the list as it is.
func TestGoldenFilesAnswerTheList(t *testing.T) {
	require.NoError(t, generator.Answers(filepath.Join("..", "..", "testdata")))
}

func TestQuestionsAreTheArchitectures(t *testing.T) {
	has := func(target clayout.Target) *clayout.Golden {
		g, err := clayout.Read(filepath.Join("..", "..", "testdata", generator.File(target)))
		require.NoError(t, err)
		return g
	}
	x86, arm := has(clayout.X86_64), has(clayout.ARM64)
	require.Contains(t, x86.Structs["vcpu_info"].Members, "evtchn_upcall_mask")
	require.NotContains(t, arm.Structs["vcpu_info"].Members, "evtchn_upcall_mask")
	require.Contains(t, x86.Structs, "xen_hvm_evtchn_upcall_vector")
	require.NotContains(t, arm.Structs, "xen_hvm_evtchn_upcall_vector")
	require.Contains(t, x86.Consts, "HVM_PARAM_CALLBACK_TYPE_VECTOR")
	require.NotContains(t, arm.Consts, "HVM_PARAM_CALLBACK_TYPE_VECTOR")
	require.Contains(t, arm.Consts, "HVM_PARAM_CALLBACK_TYPE_PPI")
	require.NotContains(t, x86.Consts, "HVM_PARAM_CALLBACK_TYPE_PPI")
}

func TestMissingHeadersAreNamed(t *testing.T) {
	require.ErrorContains(t, linkHeaders(t.TempDir(), t.TempDir()), "apt-get install libxen-dev")
}
