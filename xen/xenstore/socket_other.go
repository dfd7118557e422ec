//go:build !unix

package xenstore

import "io"

// newSocketWriter returns nil: there is no way here to write only what has room.
func newSocketWriter(io.Writer) tryWriter { return nil }
