package testbed_test

import (
	"os"
	"testing"

	"github.com/hvkit/hvkit/internal/testbed"
	"github.com/hvkit/hvkit/internal/testbed/testbedtest"
)

func TestMain(m *testing.M) { os.Exit(testbedtest.Main(m)) }

func TestShmInDom0(t *testing.T) {
	h := testbedtest.Host(t, testbed.XenAMD64)
	testbedtest.Run(t, h.Dom0(), "github.com/hvkit/hvkit/shm", "-test.v")
}
