package hypercall

import "errors"

// ErrStale is what a handle of an earlier incarnation answers: the domain was suspended and resumed since the handle was made, and
// the share, mapping, channel or connection behind it is gone. Make a new one.
var ErrStale = errors.New("xen: the domain was resumed as another incarnation")
