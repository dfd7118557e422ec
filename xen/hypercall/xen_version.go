package hypercall

import (
	"bytes"
	"fmt"
)

// The commands of xen_version(cmd, arg) (XENVER_* in public version.h).
const (
	XenverVersion            = 0
	XenverExtraversion       = 1
	XenverCompileInfo        = 2
	XenverCapabilities       = 3
	XenverChangeset          = 4
	XenverPlatformParameters = 5
	XenverGetFeatures        = 6
	XenverPagesize           = 7
	XenverGuestHandle        = 8
	XenverCommandline        = 9
	XenverBuildID            = 10
)

// Sizes, in bytes, of the texts that xen_version gives.
const (
	ExtraVersionSize = 16
	CapabilitiesSize = 1024
	ChangesetSize    = 64
	CommandLineSize  = 1024
)

// Feature bits of submap 0 (XENFEAT_* in public features.h), as numbers of bits.
const (
	FeatureWritablePageTables    = 0
	FeatureAutoTranslatedPhysmap = 2
	FeaturePAEPgdirAbove4GB      = 4
	FeatureHVMCallbackVector     = 8
	FeatureHVMSafePvclock        = 9
	FeatureHVMPIRQs              = 10
	FeatureDom0                  = 11
	FeatureARMSMCCC              = 14
	FeatureNotDirectMapped       = 16
	FeatureDirectMapped          = 17
)

// FeatureInfo is 32 of Xen's features (struct xen_feature_info).
type FeatureInfo struct {
	SubmapIdx uint32 // in: which
	Submap    uint32 // out
}

func (m *FeatureInfo) layout(c *codec) {
	u32(c, &m.SubmapIdx)
	u32(c, &m.Submap)
}

// CompileInfo says how Xen was built (struct xen_compile_info): texts that end with a zero byte. All members are out.
type CompileInfo struct {
	Compiler      [64]byte
	CompileBy     [16]byte
	CompileDomain [32]byte
	CompileDate   [32]byte
}

func (m *CompileInfo) layout(c *codec) {
	chars(c, m.Compiler[:])
	chars(c, m.CompileBy[:])
	chars(c, m.CompileDomain[:])
	chars(c, m.CompileDate[:])
}

// text is an argument that is an array of char.
type text struct{ b []byte }

func (t *text) Size(ABI) int              { return len(t.b) }
func (t *text) Marshal(_ ABI, b []byte)   { copy(b, t.b) }
func (t *text) Unmarshal(_ ABI, b []byte) { copy(t.b, b) }

// Version returns Xen's version: 4 and 17 for 4.17.
func Version(c Caller) (major, minor uint16, err error) {
	r, err := c.Hypercall(NewCall(NrXenVersion, XenverVersion, 0))
	if err != nil {
		return 0, 0, &OpError{Op: "XENVER_version", Err: err}
	}
	return uint16(r >> 16), uint16(r), nil
}

// ExtraVersion returns the rest of Xen's version: ".5" for 4.17.5.
func ExtraVersion(c Caller) (string, error) {
	return versionText(c, XenverExtraversion, "XENVER_extraversion", ExtraVersionSize)
}

// Capabilities returns which kinds of guests Xen takes, such as "xen-3.0-x86_64 hvm-3.0-x86_64", separated by spaces.
func Capabilities(c Caller) (string, error) {
	return versionText(c, XenverCapabilities, "XENVER_capabilities", CapabilitiesSize)
}

// Changeset returns which source Xen was built from.
func Changeset(c Caller) (string, error) {
	return versionText(c, XenverChangeset, "XENVER_changeset", ChangesetSize)
}

func versionText(c Caller, cmd uint64, name string, size int) (string, error) {
	t := text{make([]byte, size)}
	if _, err := do(c, NrXenVersion, cmd, &t); err != nil {
		return "", &OpError{Op: name, Err: err}
	}
	return CString(t.b), nil
}

// CString returns the text in b up to the first zero byte, or all of it.
func CString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// QueryCompileInfo returns how Xen was built.
func QueryCompileInfo(c Caller) (CompileInfo, error) {
	var info CompileInfo
	if _, err := do(c, NrXenVersion, XenverCompileInfo, &info); err != nil {
		return CompileInfo{}, &OpError{Op: "XENVER_compile_info", Err: err}
	}
	return info, nil
}

// Features returns 32 of Xen's features as it offers them to the caller; submap 0 has those that are named here.
func Features(c Caller, submap uint32) (uint32, error) {
	op := FeatureInfo{SubmapIdx: submap}
	if _, err := do(c, NrXenVersion, XenverGetFeatures, &op); err != nil {
		return 0, &OpError{Op: "XENVER_get_features", On: fmt.Sprintf("submap %d", submap), Err: err}
	}
	return op.Submap, nil
}
