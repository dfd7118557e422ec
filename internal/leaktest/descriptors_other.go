//go:build !linux

package leaktest

// descriptors would say what this process has open.
func descriptors() []string { return nil }
