// Package mailbox is a small protocol over one shared page, as an example of a driver that is tested in every order of its steps: a sender
// puts messages of up to 60 bytes into eight slots, a receiver takes them out and sleeps when there are none. docs/testing-a-driver.md
// goes through it.
//
// It is the core of a driver: what the two ends do to the page, and when one must tell the other. Granting the page, sending the events
// and waiting for them is left to a shell, which a driver has around it.
package mailbox
