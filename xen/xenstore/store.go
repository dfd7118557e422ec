package xenstore

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// Store is what can be done with nodes: by a [*Client] at once, by a [*Tx] in a transaction. Paths are absolute ("/local/domain/3/name")
// or relative to the caller's own domain ("name"). All errors are *[OpError].
type Store interface {
	// Read returns the value of a node: bytes of any kind, at most 4096. The slice is the caller's.
	Read(ctx context.Context, path string) ([]byte, error)
	// Write sets the value of a node and makes it, with its parents, where it is missing. Path and value have at most 4095 bytes
	// together; servers allow guests about 2000.
	Write(ctx context.Context, path string, value []byte) error
	// Mkdir makes a node with an empty value, with its parents, and leaves one that exists as it is.
	Mkdir(ctx context.Context, path string) error
	// Remove removes a node and all under it. It is no error if the node is missing, but it is if its parent is, too.
	Remove(ctx context.Context, path string) error
	// List returns the names of the nodes right under a node, in the server's order.
	List(ctx context.Context, path string) ([]string, error)
	// Perms returns the permissions of a node, the owner first.
	Perms(ctx context.Context, path string) ([]Perm, error)
	// SetPerms replaces the permissions of a node. The first names the owner, which only the control domain may change.
	SetPerms(ctx context.Context, path string, perms ...Perm) error
}

var (
	_ Store = (*Client)(nil)
	_ Store = (*Tx)(nil)
)

// Read implements [Store].
func (c *Client) Read(ctx context.Context, path string) ([]byte, error) { return c.read(ctx, 0, path) }

// Write implements [Store].
func (c *Client) Write(ctx context.Context, path string, value []byte) error {
	return c.onNode(ctx, 0, MsgWrite, "write", path, value)
}

// Mkdir implements [Store].
func (c *Client) Mkdir(ctx context.Context, path string) error {
	return c.onNode(ctx, 0, MsgMkdir, "mkdir", path, nil)
}

// Remove implements [Store].
func (c *Client) Remove(ctx context.Context, path string) error {
	return c.onNode(ctx, 0, MsgRemove, "remove", path, nil)
}

// List implements [Store].
func (c *Client) List(ctx context.Context, path string) ([]string, error) {
	return c.list(ctx, 0, path)
}

// Perms implements [Store].
func (c *Client) Perms(ctx context.Context, path string) ([]Perm, error) {
	return c.perms(ctx, 0, path)
}

// SetPerms implements [Store].
func (c *Client) SetPerms(ctx context.Context, path string, perms ...Perm) error {
	return c.setPerms(ctx, 0, path, perms)
}

// opError returns nil for nil.
func opError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Path: path, Err: err}
}

func (c *Client) read(ctx context.Context, tx uint32, path string) ([]byte, error) {
	req, err := c.nodeCall(ctx, MsgRead, tx, path, nil)
	if err != nil {
		return nil, opError("read", path, err)
	}
	value := append(make([]byte, 0, len(req.reply)), req.reply...)
	c.release(req)
	return value, nil
}

// nodeCall is call for a request about a node.
func (c *Client) nodeCall(ctx context.Context, typ MsgType, tx uint32, path string, tail []byte) (*request, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	return c.call(ctx, typ, tx, path, tail)
}

// onNode is a request about a node whose reply says nothing.
func (c *Client) onNode(ctx context.Context, tx uint32, typ MsgType, op, path string, tail []byte) error {
	req, err := c.nodeCall(ctx, typ, tx, path, tail)
	if err != nil {
		return opError(op, path, err)
	}
	return opError(op, path, c.acked(req))
}

// tell is call for a request whose reply says nothing.
func (c *Client) tell(ctx context.Context, typ MsgType, tx uint32, head string, tail []byte) error {
	req, err := c.call(ctx, typ, tx, head, tail)
	if err != nil {
		return err
	}
	return c.acked(req)
}

// acked returns a request whose reply says nothing but "OK", and checks that it does.
func (c *Client) acked(req *request) error {
	var err error
	if answer, _, _ := bytes.Cut(req.reply, []byte{0}); string(answer) != "OK" {
		err = malformed(req.reply)
	}
	c.release(req)
	return err
}

