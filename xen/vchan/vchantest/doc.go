// Package vchantest has the tests that every platform's vchans must pass: the simulator's, and real Xen's between two domains of which
// one program can act for both. [Test] runs them all:
//
//	func TestVchan(t *testing.T) {
//		vchantest.Test(t, func(t *testing.T) vchantest.Platform {
//			return vchantest.Platform{Server: openServer(t), Client: openClient(t)}
//		})
//	}
package vchantest
