//go:build race

package xenstored_test

// raceDetector says that the race detector is on, which takes its time.
const raceDetector = true
