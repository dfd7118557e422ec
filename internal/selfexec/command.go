// Package selfexec starts more processes of the running program.
package selfexec

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// EnvEmulator names the command, with its arguments, that programs like this one are started through: a user-mode emulator, where the
// kernel would refuse to start a program of another architecture. `qemu-aarch64-static` is one.
const EnvEmulator = "HVKIT_EMULATOR"

// Command returns the command that starts another process of the running program with the arguments. ctx ends it, as in
// [exec.CommandContext].
func Command(ctx context.Context, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	words := append(strings.Fields(os.Getenv(EnvEmulator)), self)
	words = append(words, args...)
	return exec.CommandContext(ctx, words[0], words[1:]...), nil
}
