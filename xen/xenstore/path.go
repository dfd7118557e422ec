package xenstore

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Limits of paths, in bytes (io/xs_wire.h). The quotas of servers are often lower: 2048 of the C server, 1024 of oxenstored.
const (
	MaxAbsPath = 3072 // XENSTORE_ABS_PATH_MAX
	MaxRelPath = 2048 // XENSTORE_REL_PATH_MAX
)

// The paths on which a watch tells of domains that come and go, in place of changes to nodes.
const (
	IntroduceDomain = "@introduceDomain" // a domain was introduced to the store
	ReleaseDomain   = "@releaseDomain"   // a domain has crashed, shut down, or gone
)

// PathError says what is wrong with a path. It matches [EINVAL] and io/fs.ErrInvalid.
type PathError struct {
	Path string
	What string
}

func (e *PathError) Error() string {
	p := e.Path
	if len(p) > 80 {
		p = p[:80] + "..."
	}
	return fmt.Sprintf("xenstore: path %q %s", p, e.What)
}

// Unwrap returns [EINVAL].
func (e *PathError) Unwrap() error { return EINVAL }

// CheckPath checks the path of a node, absolute ("/local/domain/3/name") or relative to the caller's own domain ("name"). It may be
// made of letters, digits and -/_@, without an empty element, and without a slash at the end except for the root. The first element of
// a relative path must not begin with @, which is for special watches.
func CheckPath(path string) error {
	if path != "" && path[0] == '@' {
		return &PathError{path, "is special: it can only be watched"}
	}
	return checkPath(path)
}

// CheckWatchPath checks a path that is to be watched: one of a node, or a special one such as [ReleaseDomain].
func CheckWatchPath(path string) error { return checkPath(path) }

func checkPath(path string) error {
	switch {
	case path == "":
		return &PathError{path, "is empty"}
	case path == "/":
		return nil
	case path[0] == '/' && len(path) > MaxAbsPath:
		return &PathError{path, fmt.Sprintf("has %d bytes, more than %d", len(path), MaxAbsPath)}
	case path[0] != '/' && len(path) > MaxRelPath:
		return &PathError{path, fmt.Sprintf("has %d bytes, more than the %d of a relative one", len(path), MaxRelPath)}
	case path[len(path)-1] == '/':
		return &PathError{path, "ends in a slash"}
	}
	for i := 0; i < len(path); i++ {
		if !pathBytes[path[i]] {
			return &PathError{path, fmt.Sprintf("has the byte %q, which is not allowed", path[i])}
		}
		if path[i] == '/' && path[i+1] == '/' {
			return &PathError{path, "has an empty element"}
		}
	}
	return nil
}

// IsPathByte reports whether a path may have the byte.
func IsPathByte(b byte) bool { return pathBytes[b] }

// pathBytes says which bytes a path may have.
var pathBytes = func() (t [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-/_@") {
		t[c] = true
	}
	return t
}()

// DomainPath returns the home of a domain, "/local/domain/<dom>", to which its relative paths refer.
func DomainPath(dom hypercall.DomID) string { return "/local/domain/" + strconv.Itoa(int(dom)) }

// Canonical returns the absolute form of a checked path as the domain dom uses it. Special paths and absolute paths stay as they are.
// The result is checked against [MaxAbsPath].
func Canonical(path string, dom hypercall.DomID) (string, error) {
	if err := checkPath(path); err != nil {
		return "", err
	}
	if path[0] == '/' || path[0] == '@' {
		return path, nil
	}
	abs := DomainPath(dom) + "/" + path
	if len(abs) > MaxAbsPath {
		return "", &PathError{abs, fmt.Sprintf("has %d bytes, more than %d", len(abs), MaxAbsPath)}
	}
	return abs, nil
}

// Parent returns the path of the node above an absolute one. The parent of the root is the root.
func Parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}

// Base returns the last element of a path, "" for the root.
func Base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// Join puts one path under another. Either may be empty; "/" and "a" give "/a".
func Join(dir, name string) string {
	switch {
	case dir == "":
		return name
	case name == "":
		return dir
	case dir == "/":
		return "/" + name
	}
	return dir + "/" + name
}

// Within reports whether path is dir or lies under it, both absolute or both relative to the same domain.
func Within(path, dir string) bool {
	if dir == "/" {
		return path != "" && path[0] == '/'
	}
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}
