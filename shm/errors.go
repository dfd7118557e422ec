package shm

import "fmt"

// BoundsError says that an access was outside its region, or not aligned for its word.
type BoundsError struct {
	Op   string
	Off  int64 // in bytes
	Len  int   // in bytes
	Size int   // of the region, in bytes
}

func (e *BoundsError) Error() string {
	if e.Off >= 0 && e.Len >= 0 && e.Off <= int64(e.Size-e.Len) {
		return fmt.Sprintf("shm: %s of %d bytes at offset %d: not aligned", e.Op, e.Len, e.Off)
	}
	return fmt.Sprintf("shm: %s of %d bytes at offset %d: outside the region of %d bytes", e.Op, e.Len, e.Off, e.Size)
}

// ReadOnlyError says that a region that is read-only was written.
type ReadOnlyError struct {
	Op  string
	Off int64 // in bytes
}

func (e *ReadOnlyError) Error() string {
	return fmt.Sprintf("shm: %s at offset %d: the region is read-only", e.Op, e.Off)
}

// SealError says that a file is not the sealed memfd that it should be.
type SealError struct {
	Name   string // of the file
	Reason string
}

func (e *SealError) Error() string {
	return fmt.Sprintf("shm: %s is not a sealed memfd: %s", e.Name, e.Reason)
}
