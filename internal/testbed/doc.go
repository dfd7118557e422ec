// Package testbed boots real Xen hosts under QEMU's software CPU, and runs Go test binaries inside their domains.
//
// It needs Debian's apt-get and dpkg-deb, but not root, and the go command. Xen, a kernel, Xen's daemons and tools, and QEMU where it is
// not installed, are unpacked into a cache (HVKIT_TESTBED_CACHE; by default in the user's cache directory), never installed.
//
// From a command line, in this module:
//
//	go run ./cmd/hvkit testbed run ./shm                                     the tests of ./shm in dom0
//	go run ./cmd/hvkit testbed run --in pv ./xen/grant -- -test.run Linux    some of ./xen/grant, in a PV domain
//	go run ./cmd/hvkit testbed shell                                         a shell in dom0
//
// From a test:
//
//	h := testbedtest.Host(t, testbed.XenAMD64)     // one for the process; skips unless HVKIT_TESTBED is 1 or require
//	testbedtest.Run(t, h.Dom0(), "github.com/hvkit/hvkit/xen/grant", "-test.run=Linux")
//	d, err := h.Create(t.Context(), &testbed.DomainConfig{Kind: "pvh"})
//	testbedtest.Run(t, d, "github.com/hvkit/hvkit/xen/grant", "-test.run=Linux")
//
// [Boot] makes a [Host] after a [Recipe], which is data: what packages there are, what the guests' files are, how QEMU is started. A host
// that has booted is kept as a snapshot in the cache, and the next one with the same ingredients is restored from it. A [Domain] is talked
// to through an agent inside it (package guest): over a virtio port in dom0, over the console in domains above it.
//
// docs/testbed.md has the whole picture, figures, and what to do when something does not work.
package testbed
