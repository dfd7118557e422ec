//go:build !linux

package sim_test

func runChild() bool { return false }
