// Package doctor finds out what a machine offers to programs that meet a hypervisor, and which command mends what is missing.
//
// It looks at a [Machine], which is this one ([Local]) or a made-up one in a test, and answers with a list of [Finding]. What the
// simulated host needs is needed now; the rest is what other platforms and the module's own tests would use.
package doctor
