// Package simtest makes simulated Xen hosts for tests: they are closed when the test ends, whatever the test's domains did not give back
// fails it, and a test that failed prints what happened last on its host.
//
//	func TestDriver(t *testing.T) {
//		host := simtest.NewHost(t, nil)
//		front := simtest.NewDomain(t, host, "front").Xen()
//		back := simtest.NewDomain(t, host, "back").Xen()
//		// ... run both halves of the driver, and close them
//	}
//
// What a test closes with t.Cleanup after it made its host is closed before the host is looked at.
package simtest
