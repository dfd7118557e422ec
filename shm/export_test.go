package shm

import "io"

// JoinsOf returns how many joined regions r knows of.
func JoinsOf(r *Region) int {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return len(r.state.joins)
}

// BounceFrom and BounceTo are what systems other than Linux do for CopyInFrom and CopyOutTo.
func (r *Region) BounceFrom(off int, src io.Reader, n int) (int, error) {
	return r.bounceFrom(off, src, n)
}
func (r *Region) BounceTo(dst io.Writer, off, n int) (int, error) { return r.bounceTo(dst, off, n) }
