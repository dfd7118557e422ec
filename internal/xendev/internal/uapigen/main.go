// Uapigen asks C compilers how Linux's headers lay out what its Xen devices take, and what the numbers of their requests are, and writes
// the answers to the golden files that the package's tests compare with:
//
//	go run ./internal/uapigen          (in internal/xendev) writes testdata/uapi-x86_64.txt and its like
//	go run ./internal/uapigen -check   compares them with what the compilers say now, and fails if they differ
//
// It needs the headers (Debian: linux-libc-dev) and a compiler for each architecture (package clayout names them).
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvkit/hvkit/internal/clayout"
)

var generator = clayout.Generator{
	Name:    "uapigen",
	What:    "the headers of Linux's Xen devices",
	Prefix:  "uapi",
	Targets: []clayout.Target{clayout.X86_64, clayout.ARM64},
	List:    clayout.List{Structures: structures, Constants: constants},
	Source:  source,
	Headers: prepare,
}

func main() { generator.Main() }

// source has what the headers expect from whoever includes them.
const source = `#include <linux/types.h>
#include <asm-generic/ioctl.h>
typedef uint32_t grant_ref_t;
#include <xen/interface/xen.h>
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>
#include <xen/privcmd.h>
`

// What the headers include beside each other: the kernel's own linux/types.h needs headers of one architecture, and its Xen headers are
// not among those that programs get.
const (
	linuxTypes = "typedef uint8_t __u8; typedef uint16_t __u16; typedef int16_t __s16; typedef uint32_t __u32; typedef uint64_t __u64;\n"
	xenTypes   = "typedef uint16_t domid_t; typedef unsigned long xen_pfn_t;\n"
)

func prepare(dir, include string) error {
	for name, text := range map[string]string{"linux/types.h": linuxTypes, "xen/interface/xen.h": xenTypes} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "asm-generic"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"asm-generic/ioctl.h", "xen/evtchn.h", "xen/gntalloc.h", "xen/gntdev.h", "xen/privcmd.h"} {
		text, err := os.ReadFile(filepath.Join(include, name))
		if err != nil {
			return fmt.Errorf("no headers of Linux's Xen devices (on Debian: apt-get install linux-libc-dev): %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
