//go:build !unix

package nowait

import "io"

// forSocket returns nil: there is no way here to write to a socket only what has room.
func forSocket(io.Writer) Writer { return nil }
