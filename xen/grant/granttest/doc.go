// Package granttest is the conformance suite of package grant: what every [grant.Table] must do, whatever platform is under it. A
// platform's own test calls it:
//
//	func TestConformance(t *testing.T) {
//		granttest.TestTable(t, func(t *testing.T) (a, b granttest.Side) {
//			host := sim.NewHost(nil)
//			t.Cleanup(func() { host.Close() })
//			...
//			return granttest.Side{ID: x.ID(), Table: x.Grants(), Events: x.Events()}, granttest.Side{...}
//		})
//	}
//
// The two sides may be the same domain, where Xen can be reached from one only: a domain may map what it granted to its own number.
// The suite expects what Xen's common/grant_table.c does and nothing more. A platform that keeps the pages of an ended share, and
// cannot tell whether they are mapped, passes: it answers Surrendered where others answer Reclaimed or Busy.
package granttest
