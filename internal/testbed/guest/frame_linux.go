package guest

import (
	"encoding/binary"
	"io"
	"sync"
)

// frameWriter writes frames to w, from any goroutine.
type frameWriter struct {
	mu    sync.Mutex
	w     io.Writer
	flush func()
}

func (f *frameWriter) write(kind byte, p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		n := min(len(p), maxFrame)
		head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(n))
		if _, err := f.w.Write(append(head, p[:n]...)); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			break
		}
	}
	f.flush()
	return nil
}

// stream is one of a program's outputs.
type stream struct {
	f    *frameWriter
	kind byte
}

func (s stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.f.write(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
