package shm

import "io"

var (
	_ io.ReaderAt = (*Region)(nil)
	_ io.WriterAt = (*Region)(nil)
	_ io.Closer   = (*Region)(nil)
)

// ReadAt implements [io.ReaderAt]. It returns a *BoundsError for a negative offset, and io.EOF where the region ends before p is full.
func (r *Region) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.clip("read", len(p), off)
	if n > 0 {
		r.CopyOut(p[:n], int(off))
	}
	return n, err
}

// WriteAt implements [io.WriterAt]. Where p does not fit it writes what does and returns a *BoundsError.
func (r *Region) WriteAt(p []byte, off int64) (int, error) {
	if !r.writable {
		return 0, &ReadOnlyError{Op: "write", Off: off}
	}
	n, err := r.clip("write", len(p), off)
	if n > 0 {
		r.CopyIn(int(off), p[:n])
	}
	if err == io.EOF {
		err = &BoundsError{Op: "write", Off: off, Len: len(p), Size: r.size}
	}
	return n, err
}

// clip returns how many of n bytes from off are inside the region, and io.EOF where not all are.
func (r *Region) clip(op string, n int, off int64) (int, error) {
	if off < 0 {
		return 0, &BoundsError{Op: op, Off: off, Len: n, Size: r.size}
	}
	if off > int64(r.size) {
		return 0, io.EOF
	}
	if rest := r.size - int(off); n > rest {
		return rest, io.EOF
	}
	return n, nil
}
