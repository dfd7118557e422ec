package hypercall

import (
	"errors"
	"io/fs"
	"strconv"
	"syscall"
)

// Errno is an error number of Xen's: the positive number of the C macro (public errno.h), where a hypercall returned its negative.
// The numbers are those of Linux on x86, on every platform.
//
// errors.Is(err, syscall.ENOENT) holds for the error of the same name, whatever its number is on the platform that the program runs
// on, and fs.ErrNotExist, fs.ErrExist, fs.ErrPermission and errors.ErrUnsupported match what they match for package syscall.
type Errno int

// Xen's error numbers (public errno.h).
const (
	EPERM         Errno = 1
	ENOENT        Errno = 2
	ESRCH         Errno = 3
	EIO           Errno = 5
	ENXIO         Errno = 6
	E2BIG         Errno = 7
	ENOEXEC       Errno = 8
	EBADF         Errno = 9
	ECHILD        Errno = 10
	EAGAIN        Errno = 11
	ENOMEM        Errno = 12
	EACCES        Errno = 13
	EFAULT        Errno = 14
	EBUSY         Errno = 16
	EEXIST        Errno = 17
	EXDEV         Errno = 18
	ENODEV        Errno = 19
	ENOTDIR       Errno = 20
	EISDIR        Errno = 21
	EINVAL        Errno = 22
	ENFILE        Errno = 23
	EMFILE        Errno = 24
	ENOSPC        Errno = 28
	EROFS         Errno = 30
	EMLINK        Errno = 31
	EDOM          Errno = 33
	ERANGE        Errno = 34
	EDEADLK       Errno = 35
	ENAMETOOLONG  Errno = 36
	ENOLCK        Errno = 37
	ENOSYS        Errno = 38
	ENOTEMPTY     Errno = 39
	ENODATA       Errno = 61
	ETIME         Errno = 62
	EBADMSG       Errno = 74
	EOVERFLOW     Errno = 75
	EILSEQ        Errno = 84
	ENOTSOCK      Errno = 88
	EMSGSIZE      Errno = 90
	EOPNOTSUPP    Errno = 95
	EADDRINUSE    Errno = 98
	EADDRNOTAVAIL Errno = 99
	ENOBUFS       Errno = 105
	EISCONN       Errno = 106
	ENOTCONN      Errno = 107
	ETIMEDOUT     Errno = 110
	ECONNREFUSED  Errno = 111
)

// MaxErrno is the largest number that a hypercall's negative result can stand for: results from -MaxErrno to -1 are errors
// (arch-x86 and Linux's IS_ERR_VALUE draw the line there).
const MaxErrno = 4095

