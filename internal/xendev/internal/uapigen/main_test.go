package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGoldenFilesAnswerTheList sees, without a compiler, that the files were made from the list as it is.
func TestGoldenFilesAnswerTheList(t *testing.T) {
	require.NoError(t, generator.Answers(filepath.Join("..", "..", "testdata")))
}

func TestMissingHeadersAreNamed(t *testing.T) {
	require.ErrorContains(t, prepare(t.TempDir(), t.TempDir()), "apt-get install linux-libc-dev")
}
