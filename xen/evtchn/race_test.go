//go:build race

package evtchn

const raceEnabled = true // pools drop things at random then, which allocates
