// Package terminal has what a command prints for people: a progress bar, tables, and numbers of bytes.
package terminal
