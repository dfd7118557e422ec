// Package clayout asks C compilers how C lays out structures and what its constants are, for the generators of the golden files that
// codecs are tested with. A generator is a [Generator] and a call of its Main:
//
//	go run ./internal/layoutgen          writes testdata/layout-x86_64.txt and its like
//	go run ./internal/layoutgen -check   compares them with what the compilers say now, and fails if they differ
//
// It needs the headers and a compiler for each architecture (Debian: gcc on x86-64, gcc-i686-linux-gnu, gcc-aarch64-linux-gnu).
// Nothing that it compiles is run: the answers are the initialisers of an array in the object file. Tests read the files with [Read].
package clayout
