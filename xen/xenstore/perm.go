package xenstore

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/hvkit/hvkit/xen/hypercall"
)

// PermAccess says what a domain may do with a node. The values are bits.
type PermAccess uint8

// What a domain may do with a node.
const (
	AccessNone      PermAccess = 0
	AccessRead      PermAccess = 1
	AccessWrite     PermAccess = 2
	AccessReadWrite PermAccess = AccessRead | AccessWrite
)

const accessLetters = "nrwb"

// String returns the letter of the access on the wire: n, r, w or b.
func (a PermAccess) String() string {
	if int(a) < len(accessLetters) {
		return accessLetters[a : a+1]
	}
	return fmt.Sprintf("PermAccess(%d)", uint8(a))
}

// Perm is one entry of a node's permissions. The first entry of a node names its owner, who may do everything; its Access is for all
// domains that have no entry. The others say what their domain may do.
type Perm struct {
	Dom    hypercall.DomID
	Access PermAccess
}

// MaxPerm is the most bytes of a permission in text form, "b65535".
const MaxPerm = 6

// Append appends the text form to b, without a NUL: "n0", "r5", "w3", "b7".
func (p Perm) Append(b []byte) []byte {
	return strconv.AppendUint(append(b, accessLetters[p.Access&AccessReadWrite]), uint64(p.Dom), 10)
}

// String returns the text form.
func (p Perm) String() string { return string(p.Append(nil)) }

// ParsePerm parses the text form: a letter and a decimal domain id of at most five digits.
func ParsePerm(s string) (Perm, error) {
	if len(s) < 2 || len(s) > MaxPerm {
		return Perm{}, permError(s)
	}
	a := bytes.IndexByte([]byte(accessLetters), s[0])
	dom, err := parseDecimal(s[1:], 0xffff)
	if a < 0 || err != nil {
		return Perm{}, permError(s)
	}
	return Perm{hypercall.DomID(dom), PermAccess(a)}, nil
}

func permError(s string) error {
	return fmt.Errorf("xenstore: permission %q is not a letter of %q and a domain id: %w", s[:min(len(s), 80)], accessLetters, EINVAL)
}

// AppendPerms appends the payload form of permissions to b: each in text form with a NUL.
func AppendPerms(b []byte, perms []Perm) []byte {
	for _, p := range perms {
		b = append(p.Append(b), 0)
	}
	return b
}

// ParsePerms parses the payload form, one permission at least.
func ParsePerms(payload []byte) ([]Perm, error) {
	parts, err := SplitStrings(payload)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("xenstore: no permission: %w", EINVAL)
	}
	perms := make([]Perm, len(parts))
	for i, s := range parts {
		if perms[i], err = ParsePerm(s); err != nil {
			return nil, err
		}
	}
	return perms, nil
}

// SplitStrings splits a payload of strings that each end in a NUL. An empty payload has none.
func SplitStrings(payload []byte) ([]string, error) {
	if len(payload) == 0 {
		return nil, nil
	}
	if payload[len(payload)-1] != 0 {
		return nil, fmt.Errorf("xenstore: string without a NUL at its end: %w", EINVAL)
	}
	all := string(payload)
	parts := make([]string, 0, bytes.Count(payload, []byte{0}))
	for start, i := 0, 0; i < len(all); i++ {
		if all[i] == 0 {
			parts = append(parts, all[start:i])
			start = i + 1
		}
	}
	return parts, nil
}

// ParseDomID parses a domain id as messages have it: decimal digits only, at most 65535. Servers in C take more than that; what this
// module sends and takes is always of this form.
func ParseDomID(s string) (hypercall.DomID, error) {
	v, err := parseDecimal(s, 0xffff)
	if err != nil {
		return 0, fmt.Errorf("xenstore: domain id: %w", err)
	}
	return hypercall.DomID(v), nil
}

// ParseUint32 parses a decimal number as messages have it: digits only, no sign, no space, at most 32 bits.
func ParseUint32(s string) (uint32, error) { return parseDecimal(s, 0xffffffff) }

func parseDecimal(s string, max uint64) (uint32, error) {
	if s == "" || len(s) > 10 {
		return 0, fmt.Errorf("xenstore: %q is not a decimal number of at most ten digits: %w", s[:min(len(s), 80)], EINVAL)
	}
	v := uint64(0)
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("xenstore: %q is not a decimal number: %w", s, EINVAL)
		}
		v = v*10 + uint64(s[i]-'0')
	}
	if v > max {
		return 0, fmt.Errorf("xenstore: %s is above %d: %w", s, max, EINVAL)
	}
	return uint32(v), nil
}
