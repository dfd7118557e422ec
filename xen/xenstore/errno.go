package xenstore

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Errno is an error that the server answered, by its name on the wire (xsd_errors in io/xs_wire.h). Compare with [errors.Is]: the
// values below, the errors of io/fs ([fs.ErrNotExist], [fs.ErrPermission], [fs.ErrExist], [fs.ErrInvalid]), [errors.ErrUnsupported] and
// [syscall.Errno] all match where they mean the same.
type Errno string

// The errors of the protocol, and two that OCaml servers send beyond it.
const (
	EINVAL    Errno = "EINVAL"
	EACCES    Errno = "EACCES"
	EEXIST    Errno = "EEXIST"
	EISDIR    Errno = "EISDIR"
	ENOENT    Errno = "ENOENT"
	ENOMEM    Errno = "ENOMEM"
	ENOSPC    Errno = "ENOSPC"
	EIO       Errno = "EIO"
	ENOTEMPTY Errno = "ENOTEMPTY"
	ENOSYS    Errno = "ENOSYS"
	EROFS     Errno = "EROFS"
	EBUSY     Errno = "EBUSY"
	EAGAIN    Errno = "EAGAIN"
	EISCONN   Errno = "EISCONN"
	E2BIG     Errno = "E2BIG"
	EPERM     Errno = "EPERM"
	EQUOTA    Errno = "EQUOTA"  // oxenstored: a quota is used up
	ENOTSUP   Errno = "ENOTSUP" // ocaml-xenstore: not supported
)

// ErrUnknown is what an error name that is not known here matches. The name itself is in the [*UnknownErrno].
var ErrUnknown = errors.New("xenstore: error of an unknown name")

// UnknownErrno is an error that the server answered by a name that is not known here. It matches [ErrUnknown].
type UnknownErrno struct {
	Name string // at most maxErrnoName bytes of what was sent
}

func (e *UnknownErrno) Error() string { return fmt.Sprintf("unknown error %q", e.Name) }

// Is reports whether target is [ErrUnknown].
func (e *UnknownErrno) Is(target error) bool { return target == ErrUnknown }

// maxErrnoName bounds how much of an unknown name is kept.
const maxErrnoName = 32

// errnos is in the order of xsd_errors.
var errnos = [...]struct {
	name Errno
	sys  syscall.Errno
	std  error // the error of the standard library that means the same, or nil
	text string
}{
	{EINVAL, syscall.EINVAL, fs.ErrInvalid, "invalid argument"},
	{EACCES, syscall.EACCES, fs.ErrPermission, "permission denied"},
	{EEXIST, syscall.EEXIST, fs.ErrExist, "exists already"},
	{EISDIR, syscall.EISDIR, nil, "is a directory"},
	{ENOENT, syscall.ENOENT, fs.ErrNotExist, "does not exist"},
	{ENOMEM, syscall.ENOMEM, nil, "server out of memory"},
	{ENOSPC, syscall.ENOSPC, nil, "quota used up"},
	{EIO, syscall.EIO, nil, "input/output error"},
	{ENOTEMPTY, syscall.ENOTEMPTY, nil, "not empty"},
	{ENOSYS, syscall.ENOSYS, errors.ErrUnsupported, "not implemented by the server"},
	{EROFS, syscall.EROFS, nil, "read-only"},
	{EBUSY, syscall.EBUSY, nil, "busy"},
	{EAGAIN, syscall.EAGAIN, nil, "conflicting change, try again"},
	{EISCONN, syscall.EISCONN, nil, "connected already"},
	{E2BIG, syscall.E2BIG, nil, "too big"},
	{EPERM, syscall.EPERM, fs.ErrPermission, "not permitted"},
	{EQUOTA, 0, nil, "quota used up"},
	{ENOTSUP, syscall.ENOTSUP, errors.ErrUnsupported, "not supported by the server"},
}

// Error returns the name with what it means.
func (e Errno) Error() string {
	for i := range errnos {
		if errnos[i].name == e {
			return string(e) + " (" + errnos[i].text + ")"
		}
	}
	return string(e)
}

// Is reports whether target means the same.
func (e Errno) Is(target error) bool {
	for i := range errnos {
		if x := &errnos[i]; x.name == e {
			return x.std != nil && target == x.std || x.sys != 0 && target == x.sys
		}
	}
	return false
}

// ParseErrno returns the error that the payload of an ERROR message names: an [Errno], or an [*UnknownErrno].
func ParseErrno(payload []byte) error {
	name, _, _ := bytes.Cut(payload, []byte{0})
	for i := range errnos {
		if string(name) == string(errnos[i].name) {
			return errnos[i].name
		}
	}
	return &UnknownErrno{Name: string(name[:min(len(name), maxErrnoName)])}
}

// AppendErrno appends the payload of an ERROR message for err: the name of the [Errno] in err's tree, else EIO, and a NUL.
func AppendErrno(b []byte, err error) []byte {
	name := EIO
	if e, ok := errors.AsType[Errno](err); ok {
		name = e
	}
	return append(append(b, name...), 0)
}