var errnos = map[Errno]struct {
	name, text string
	host       syscall.Errno
}{
	EPERM:         {"EPERM", "operation not permitted", syscall.EPERM},
	ENOENT:        {"ENOENT", "no such entry", syscall.ENOENT},
	ESRCH:         {"ESRCH", "no such domain", syscall.ESRCH},
	EIO:           {"EIO", "input or output error", syscall.EIO},
	ENXIO:         {"ENXIO", "no such device or address", syscall.ENXIO},
	E2BIG:         {"E2BIG", "argument list too long", syscall.E2BIG},
	ENOEXEC:       {"ENOEXEC", "exec format error", syscall.ENOEXEC},
	EBADF:         {"EBADF", "bad file number", syscall.EBADF},
	ECHILD:        {"ECHILD", "no child processes", syscall.ECHILD},
	EAGAIN:        {"EAGAIN", "try again", syscall.EAGAIN},
	ENOMEM:        {"ENOMEM", "out of memory", syscall.ENOMEM},
	EACCES:        {"EACCES", "permission denied", syscall.EACCES},
	EFAULT:        {"EFAULT", "bad address", syscall.EFAULT},
	EBUSY:         {"EBUSY", "device or resource busy", syscall.EBUSY},
	EEXIST:        {"EEXIST", "exists already", syscall.EEXIST},
	EXDEV:         {"EXDEV", "cross-device link", syscall.EXDEV},
	ENODEV:        {"ENODEV", "no such device", syscall.ENODEV},
	ENOTDIR:       {"ENOTDIR", "not a directory", syscall.ENOTDIR},
	EISDIR:        {"EISDIR", "is a directory", syscall.EISDIR},
	EINVAL:        {"EINVAL", "invalid argument", syscall.EINVAL},
	ENFILE:        {"ENFILE", "file table overflow", syscall.ENFILE},
	EMFILE:        {"EMFILE", "too many open files", syscall.EMFILE},
	ENOSPC:        {"ENOSPC", "no space left", syscall.ENOSPC},
	EROFS:         {"EROFS", "read-only", syscall.EROFS},
	EMLINK:        {"EMLINK", "too many links", syscall.EMLINK},
	EDOM:          {"EDOM", "argument out of the function's domain", syscall.EDOM},
	ERANGE:        {"ERANGE", "result not representable", syscall.ERANGE},
	EDEADLK:       {"EDEADLK", "resource deadlock would occur", syscall.EDEADLK},
	ENAMETOOLONG:  {"ENAMETOOLONG", "name too long", syscall.ENAMETOOLONG},
	ENOLCK:        {"ENOLCK", "no locks available", syscall.ENOLCK},
	ENOSYS:        {"ENOSYS", "not implemented by this Xen", syscall.ENOSYS},
	ENOTEMPTY:     {"ENOTEMPTY", "not empty", syscall.ENOTEMPTY},
	ENODATA:       {"ENODATA", "no data available", hostENODATA},
	ETIME:         {"ETIME", "timer expired", hostETIME},
	EBADMSG:       {"EBADMSG", "bad message", syscall.EBADMSG},
	EOVERFLOW:     {"EOVERFLOW", "value too large", syscall.EOVERFLOW},
	EILSEQ:        {"EILSEQ", "illegal byte sequence", syscall.EILSEQ},
	ENOTSOCK:      {"ENOTSOCK", "not a socket", syscall.ENOTSOCK},
	EMSGSIZE:      {"EMSGSIZE", "message too large", syscall.EMSGSIZE},
	EOPNOTSUPP:    {"EOPNOTSUPP", "operation not supported", syscall.EOPNOTSUPP},
	EADDRINUSE:    {"EADDRINUSE", "address in use", syscall.EADDRINUSE},
	EADDRNOTAVAIL: {"EADDRNOTAVAIL", "address not available", syscall.EADDRNOTAVAIL},
	ENOBUFS:       {"ENOBUFS", "no buffer space available", syscall.ENOBUFS},
	EISCONN:       {"EISCONN", "already connected", syscall.EISCONN},
	ENOTCONN:      {"ENOTCONN", "not connected", syscall.ENOTCONN},
	ETIMEDOUT:     {"ETIMEDOUT", "timed out", syscall.ETIMEDOUT},
	ECONNREFUSED:  {"ECONNREFUSED", "connection refused", syscall.ECONNREFUSED},
}

// Name returns the name of the C macro without its prefix, such as "ENOSYS", or "errno 200" for a number that has none.
func (e Errno) Name() string {
	if d, ok := errnos[e]; ok {
		return d.name
	}
	return "errno " + strconv.Itoa(int(e))
}

func (e Errno) Error() string {
	if d, ok := errnos[e]; ok {
		return d.name + " (" + d.text + ")"
	}
	return e.Name()
}

// Is reports whether e is what target stands for: the same name as a [syscall.Errno], or one of the errors of package fs.
func (e Errno) Is(target error) bool {
	if host, ok := target.(syscall.Errno); ok {
		d, known := errnos[e]
		return known && host != 0 && d.host == host
	}
	switch target {
	case fs.ErrNotExist:
		return e == ENOENT
	case fs.ErrExist:
		return e == EEXIST || e == ENOTEMPTY
	case fs.ErrPermission:
		return e == EACCES || e == EPERM
	case errors.ErrUnsupported:
		return e == ENOSYS || e == EOPNOTSUPP
	}
	return false
}

// Result splits what a hypercall left in the result register, sign-extended to 64 bits, into a value and an error.
func Result(r uint64) (uint64, error) {
	if n := int64(r); n < 0 && n >= -MaxErrno {
		return 0, Errno(-n)
	}
	return r, nil
}

// OpError is the error of a typed call: what was asked of Xen, and what came of it. Err is an [Errno] or a [GrantStatus] where Xen
// refused, and something else where the call did not reach Xen.
type OpError struct {
	Op  string // the command's name in the public headers, such as "EVTCHNOP_bind_interdomain"
	On  string // what it was asked about, such as "domain 3, port 7"; may be ""
	Err error
}

func (e *OpError) Error() string {
	if e.On == "" {
		return "xen: " + e.Op + ": " + e.Err.Error()
	}
	return "xen: " + e.Op + " (" + e.On + "): " + e.Err.Error()
}

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }
