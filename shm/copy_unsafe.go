package shm

import (
	"runtime"
	"unsafe"
)

// CopyOut copies len(dst) bytes from off into dst.
func (r *Region) CopyOut(dst []byte, off int) {
	// The common case first, and alone: bytes that follow each other, in a region that is open and unobserved.
	if uint(off) < uint(r.size) && off <= r.size-len(dst) && r.state.tap.Load() == nil {
		if run := r.run(off, len(dst)); len(run) == len(dst) {
			copy(dst, run)
			runtime.KeepAlive(r)
			return
		}
	}
	r.copyOutSlow(dst, off)
}

func (r *Region) copyOutSlow(dst []byte, off int) {
	if err := r.span("copy out", off, len(dst), false); err != nil {
		panic(err)
	}
	if !r.admit(CopyOut, off, len(dst)) {
		clear(dst)
		return
	}
	for len(dst) > 0 {
		n := copy(dst, r.run(off, len(dst)))
		dst, off = dst[n:], off+n
	}
	runtime.KeepAlive(r)
}

// CopyIn copies src into the region at off.
func (r *Region) CopyIn(off int, src []byte) {
	if uint(off) < uint(r.size) && off <= r.size-len(src) && r.writable && r.state.tap.Load() == nil {
		if run := r.run(off, len(src)); len(run) == len(src) {
			copy(run, src)
			runtime.KeepAlive(r)
			return
		}
	}
	r.copyInSlow(off, src)
}

func (r *Region) copyInSlow(off int, src []byte) {
	if err := r.span("copy in", off, len(src), true); err != nil {
		panic(err)
	}
	if !r.admit(CopyIn, off, len(src)) {
		return
	}
	for len(src) > 0 {
		n := copy(r.run(off, len(src)), src)
		src, off = src[n:], off+n
	}
	runtime.KeepAlive(r)
}

// Zero sets n bytes from off to zero.
func (r *Region) Zero(off, n int) {
	if err := r.span("zero", off, n, true); err != nil {
		panic(err)
	}
	if !r.admit(CopyIn, off, n) {
		return
	}
	for n > 0 {
		b := r.run(off, n)
		clear(b)
		off, n = off+len(b), n-len(b)
	}
	runtime.KeepAlive(r)
}

// Copy copies n bytes from src at srcOff to dst at dstOff. The regions may overlap only where they are the same pages at the same
// offsets.
func Copy(dst *Region, dstOff int, src *Region, srcOff, n int) {
	if err := src.span("copy out", srcOff, n, false); err != nil {
		panic(err)
	}
	if err := dst.span("copy in", dstOff, n, true); err != nil {
		panic(err)
	}
	if !src.admit(CopyOut, srcOff, n) {
		dst.Zero(dstOff, n)
		return
	}
	if !dst.admit(CopyIn, dstOff, n) {
		return
	}
	for n > 0 {
		k := copy(dst.run(dstOff, n), src.run(srcOff, n))
		dstOff, srcOff, n = dstOff+k, srcOff+k, n-k
	}
	runtime.KeepAlive(src)
	runtime.KeepAlive(dst)
}

// span checks that n bytes from off are inside the region.
func (r *Region) span(op string, off, n int, write bool) error {
	if off < 0 || n < 0 || off > r.size-n || write && !r.writable {
		return r.misuse(op, off, n, write)
	}
	return nil
}

// run returns the bytes from off on that follow each other in the address space, at most n. The slice stays inside this package, and
// is used only while the region is reachable.
func (r *Region) run(off, n int) []byte {
	if r.flat != nil {
		return unsafe.Slice((*byte)(unsafe.Add(r.flat, off)), n)
	}
	inPage := off & pageMask
	return unsafe.Slice((*byte)(unsafe.Add(r.pages[off>>pageShift], inPage)), min(n, PageSize-inPage))
}
