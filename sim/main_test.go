package sim_test

import (
	"testing"

	"github.com/hvkit/hvkit/internal/leaktest"
)

// TestMain runs the tests. With childEnv set the process is a domain instead; see child_linux_test.go.
func TestMain(m *testing.M) {
	if !runChild() {
		leaktest.Main(m)
	}
}
