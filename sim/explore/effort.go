package explore

import "os"

// Effort is how much of the machine's time explorations in tests may take: what HVKIT_EXPLORE says.
type Effort uint8

// The efforts.
const (
	Quick    Effort = iota // the default: a second or so a test, for everybody's go test
	Thorough               // HVKIT_EXPLORE=thorough: minutes, for every change
	Nightly                // HVKIT_EXPLORE=nightly: hours
)

// Wanted returns the effort that is wanted of this process.
func Wanted() Effort {
	switch os.Getenv("HVKIT_EXPLORE") {
	case "thorough":
		return Thorough
	case "nightly":
		return Nightly
	}
	return Quick
}

// Pick returns the value for the effort that is wanted.
func Pick[T any](quick, thorough, nightly T) T { return [...]T{quick, thorough, nightly}[Wanted()] }
