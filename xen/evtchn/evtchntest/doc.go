// Package evtchntest is the conformance suite of package evtchn: what every [evtchn.Table] must do, whatever platform is under it. A
// platform's own test calls it:
//
//	func TestConformance(t *testing.T) {
//		evtchntest.TestTable(t, func(t *testing.T) (a, b evtchntest.Side) {
//			host := sim.NewHost(nil)
//			t.Cleanup(func() { host.Close() })
//			...
//			return evtchntest.Side{ID: x.ID(), Table: x.Events()}, evtchntest.Side{ID: y.ID(), Table: y.Events()}
//		})
//	}
//
// The two sides may be the same domain, where Xen can be reached from one only. The suite expects what Xen's common/event_channel.c
// does and nothing more: in particular, that a channel sees an event when it is bound, or that it does not, is no failure.
package evtchntest
