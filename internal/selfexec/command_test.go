package selfexec

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommand(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	t.Setenv(EnvEmulator, "")
	cmd, err := Command(t.Context(), "a", "b c")
	require.NoError(t, err)
	require.Equal(t, []string{self, "a", "b c"}, cmd.Args)
	t.Setenv(EnvEmulator, "emulator -flag")
	cmd, err = Command(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"emulator", "-flag", self, "a"}, cmd.Args)
}
