// Package xenstoretest has what tests of Xenstore need: a conformance suite that any server must pass over any transport
// ([TestServer]), a server that does what a test tells it, right or wrong ([Script]), and ring pages with both ends in this process
// ([NewRings]).
//
// The suite says what the C server does (Xen 4.17 and later); where OCaml's servers differ and the protocol leaves it open, it takes
// both answers.
package xenstoretest
