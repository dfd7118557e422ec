// Layoutgen asks C compilers how Xen's public headers lay out what package hypercall has codecs and constants for, and writes the
// answers to the golden files that the package's tests compare with:
//
//	go run ./internal/layoutgen          (in xen/hypercall) writes testdata/layout-x86_64.txt and its like
//	go run ./internal/layoutgen -check   compares them with what the compilers say now, and fails if they differ
//
// It needs the headers (Debian: libxen-dev) and a compiler for each architecture (package clayout names them).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvkit/hvkit/internal/clayout"
)

var generator = clayout.Generator{
	Name:    "layoutgen",
	What:    "Xen's public headers",
	Prefix:  "layout",
	Targets: []clayout.Target{clayout.X86_64, clayout.X86_32, clayout.ARM64},
	List:    clayout.List{Structures: structures, Constants: constants},
	Source:  source(),
	Headers: linkHeaders,
}

func main() { generator.Main() }

// source includes the headers. Only the hypervisor and its tools get the latest interface; a guest says which one it wants.
func source() string {
	var b strings.Builder
	b.WriteString("#define __XEN_TOOLS__ 1\n") // domctl.h is for a control domain's tools
	b.WriteString("#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__\n")
	for _, h := range headers {
		fmt.Fprintf(&b, "#include <xen/%s>\n", h)
	}
	// A domain of 32 bits has a name for this, which tools have not.
	b.WriteString("#if defined(__i386__) && !defined(xen_wc_sec_hi)\n#define xen_wc_sec_hi arch.wc_sec_hi\n#endif\n")
	return b.String()
}

func linkHeaders(dir, include string) error {
	xen, err := filepath.Abs(filepath.Join(include, "xen"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(xen, "xen.h")); err != nil {
		return fmt.Errorf("no public headers of Xen (on Debian: apt-get install libxen-dev): %w", err)
	}
	return os.Symlink(xen, filepath.Join(dir, "xen"))
}
