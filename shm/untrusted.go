package shm

import "fmt"

// Unsigned is the set of words that can be loaded from shared memory.
type Unsigned interface {
	uint8 | uint16 | uint32 | uint64
}

// Untrusted is a value that a peer may have written. It is a private copy, read once: checking it and then using what the check
// returned cannot be raced by the peer. It has no arithmetic of its own on purpose.
type Untrusted[T Unsigned] struct{ v T }

// FromPeer marks v, which came from a peer by another way than a Region (a message, a copied-out structure), as untrusted.
func FromPeer[T Unsigned](v T) Untrusted[T] { return Untrusted[T]{v} }

// RangeError says that a peer's value was not in the range it must be in.
type RangeError struct {
	Value    uint64 // what the peer wrote
	Min, Max uint64 // what was allowed, both included
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("value %d (%#x) is not between %d and %d", e.Value, e.Value, e.Min, e.Max)
}

// AtMost returns the value if it is not above max, else a *RangeError.
func (u Untrusted[T]) AtMost(max T) (T, error) { return u.Between(0, max) }

// Between returns the value if min <= value <= max, else a *RangeError.
func (u Untrusted[T]) Between(min, max T) (T, error) {
	if u.v < min || u.v > max {
		return 0, &RangeError{uint64(u.v), uint64(min), uint64(max)}
	}
	return u.v, nil
}

// Ahead returns how far the value, a free-running counter, is ahead of base, modulo the word: value-base. If that is above max it
// returns a *RangeError whose Value is the distance.
func (u Untrusted[T]) Ahead(base, max T) (T, error) {
	d := u.v - base
	if d > max {
		return 0, &RangeError{uint64(d), 0, uint64(max)}
	}
	return d, nil
}

// Bits returns the bits of the value that are in mask; the result is never above mask.
func (u Untrusted[T]) Bits(mask T) T { return u.v & mask }

// Is reports whether the value equals v.
func (u Untrusted[T]) Is(v T) bool { return u.v == v }

// Unchecked returns the value as it is. It is for words that only a trusted party writes (Xen's event bitmaps), for values any of
// which is harmless (a value that is printed or hashed), and for words that are checked elsewhere at once.
func (u Untrusted[T]) Unchecked() T { return u.v }

// String prints the value for people; what it prints decides nothing.
func (u Untrusted[T]) String() string { return fmt.Sprintf("%d", u.v) }
