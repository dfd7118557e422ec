// Package hypercalltest has hypercall.Callers for tests: a [Recorder] that writes down what passes through it, a [Playback] that
// answers from such a record and complains when it is asked anything else, and [Func], which answers by a function.
//
// A record is a list of [Exchange] values: plain data, which can be written in a test, printed, or kept in a file ([WriteRecord]).
// A driver that was recorded once against the simulator or a real Xen can so be tested where there is neither.
//
// [TestCaller] is the conformance suite of hypercall.Caller: it runs on real Xen and on whatever plays Xen.
package hypercalltest
