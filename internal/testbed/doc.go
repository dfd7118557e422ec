// Package testbed boots real Xen hosts under QEMU's software CPU, and runs Go test binaries inside their domains.
//
// It needs Debian's apt-get and dpkg-deb (not root), and the go command. Xen, a kernel, Xen's daemons and tools, and QEMU where it is not
// installed, are unpacked into a cache (HVKIT_TESTBED_CACHE; by default in the user's cache directory), never installed.
//
// From a command line, in this module:
//
//	go run ./cmd/hvkit testbed run ./shm                                     the tests of ./shm in dom0
//	go run ./cmd/hvkit testbed run ./xen/grant -- -test.run Linux -test.v    some of them
//	go run ./cmd/hvkit testbed shell                                         a shell in dom0
//
// From a test:
//
//	h := testbedtest.Host(t, testbed.XenAMD64)     // boots once for the process; skips unless HVKIT_TESTBED is 1 or require
//	testbedtest.Run(t, h.Dom0(), "github.com/hvkit/hvkit/xen/grant", "-test.run=Linux")
package testbed