// malformed is the error for a reply that the protocol does not allow where it came. It is not one that the server answered.
func malformed(reply []byte) error {
	return fmt.Errorf("the server answered %.80q: %w", reply, EIO)
}

func (c *Client) perms(ctx context.Context, tx uint32, path string) ([]Perm, error) {
	req, err := c.nodeCall(ctx, MsgGetPerms, tx, path, nil)
	if err != nil {
		return nil, opError("get permissions of", path, err)
	}
	perms, err := ParsePerms(req.reply)
	if err != nil {
		err = malformed(req.reply)
	}
	c.release(req)
	return perms, opError("get permissions of", path, err)
}

func (c *Client) setPerms(ctx context.Context, tx uint32, path string, perms []Perm) error {
	const op = "set permissions of"
	if len(perms) == 0 {
		return opError(op, path, fmt.Errorf("no permission given: %w", EINVAL))
	}
	// The special paths have permissions, too: who may watch them.
	if err := CheckWatchPath(path); err != nil {
		return opError(op, path, err)
	}
	return opError(op, path, c.tell(ctx, MsgSetPerms, tx, path, AppendPerms(nil, perms)))
}

// list asks for the children in one message, and in parts where they do not fit one (E2BIG).
func (c *Client) list(ctx context.Context, tx uint32, path string) ([]string, error) {
	req, err := c.nodeCall(ctx, MsgDirectory, tx, path, nil)
	if err == nil {
		names, err := splitNames(req.reply)
		c.release(req)
		return names, opError("list", path, err)
	}
	if e, ok := err.(Errno); !ok || e != E2BIG {
		return nil, opError("list", path, err)
	}
	names, err := c.listParts(ctx, tx, path)
	return names, opError("list", path, err)
}

// splitNames splits the names of children that the server answered.
func splitNames(reply []byte) ([]string, error) {
	names, err := SplitStrings(reply)
	if err != nil {
		return nil, malformed(reply)
	}
	return names, nil
}

// Bounds of a listing in parts. A server that keeps sending parts, or keeps changing its generation, is not followed for ever.
const (
	maxListBytes = 16 << 20
	maxListTries = 64
)

// listParts asks for the children with DIRECTORY_PART, from the start again whenever the node has changed between two parts.
func (c *Client) listParts(ctx context.Context, tx uint32, path string) ([]string, error) {
	for range maxListTries {
		all, same, err := c.listOnce(ctx, tx, path)
		if err != nil {
			return nil, err
		}
		if same {
			return splitNames(all)
		}
	}
	return nil, fmt.Errorf("the node changed %d times while it was listed: %w", maxListTries, ErrConflict)
}

// listOnce collects the parts of one generation, "<gencnt>|<child>|*" each; an empty child marks the end.
func (c *Client) listOnce(ctx context.Context, tx uint32, path string) (all []byte, same bool, err error) {
	var generation []byte
	for len(all) <= maxListBytes {
		tail := append(strconv.AppendInt(nil, int64(len(all)), 10), 0)
		req, err := c.nodeCall(ctx, MsgDirectoryPart, tx, path, tail)
		if err != nil {
			return nil, false, err
		}
		gen, part, ok := bytes.Cut(req.reply, []byte{0})
		gen = bytes.Clone(gen)
		last := len(part) > 0 && part[len(part)-1] == 0 && (len(part) == 1 || part[len(part)-2] == 0)
		if last {
			part = part[:len(part)-1]
		}
		all = append(all, part...)
		progress := len(part) > 0 && part[len(part)-1] == 0
		c.release(req)
		switch {
		case !ok || !last && !progress:
			return nil, false, fmt.Errorf("the part from byte %d on is malformed: %w", len(all), EIO)
		case generation != nil && !bytes.Equal(gen, generation):
			return nil, false, nil
		case last:
			return all, true, nil
		}
		generation = gen
	}
	return nil, false, fmt.Errorf("more than %d bytes of names: %w", maxListBytes, E2BIG)
}

// DomainPath returns the home of a domain as the server says it, "/local/domain/<dom>".
func (c *Client) DomainPath(ctx context.Context, dom hypercall.DomID) (string, error) {
	reply, err := c.domainCall(ctx, MsgGetDomainPath, "get domain path", dom, nil)
	if err != nil {
		return "", err
	}
	path, _, ok := bytes.Cut(reply, []byte{0})
	if !ok || CheckPath(string(path)) != nil {
		return "", opError("get domain path", "", malformed(reply))
	}
	return string(path), nil
}

