//go:build !linux

package sim_test

func descriptors() []string { return nil }

func runChild() bool { return false }
