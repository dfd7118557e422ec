package hypercall

import (
	"io/fs"
	"math"
	"strconv"
)

// GrantStatus is the status of one grant table operation (GNTST_* in public grant_table.h). A hypercall does many operations, and
// succeeds as a call whatever becomes of each.
//
// A GrantStatus is an error, even [StatusOkay]; use [GrantStatus.Err] to turn one into an error that is nil on success.
type GrantStatus int16

// The statuses of grant table operations.
const (
	StatusOkay             GrantStatus = 0
	StatusGeneralError     GrantStatus = -1
	StatusBadDomain        GrantStatus = -2  // no such domain
	StatusBadGntRef        GrantStatus = -3  // no such reference, or not granted to the caller like this
	StatusBadHandle        GrantStatus = -4  // no such mapping
	StatusBadVirtAddr      GrantStatus = -5  // the address to map at, or the mapping's, is wrong
	StatusBadDevAddr       GrantStatus = -6  // the device address to unmap is wrong
	StatusNoDeviceSpace    GrantStatus = -7  // the I/O MMU is full
	StatusPermissionDenied GrantStatus = -8  // not privileged enough
	StatusBadPage          GrantStatus = -9  // the page cannot be used for this
	StatusBadCopyArg       GrantStatus = -10 // a copy crosses a page boundary
	StatusAddressTooBig    GrantStatus = -11 // the page's number is too large
	StatusEagain           GrantStatus = -12 // not done (the page is paged out): try again
	StatusNoSpace          GrantStatus = -13 // out of handles or the like
)

// StatusNotDone is what this package sets statuses to before a call. Xen never answers it. An operation that has it after the call
// was not reached: Xen stopped before it (XSA-318 was such a case, where callers took what happened to be there for success).
const StatusNotDone GrantStatus = math.MinInt16

var grantStatuses = [...]struct{ name, text string }{
	{"GNTST_okay", "okay"},
	{"GNTST_general_error", "undefined error"},
	{"GNTST_bad_domain", "no such domain"},
	{"GNTST_bad_gntref", "bad grant reference"},
	{"GNTST_bad_handle", "bad mapping handle"},
	{"GNTST_bad_virt_addr", "bad address to map at"},
	{"GNTST_bad_dev_addr", "bad device address"},
	{"GNTST_no_device_space", "no space in the I/O MMU"},
	{"GNTST_permission_denied", "permission denied"},
	{"GNTST_bad_page", "bad page"},
	{"GNTST_bad_copy_arg", "copy crosses a page boundary"},
	{"GNTST_address_too_big", "page number too large"},
	{"GNTST_eagain", "not done, try again"},
	{"GNTST_no_space", "out of space"},
}

// Name returns the name of the C macro, such as "GNTST_bad_gntref".
func (s GrantStatus) Name() string {
	if i := -int(s); i >= 0 && i < len(grantStatuses) {
		return grantStatuses[i].name
	}
	return "grant status " + strconv.Itoa(int(s))
}

func (s GrantStatus) Error() string {
	if i := -int(s); i >= 0 && i < len(grantStatuses) {
		return grantStatuses[i].name + " (" + grantStatuses[i].text + ")"
	}
	if s == StatusNotDone {
		return "grant operation not done"
	}
	return s.Name()
}

// Is has errors.Is match EAGAIN and fs.ErrPermission where they say the same.
func (s GrantStatus) Is(target error) bool {
	switch target {
	case EAGAIN:
		return s == StatusEagain
	case fs.ErrPermission:
		return s == StatusPermissionDenied
	}
	return false
}

// Err returns nil if the status is exactly [StatusOkay], and the status otherwise.
func (s GrantStatus) Err() error {
	if s == StatusOkay {
		return nil
	}
	return s
}