// IsIntroduced reports whether the server is in connection with a domain. Guests may not be allowed to ask.
func (c *Client) IsIntroduced(ctx context.Context, dom hypercall.DomID) (bool, error) {
	reply, err := c.domainCall(ctx, MsgIsIntroduced, "is introduced", dom, nil)
	if err != nil {
		return false, err
	}
	switch answer, _, _ := bytes.Cut(reply, []byte{0}); string(answer) {
	case "T":
		return true, nil
	case "F":
		return false, nil
	}
	return false, opError("is introduced", "", malformed(reply))
}

// Introduce has the server connect to a domain over the ring page in the domain's frame gfn and the domain's unbound port. Only
// privileged callers may.
func (c *Client) Introduce(ctx context.Context, dom hypercall.DomID, gfn hypercall.GFN, port hypercall.Port) error {
	tail := append(strconv.AppendInt(nil, int64(gfn), 10), 0) // signed, as docs/misc/xenstore.txt has it
	tail = append(strconv.AppendUint(tail, uint64(port), 10), 0)
	return c.tellDomain(ctx, MsgIntroduce, "introduce", dom, tail)
}

// Release has the server give the connection to a domain up. Only privileged callers may.
func (c *Client) Release(ctx context.Context, dom hypercall.DomID) error {
	return c.tellDomain(ctx, MsgRelease, "release", dom, nil)
}

// Resume tells the server that a domain which had shut down, as for a suspend, runs again. Only privileged callers may.
func (c *Client) Resume(ctx context.Context, dom hypercall.DomID) error {
	return c.tellDomain(ctx, MsgResume, "resume", dom, nil)
}

// SetTarget gives a domain (a device model's) the rights of another one, its target. Only privileged callers may.
func (c *Client) SetTarget(ctx context.Context, dom, target hypercall.DomID) error {
	return c.tellDomain(ctx, MsgSetTarget, "set target of", dom, append(strconv.AppendUint(nil, uint64(target), 10), 0))
}

// tellDomain is domainCall for a request whose reply says nothing.
func (c *Client) tellDomain(ctx context.Context, typ MsgType, op string, dom hypercall.DomID, tail []byte) error {
	head := strconv.Itoa(int(dom))
	return opError(op, "domain "+head, c.tell(ctx, typ, 0, head, tail))
}

func (c *Client) domainCall(ctx context.Context, typ MsgType, op string, dom hypercall.DomID, tail []byte) ([]byte, error) {
	head := strconv.Itoa(int(dom))
	req, err := c.call(ctx, typ, 0, head, tail)
	if err != nil {
		return nil, opError(op, "domain "+head, err)
	}
	reply := bytes.Clone(req.reply)
	c.release(req)
	return reply, nil
}

// Control sends a command to the server itself ("log", "memreport", "print", ...), as xenstore-control does, and returns what it
// answers. Commands and their right to be used differ between servers.
func (c *Client) Control(ctx context.Context, args ...string) ([]byte, error) {
	if len(args) == 0 {
		return nil, opError("control", "", fmt.Errorf("no command: %w", EINVAL))
	}
	var tail []byte
	for i, a := range args {
		if bytes.IndexByte([]byte(a), 0) >= 0 {
			return nil, opError("control", "", fmt.Errorf("argument %d has a NUL: %w", i, EINVAL))
		}
		if i > 0 {
			tail = append(append(tail, a...), 0)
		}
	}
	req, err := c.call(ctx, MsgControl, 0, args[0], tail)
	if err != nil {
		return nil, opError("control", "", err)
	}
	reply := bytes.Clone(req.reply)
	c.release(req)
	return reply, nil
}

// ResetWatches has the server forget all watches and transactions of this connection, those of a kernel before this one included. The
// watches of this client end with [ErrReset], but for one that is being made at this moment and that the server makes after the reset;
// transactions under way fail. Servers of before Xen 4.2 do not have it; the node
// control/platform-feature-xs_reset_watches says whether one does.
func (c *Client) ResetWatches(ctx context.Context) error {
	return opError("reset watches", "", c.tell(ctx, MsgResetWatches, 0, "", nil))
}
