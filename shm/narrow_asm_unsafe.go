//go:build !race && (amd64 || arm64)

package shm

import "unsafe"

// Package sync/atomic has no 8 and 16-bit stores. A compare-and-swap of the word around them would do, but a peer that keeps writing
// the bytes beside them could make it retry for as long as it likes (Xen's advisory XSA-295 is about such loops). One instruction cannot
// be made to wait.

func store8(p unsafe.Pointer, _ int, v uint8) { storeSeqCst8(p, v) }

func store16(p unsafe.Pointer, _ int, v uint16) { storeSeqCst16(p, v) }

// storeSeqCst8 stores v at p, sequentially consistent.
//
//go:noescape
func storeSeqCst8(p unsafe.Pointer, v uint8)

// storeSeqCst16 stores v at p, sequentially consistent.
//
//go:noescape
func storeSeqCst16(p unsafe.Pointer, v uint16)
