// Package nowait writes to a stream what it has room for, and no more: for goroutines that may not wait for a slow reader.
package nowait

import "io"

// Writer is a stream that can write without waiting.
type Writer interface {
	// TryWrite writes as much of p as has room, perhaps nothing, and returns how much that was.
	TryWrite(p []byte) (int, error)
}

// For returns the way to write to w without waiting: w itself if it is a Writer, one for the socket that w is, or nil. One goroutine at
// a time may use it.
func For(w io.Writer) Writer {
	if t, ok := w.(Writer); ok {
		return t
	}
	return forSocket(w)
}
