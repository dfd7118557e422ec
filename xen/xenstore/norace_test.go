//go:build !race

package xenstore_test

// poolLoss is 0 without the race detector.
const poolLoss = 0
