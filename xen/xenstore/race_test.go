//go:build race

package xenstore_test

// poolLoss is how many allocations a call makes because the race detector has pools lose what they hold at random.
const poolLoss = 3
