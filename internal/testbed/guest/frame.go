package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The kinds of the frames that a reply to /run has. A frame is its kind, the length of its payload (4 bytes, big-endian) and the payload.
const (
	frameStdout = 1
	frameStderr = 2
	frameExit   = 3 // the last one; the payload is an exit as JSON
)

// maxFrame bounds what a reader of frames allocates.
const maxFrame = 64 << 10

// exit is how a program ended.
type exit struct {
	Code   int    // -1 where a signal ended it
	Signal string `json:",omitempty"`
	Error  string `json:",omitempty"` // it did not start
}

// readFrames hands the frames of r to out until the program's exit.
func readFrames(r io.Reader, out func(kind byte, p []byte) error) (exit, error) {
	var head [5]byte
	buf := make([]byte, maxFrame)
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return exit{}, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxFrame {
			return exit{}, fmt.Errorf("frame of %d bytes; the limit is %d", n, maxFrame)
		}
		p := buf[:n]
		if _, err := io.ReadFull(r, p); err != nil {
			return exit{}, err
		}
		switch head[0] {
		case frameExit:
			var e exit
			err := json.Unmarshal(p, &e)
			return e, err
		case frameStdout, frameStderr:
			if err := out(head[0], p); err != nil {
				return exit{}, err
			}
		default:
			return exit{}, fmt.Errorf("frame of unknown kind %d", head[0])
		}
	}
}
