//go:build race

package grant

const raceEnabled = true // pools drop things at random then, which allocates
